"""What the trend page draws, as plain data: which runs have a place on the chart, and why not.

A page holds up to 100,000 runs, so runs are stored by column, texts once in a dictionary, and
numbers with four digits.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from computemeter.loss_curve import LossCurve
from computemeter.records import RunRecord
from computemeter.sinks import redact
from computemeter.trend.fit import TrendFit, TrendPoint, choose
from computemeter.trend.garbage import no_garbage
from computemeter.trend.reference import Reference
from computemeter.trend.rollups import is_estimated

Kind = Literal["metered", "estimated", "overclaiming"]

LONGEST_LABEL = 80
# No machine of this century does more; a total beyond it is a mistake.
_LARGEST = 10**36
_EARLIEST = 631_152_000.0  # 1990-01-01
_CLOCK_ERROR = 2 * 86_400.0
_KINDS: tuple[Kind, ...] = ("metered", "estimated", "overclaiming")
_PLAIN = re.compile(r"[\w.,:+()-]+", re.ASCII)
_SUSPECT = ("count_suspect", "peak_suspect")


class Dot(NamedTuple):
    """A run with its place on the chart.

    Attributes:
        run: the record.
        when: its start, seconds since the epoch.
        flops: run compute; of an estimated run method 2.
        kind: "estimated" where method 2 is all that is known of it, "overclaiming" where it claims
            more than its devices can do.
    """

    run: RunRecord
    when: float
    flops: float
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Everything that the page and the still show.

    Attributes:
        dots: from `place`.
        left_out: how many runs have no place, by reason.
        records: all runs, for the roll-ups.
        frontier: which of the runs are fitted; see `computemeter.trend.fit.choose`.
        include_estimated: whether estimated runs are fitted too.
        notes: sentences on what the records rest on.
        fit: the fit, or why there is none.
        sources: what was read, without credentials.
        reference: published models, from a file of the user's.
        curves: loss against compute of some runs.
        curves_note: says why there are no curves, or of which runs.
        appendix: whether the page opens with the published results of 2018.
        thresholds: whether it opens with the lines of 1e23, 1e25 and 1e26 FLOP.
        title: of the page (untrusted text).
        made: seconds since the epoch.
    """

    dots: Sequence[Dot]
    left_out: Mapping[str, int]
    records: Sequence[RunRecord]
    frontier: str
    fit: TrendFit | str
    include_estimated: bool = False
    notes: Sequence[str] = ()
    sources: Sequence[str] = ()
    reference: Reference | None = None
    curves: Sequence[LossCurve] = ()
    curves_note: str = ""
    appendix: bool = False
    thresholds: bool = False
    title: str = "Compute per training run"
    made: float = field(default_factory=time.time)

    @property
    def fitted(self) -> list[int]:
        """Positions of the dots that the fit was made on."""
        chosen = choose(fit_points(self.dots, self.include_estimated), self.frontier)
        return sorted(int(point.label) for point in chosen)


@no_garbage()
def place(
    records: Iterable[RunRecord], *, now: float | None = None
) -> tuple[list[Dot], Counter[str]]:
    """Find each run's place on the chart, or the reason why it has none."""
    now = time.time() if now is None else now
    dots: list[Dot] = []
    left_out: Counter[str] = Counter()
    for run in records:
        dot = _place(run, now)
        if isinstance(dot, str):
            left_out[dot] += 1
        else:
            dots.append(dot)
    return dots, left_out


@no_garbage()
def fit_points(dots: Sequence[Dot], include_estimated: bool) -> list[TrendPoint]:
    """Return what may be fitted, each labelled with its position among the dots."""
    kinds = {"metered", "estimated"} if include_estimated else {"metered"}
    return [
        TrendPoint(dot.when, dot.flops, dot.run.project or "", str(position))
        for position, dot in enumerate(dots)
        if dot.kind in kinds
    ]


