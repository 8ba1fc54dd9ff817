"""The ledger: the truth about a run on disk, which the trackers only mirror.

One JSON-lines file per segment (one launch): a header, progress records, events, an end. Values in
a progress record are totals of the segment so far, so the last one that can be read says it all.
docs/ledger.md describes every field for other tools; `computemeter.ledger_writer` writes it.

The `totals` of a progress record are those of `computemeter.records.SegmentTotals`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from computemeter._version import __version__

SCHEMA = 1
"""The schema this version writes, and the newest it reads."""

FOLDER = "compute_ledger"
"""Where ledgers are, beside the run."""

# No header is longer; without a bound, a file of something else would be read to its end.
_LONGEST_HEADER = 1 << 20
_HEADER_TYPES: Mapping[str, Any] = {
    "schema": int,
    "segment": str,
    "run": str,
    "started": (int, float),
}
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError)


class LedgerError(ValueError):
    """A file that is no ledger this version can read; the message is one line for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerHeader:
    """What is known of a segment when it starts.

    Attributes:
        segment: this segment's id, see `computemeter.ledger_writer.new_segment_id`.
        run: the run's id: the tracker's, or the first segment's where there is no tracker.
        parent: the segment this one resumes; None for a first launch.
        started: seconds since the epoch.
        name: the run's name (untrusted text).
        user: who started it (untrusted text).
        project: from `project=`.
        team: from `team=`.
        category: from `category=`; None in a ledger of before there were any.
        device_name: as the framework reports it.
        device_count: devices the run trains on.
        peak_flops: dense peak of one device in FLOP/s; None where it is not known (yet).
        assumed_utilization: the share of peak that method 2 assumes.
        base_flops: compute of the model this run started from; None where there is none or it is
            not known.
        base_model: the name of that model.
        base_receipt: the hash of its compute receipt.
        trackers: the run's id in each tracker, by name of the sink.
        version: of computemeter.
        schema: of the file.
    """

    segment: str
    run: str
    started: float
    name: str = ""
    parent: str | None = None
    user: str | None = None
    project: str | None = None
    team: str | None = None
    category: str | None = None
    device_name: str | None = None
    device_count: int | None = None
    peak_flops: float | None = None
    assumed_utilization: float | None = None
    base_flops: int | None = None
    base_model: str | None = None
    base_receipt: str | None = None
    trackers: Mapping[str, str] = field(default_factory=dict)
    version: str = __version__
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Progress:
    """The totals of a segment at one logging step.

    Attributes:
        step: the tracker's step.
        time: seconds since the epoch; the same as in the trackers, which makes a replay idempotent.
        totals: of this segment, see the module.
        metrics: as sent to the trackers; None stands for NaN and the infinities.
    """

    step: int
    time: float
    totals: Mapping[str, Any]
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        name: "verdict", "warning", ...: what kind of thing.
        time: seconds since the epoch.
        facts: what is said of it.
    """

    name: str
    time: float
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """How a segment ended.

    Attributes:
        status: "finished", "failed" or "interrupted".
        time: seconds since the epoch.
        summary: the fields of `computemeter.Summary`.
    """

    status: str
    time: float
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ledger:
    """One segment as read from its file.

    Attributes:
        header: the first line.
        progress: in the order of writing.
        events: in the order of writing.
        end: the last line; None where the segment was killed or still runs.
        torn: the last line was cut off, as a kill or a full disk leaves it.
        skipped: other lines that could not be read.
    """

    header: LedgerHeader
    progress: tuple[Progress, ...] = ()
    events: tuple[Event, ...] = ()
    end: End | None = None
    torn: bool = False
    skipped: int = 0

    @property
    def status(self) -> str:
        """How it ended: "finished", "failed" or "interrupted"; "unknown" without an end record."""
        return self.end.status if self.end else "unknown"

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """The summary of the end record; None without one."""
        return self.end.summary if self.end else None

    @property
    def last_totals(self) -> Mapping[str, Any]:
        """The newest totals; empty for a segment that ended before its first progress record."""
        return self.progress[-1].totals if self.progress else MappingProxyType({})

    @property
    def last_time(self) -> float:
        """When its last record was written, in seconds since the epoch."""
        if self.end is not None:
            return self.end.time
        times = (each.time for records in (self.progress, self.events) for each in records)
        return max(times, default=self.header.started)


def read_ledger(path: str | Path) -> Ledger:
    """Read the ledger of one segment, finished, killed or still being written.

    Raises:
        LedgerError: for a file that is no ledger, has no header or a newer schema.
        OSError: for a file that cannot be opened.
    """
    records: list[Progress | Event | End | None] = []
    torn, skipped = False, 0
    with Path(path).open("rb") as file:
        header = _header(file.readline(_LONGEST_HEADER), Path(path))
        for line in file:
            try:
                records.append(_record(line))
            except _UNREADABLE:
                # Only the last line can lack its end.
                torn = not line.endswith(b"\n")
                skipped += not torn
    ends = [record for record in records if isinstance(record, End)]
    return Ledger(
        header=header,
        progress=tuple(record for record in records if isinstance(record, Progress)),
        events=tuple(record for record in records if isinstance(record, Event)),
        end=ends[-1] if ends else None,
        torn=torn,
        skipped=skipped,
    )


def _header(line: bytes, path: Path) -> LedgerHeader:
    if not line.strip():
        raise LedgerError(f"{path}: no header, the file is empty")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        cut = line.startswith(b'{"kind":"header"')
        why = "no header, its line was cut short" if cut else "not a ledger, no line of JSON"
        raise LedgerError(f"{path}: {why}") from None
    if not isinstance(record, dict) or record.get("kind") != "header":
        raise LedgerError(f"{path}: no header in the first line, so it is not a ledger")
    return _checked_header(record, path)


def _checked_header(record: Mapping[str, Any], path: Path) -> LedgerHeader:
    for name, kind in _HEADER_TYPES.items():
        if not isinstance(record.get(name), kind):
            raise LedgerError(f"{path}: not a ledger, its header has no valid {name!r}")
    if record["schema"] > SCHEMA:
        raise LedgerError(
            f"{path}: written in schema {record['schema']} by computemeter "
            f"{record.get('version')}, this version reads up to {SCHEMA}: upgrade computemeter"
        )
    known = {each.name for each in fields(LedgerHeader)}
    return LedgerHeader(**{name: value for name, value in record.items() if name in known})


def _record(line: bytes) -> Progress | Event | End | None:
    """Read one line; None for an empty one and a kind that a later version added."""
    if not line.strip():
        return None
    record = json.loads(line)
    match record["kind"]:
        case "progress":
            totals, metrics = dict(record["totals"]), dict(record["metrics"])
            return Progress(int(record["step"]), float(record["time"]), totals, metrics)
        case "event":
            return Event(str(record["name"]), float(record["time"]), dict(record["facts"]))
        case "end":
            return End(str(record["status"]), float(record["time"]), dict(record["summary"]))
    return None
