"""Bring a trend's page and picture to a tracker, where the team looks anyway.

A tracker's part is found by name through the entry-point group `computemeter.publishers`; each
entry is a function `publish(uri, publication, *, warn) -> str`, which keeps the files in a run of
their own, the same one each time, that no reader of the tracker takes for a training run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from computemeter.sinks import redact
from computemeter.sources import SourceError, ask_tracker, tracker_of
from computemeter.trend.page_data import Trend
from computemeter.trend.words import headline

PUBLISHERS = "computemeter.publishers"

_ACCEPTED = "accepted is a tracker's URI, such as https://host or wandb://entity/project"


@dataclass(frozen=True, slots=True)
class Publication:
    """What a tracker gets.

    Attributes:
        title: of the page; another title is another publication, with a run of its own.
        headline: what was found, in one sentence.
        files: the page and the picture, which are there until `publish` returns.
    """

    title: str
    headline: str
    files: Sequence[Path]

    @property
    def key(self) -> str:
        """What the run is found by again: of a few letters, whatever the title holds.

        >>> Publication("Speech", "", ()).key
        'trend-3565fcc6'
        """
        digest = hashlib.sha256(self.title.encode(errors="replace")).hexdigest()
        return f"trend-{digest[:8]}"


def destination(sources: Sequence[str], to: str | None) -> str:
    """Return the URI of the tracker to publish to: the one asked for, else the first source's.

    Raises:
        SourceError: it is no tracker's, or none of the sources is a tracker.

    >>> destination(["runs/compute_ledger", "wandb://ann/speech"], None)
    'wandb://ann/speech'
    """
    uri = to if to is not None else next(filter(tracker_of, sources), None)
    if uri is None:
        raise SourceError(
            f"--publish: none of the sources is a tracker; --to names one: {_ACCEPTED}"
        )
    if tracker_of(uri) is None:
        raise SourceError(f"--to {redact(uri)}: {_ACCEPTED}")
    if "://***@" in uri:
        raise SourceError(f"--to {uri}: put your user name and password in place of ***")
    return uri


def publish(drawn: Trend, uri: str, *, warn: Callable[[str], None]) -> str:
    """Draw a trend and bring it to a tracker; returns where it is, in a few words.

    Args:
        drawn: the trend.
        uri: of `destination`.
        warn: takes one line for what is not as it should be.

    Raises:
        SourceError: the tracker does not answer, needs a login, or does not take it.
    """
    from computemeter.trend.page import page
    from computemeter.trend.still import still

    with TemporaryDirectory() as folder:
        files = Path(folder, "trend.html"), Path(folder, "trend.png")
        for path, figure in zip(files, (page(drawn), still(drawn, "png")), strict=True):
            path.write_bytes(figure)
        what = Publication(drawn.title, headline(drawn.fit), files)
        where: str = ask_tracker(PUBLISHERS, tracker_of(uri) or "", uri, what, warn=warn)
    return where