def label(text: str | None, longest: int = LONGEST_LABEL) -> str:
    r"""Write a text on one line of at most 80 characters, without credentials or controls.

    >>> label("a\n" + 100 * "b")[:4], len(label(100 * "b"))
    ('a bb', 80)
    """
    if text and len(text) <= longest and _PLAIN.fullmatch(text):  # as most are
        return text
    # Cut before it is searched for credentials: names of megabytes have been seen.
    words = " ".join(redact((text or "")[: 8 * longest]).split())
    shown = "".join(
        letter if letter.isprintable() or letter == "\N{ZERO WIDTH JOINER}" else "\ufffd"
        for letter in words
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def columns(dots: Sequence[Dot]) -> dict[str, Any]:
    """Write the dots as columns."""
    runs = [dot.run for dot in dots]
    pages = [_page(run.url) for run in runs]
    texts: dict[str, list[str | None]] = {
        "user": [run.user for run in runs],
        "project": [run.project for run in runs],
        "team": [run.team for run in runs],
        "device": [run.device_name for run in runs],
        "status": [*(run.status for run in runs)],
        "verdict": [*(run.verdict for run in runs)],
        "cause": [*(run.cause for run in runs)],
        "source": [*(run.source for run in runs)],
    }
    return {
        "n": len(dots),
        "name": [label(run.name) or label(run.run_id) for run in runs],
        "started": [round(dot.when) for dot in dots],
        "seconds": [_duration(run) for run in runs],
        "flops": [_number(dot.flops) for dot in dots],
        "kind": [_KINDS.index(dot.kind) for dot in dots],
        "spent": [_number(run.spent_flops) for run in runs],
        "lineage": _sparse([_number(run.lineage_flops) for run in runs]),
        "gpu": [_number(run.gpu_time_flops) for run in runs],
        "ratio": [_number(run.ratio) for run in runs],
        "mfu": [_number(run.mfu) for run in runs],
        "deviceSeconds": [_number(run.device_seconds) for run in runs],
        "devices": [run.device_count for run in runs],
        "segments": [run.segments for run in runs],
        "steps": [run.steps for run in runs],
        "flagged": [position for position, run in enumerate(runs) if is_flagged(run)],
        "page": [tail for _, tail in pages],
        "pages": _coded([start for start, _ in pages], as_label=False),
        "texts": {name: _coded(values) for name, values in texts.items()},
    }


def is_flagged(run: RunRecord) -> bool:
    """Tell whether a run's count or peak is to be looked into."""
    return run.verdict in {"warn", "alarm"} and run.cause in _SUSPECT


def pack(data: Mapping[str, Any]) -> str:
    """Write data as text that no HTML can be in: base64 of gzip of JSON."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 5, mtime=0)).decode()


def _place(run: RunRecord, now: float) -> Dot | str:
    flops = run.run_flops
    kind: Kind = "overclaiming" if run.overclaims else "metered"
    if is_estimated(run):
        flops, kind = run.gpu_time_flops, "estimated"
    if flops is None:
        return "whose compute is not known"
    if flops <= 0:
        return "with 0 FLOP or fewer, which have no place on a logarithmic scale"
    if flops > _LARGEST:
        return "with more FLOP than any machine could do"
    if run.started is None:
        return "of which the start is not known"
    if not _EARLIEST <= run.started <= now + _CLOCK_ERROR:
        return "which started before 1990 or in the future: a clock is wrong"
    return Dot(run, run.started, float(flops), kind)


def _duration(run: RunRecord) -> float | None:
    if run.started is None or run.ended is None or run.ended < run.started:
        return None
    return _number(run.ended - run.started)


def _number(value: float | None) -> float | None:
    """Keep four digits; None for what is no finite number."""
    if value is None or not -_LARGEST < value < _LARGEST:
        return None
    return float(f"{value:.4g}")


def _sparse(values: Sequence[float | None]) -> list[tuple[int, float]]:
    return [(position, value) for position, value in enumerate(values) if value is not None]


def _coded(values: Sequence[str | None], *, as_label: bool = True) -> dict[str, Any]:
    """Write texts as a dictionary and positions in it; position 0 is what is not known."""
    positions: dict[str | None, int] = {None: 0, "": 0}
    words = [""]
    for value in values:
        if value not in positions:
            positions[value] = len(words)
            words.append(label(value) if as_label else str(value))
    return {"words": words, "at": [positions[value] for value in values]}


def _page(url: str | None) -> tuple[str, str]:
    """Split the address of a run's page into what many share and the rest; no other scheme."""
    start, _, tail = (url or "").rpartition("/")
    shared = _shared(start)
    return (shared, tail.partition("?")[0]) if shared and tail.isascii() else ("", "")


@lru_cache(maxsize=4096)
def _shared(start: str) -> str:
    try:
        parts = urlsplit(start)
        if parts.scheme not in {"http", "https"} or not parts.hostname or not start.isascii():
            return ""
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]  # without a user and password
    return f"{parts._replace(netloc=host, query='').geturl()}/"
