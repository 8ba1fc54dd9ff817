"""The runs of a team from all its sources: each once, what cannot be right left out and counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path

from computemeter.peak_files import user_file
from computemeter.reading import NoMemory, Request, Skipped
from computemeter.records import RunRecord
from computemeter.segments import merge
from computemeter.sinks import describe, redact
from computemeter.sources import SourceError, read, tracker_of
from computemeter.trend.cache import RunCache
from computemeter.trend.estimated import ASSUMPTION, assumed_hardware
from computemeter.trend.garbage import no_garbage

Warn = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]
"""Takes a source without its credentials, the runs read of it, and how many it has if known."""

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
"""A run that began before has a clock that was never set: 1970 is what such a clock says."""

NO_DATE = "with no date that can be right (before 2000, or in the future)"
NO_TOTAL = "with no total that can be read (missing, negative, not finite, or above 1e40 FLOP)"
OVERCLAIMS = "which claim more than devices x time x peak allow: a count or a peak is wrong"
ENDS_FIRST = "with an end before the start: the end is left out"

_CLOCKS_DIFFER = 86_400.0
_LONGEST_TEXT = 250
_NAMED = 10
_TEXTS = ("name", "user", "project", "team", "device_name", "category")
_texts = attrgetter(*_TEXTS)


@dataclass(frozen=True, slots=True)
class Collection:
    """What was read, and what was not.

    Attributes:
        records: in the order they started; every one has a `started`.
        skipped: runs, or whole sources, that are not among the records.
        marked: runs that are, with something wrong about them.
        filtered: runs that the filters left out.
        notes: sentences on what the records rest on.
    """

    records: list[RunRecord]
    skipped: tuple[Skipped, ...] = ()
    marked: tuple[Skipped, ...] = ()
    filtered: int = 0
    notes: tuple[str, ...] = ()


@no_garbage()
def collect(
    sources: Iterable[str | Path],
    *,
    since: float | None = None,
    user: str | None = None,
    project: str | None = None,
    tags: Iterable[str] = (),
    assume_device: str | None = None,
    include_estimated: bool = True,
    cache: bool = True,
    warn: Warn = lambda _message: None,
    progress: Progress = lambda _source, _done, _total: None,
) -> Collection:
    """Read the runs of all sources.

    Args:
        sources: see `computemeter.sources.read`.
        since: leave out runs that started before it, in seconds since the epoch.
        user: leave out other users' runs; the whole name.
        project: the same for projects.
        tags: each "key=value", or "key" for any value; a run must have all of them.
        assume_device: what runs ran on that no meter watched and whose tracker does not say:
            "4xA100". What a tracker says comes first.
        include_estimated: with runs that no meter watched, estimated (`RunRecord.estimated`).
        cache: keep what a tracker told of runs that have ended, and do not ask for it again; see
            `computemeter.trend.cache` and the readers for what that relies on.
        warn: takes one line for each file or value that is left out.
        progress: called every now and then.

    Raises:
        SourceError: a source that is none, or none of the sources can be read.
        ValueError: `assume_device` is not known.
    """
    if assume_device is not None:
        assumed_hardware(assume_device)
    skipped: Counter[str] = Counter()
    request = Request(
        unmetered=include_estimated,
        assume_device=assume_device,
        since=since,
        skip=lambda reason, count: skipped.update({reason: count}),
    )
    marked: Counter[str] = Counter()
    found = _read_all([str(each) for each in sources], request, cache, warn, progress)
    sound, pairs = _sound(merge(found), skipped, marked), tag_pairs(tags)
    kept = [run for run in sound if is_wanted(run, since, user, project, pairs)]
    marked[OVERCLAIMS] += sum(run.overclaims for run in kept)
    return Collection(
        records=sorted(kept, key=attrgetter("started", "run_id")),
        skipped=_listed(skipped),
        marked=_listed(marked),
        filtered=len(sound) - len(kept),
        notes=(
            *((ASSUMPTION,) if any(run.estimated for run in kept) else ()),
            *nobodys(sound, user=user, project=project),
        ),
    )


def _read_all(
    sources: Sequence[str], request: Request, cache: bool, warn: Warn, progress: Progress
) -> list[RunRecord]:
    found: list[RunRecord] = []
    failures: list[SourceError] = []
    for source in sources:
        try:
            found += read_cached(source, request, cache=cache, warn=warn, progress=progress)
        except SourceError as error:
            failures.append(error)
            request.skip(f"source that could not be read: {error}", 1)
    if failures and len(failures) == len(sources):
        raise failures[0]
    return found


def read_cached(
    source: str,
    request: Request,
    *,
    cache: bool = True,
    warn: Warn = lambda _message: None,
    progress: Progress = lambda _source, _done, _total: None,
) -> list[RunRecord]:
    """Read the runs of one source as `computemeter.sources.read` does, those of trackers cached.

    The arguments are those of `collect`; the cache is shared where the requests are alike.

    Raises:
        SourceError: for what is no source or cannot be read.
    """
    memory = _memory(source, request) if cache and tracker_of(source) else None
    shown = redact(source)
    found = read(
        source,
        replace(
            request,
            memory=memory or NoMemory(),
            progress=lambda done, total: progress(shown, done, total),
        ),
        warn=warn,
    )
    if memory is not None:
        try:
            memory.save()
        except OSError as error:
            warn(f"the next collection reads all of {shown} again: {describe(error)}")
    return found


def _memory(source: str, request: Request) -> RunCache:
    # Estimates depend on the options, and on the peaks of the user's own table.
    options = (request.unmetered, request.assume_device, user_file()) if request.unmetered else ()
    return RunCache(source, repr(options))


def _sound(
    records: Iterable[RunRecord], skipped: Counter[str], marked: Counter[str]
) -> list[RunRecord]:
    latest = time.time() + _CLOCKS_DIFFER
    sound = []
    for record in records:
        dated = _dated(record, latest)
        if dated is None:
            skipped[NO_DATE] += 1
        elif dated.run_flops is None and dated.spent_flops is None and not dated.gpu_time_flops:
            skipped[NO_TOTAL] += 1
        else:
            sound.append(dated)
            marked[ENDS_FIRST] += dated.ended is None and _ends_first(record)
    return sound


def _dated(record: RunRecord, latest: float) -> RunRecord | None:
    """Return the record with dates that can be right and texts that can be shown, or None."""
    long = [text for text in _texts(record) if text and len(text) > _LONGEST_TEXT]
    changes: dict[str, object] = _shortened(record) if long else {}
    # A receipt knows when it was written alone.
    started = record.ended if record.started is None else record.started
    if started is None or not EARLIEST <= started <= latest:
        return None
    if started != record.started:
        changes["started"] = started
    if _ends_first(record) or (record.ended or 0.0) > latest:
        changes["ended"] = None
    return replace(record, **changes) if changes else record  # type: ignore[arg-type]


def _shortened(record: RunRecord) -> dict[str, object]:
    return {
        name: f"{text[: _LONGEST_TEXT - 1]}…" if text and len(text) > _LONGEST_TEXT else text
        for name, text in zip(_TEXTS, _texts(record), strict=True)
    }


def _ends_first(record: RunRecord) -> bool:
    started, ended = record.started, record.ended
    return started is not None and ended is not None and ended < started


def is_wanted(
    run: RunRecord,
    since: float | None,
    user: str | None,
    project: str | None,
    tags: Mapping[str, str | None],
) -> bool:
    """Say whether a run is asked for; the arguments are those of `collect`, see `tag_pairs`."""
    return (
        (since is None or (run.started is not None and run.started >= since))
        and (user is None or run.user == user)
        and (project is None or run.project == project)
        and all(key in run.tags and value in {None, run.tags[key]} for key, value in tags.items())
    )


def nobodys(runs: Sequence[RunRecord], **wanted: str | None) -> list[str]:
    """Say which of the wanted names no run has, and which there are: a filter may be mistyped.

    Args:
        runs: all that were read.
        wanted: the name of an attribute with its value; None where every value will do.
    """
    told = []
    for attribute, value in wanted.items():
        if value is None:
            continue
        there = sorted({name for run in runs if (name := getattr(run, attribute))})
        if value not in there:
            some = ", ".join(there[:_NAMED]) or "none with a name"
            more = f" and {len(there) - _NAMED:,} more" if len(there) > _NAMED else ""
            told.append(f"no run has the {attribute} {value!r}; there are {some}{more}")
    return told


def tag_pairs(tags: Iterable[str]) -> dict[str, str | None]:
    """Take "key=value" and "key" apart, which stands for any value.

    >>> tag_pairs(["team=audio", "final"])
    {'team': 'audio', 'final': None}
    """
    pairs = (tag.partition("=") for tag in tags)
    return {key: value if sign else None for key, sign, value in pairs}


def _listed(counts: Counter[str]) -> tuple[Skipped, ...]:
    return tuple(Skipped(reason, count) for reason, count in counts.most_common() if count)


def parse_since(text: str) -> float:
    """Read a day ("2026-01-31", UTC), a moment in ISO form, or an age ("90d"), as `since`.

    Raises:
        ValueError: it is none of these.
    """
    if text.endswith("d") and text[:-1].isdecimal():
        return time.time() - 86_400.0 * int(text[:-1])
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise ValueError(f"{text!r}: accepted is a day such as 2026-01-31, or an age such as 90d")
