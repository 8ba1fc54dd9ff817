"""The ledger: the truth about a run on disk, which the trackers only mirror.

One JSON-lines file per segment (one launch): a header, progress records, events, an end. Values in
a progress record are totals of the segment so far, so the last one that can be read says it all.
docs/ledger.md describes every field for other tools.

The `totals` of a progress record are those of `computemeter.records.SegmentTotals`.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import threading
import time as clock
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from computemeter._version import __version__

try:
    import fcntl
except ModuleNotFoundError:  # no locks on Windows
    fcntl = None  # type: ignore[assignment]

SCHEMA = 1
"""The schema this version writes, and the newest it reads."""

FOLDER = "compute_ledger"
"""Where ledgers are, beside the run."""

_SECONDS_BETWEEN_SYNCS = 30.0
_LINES_KEPT = 1000
"""Lines that a full disk has not taken; they are written when it has room again."""
# No header is longer; without a bound, a file of something else would be read to its end.
_LONGEST_HEADER = 1 << 20
_HEADER_TYPES: Mapping[str, Any] = {
    "schema": int,
    "segment": str,
    "run": str,
    "started": (int, float),
}
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
# ASCII only: a lone surrogate in a run's name would otherwise not encode.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class LedgerError(ValueError):
    """A file that is no ledger this version can read; the message is one line for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerHeader:
    """What is known of a segment when it starts.

    Attributes:
        segment: this segment's id, see `new_segment_id`.
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
    """Something that happened (a verdict, a warning); `time` in seconds since the epoch."""

    name: str
    time: float
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """How a segment ended; `time` in seconds since the epoch, `summary` as in `Summary`."""

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


def new_segment_id() -> str:
    """Make an id that sorts by time and is unique across machines.

    It has no dots, which W&B would take for nesting, and draws from the operating system: the
    user's random state is not touched.
    """
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}"


class LedgerWriter:
    """Writes one segment. Every method may raise OSError, and none damages what is written.

    Records are handed to the operating system at once, so a killed process loses none, and
    to the disk every 30 s, so a machine that loses power loses at most that. What a full disk does
    not take is kept and tried again with the next record.
    """

    def __init__(self, path: Path) -> None:
        """Create the file; FileExistsError where there is one. Use `open`."""
        self.path = path
        # Unbuffered: a buffer would keep a line that failed and write it again at some later time.
        self._file = path.open("xb", buffering=0)
        _lock(self._file.fileno())
        # Sinks warn from their own threads. Reentrant: a signal handler may log, too.
        self._lock = threading.RLock()
        self._lines: deque[bytes] = deque(maxlen=_LINES_KEPT)
        self._torn = False
        self._synced = clock.monotonic()
        self._syncing: threading.Thread | None = None

    @classmethod
    def open(cls, folder: Path, header: LedgerHeader) -> Self:
        """Start the ledger of a segment in `folder`, which is made where it is missing.

        Raises:
            OSError: where the folder or file cannot be written.
            FileExistsError: where this segment has a ledger: two processes never share one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        writer = cls(folder / f"{header.segment}.jsonl")
        try:
            writer._write("header", **_fields(header))
        except OSError:
            # Without a header it is no ledger, and a later attempt may use the name.
            writer._file.close()
            writer.path.unlink(missing_ok=True)
            raise
        return writer

    def progress(
        self, step: int, time: float, totals: Mapping[str, object], metrics: Mapping[str, float]
    ) -> None:
        """Record the segment's totals and what the trackers get at this step."""
        self._write("progress", step=step, time=time, totals=dict(totals), metrics=dict(metrics))

    def event(self, name: str, time: float, **facts: object) -> None:
        """Record something that happened."""
        self._write("event", name=name, time=time, facts=facts)

    def end(self, status: str, time: float, summary: Mapping[str, object]) -> None:
        """Record how the segment ended; a last `progress` comes before it."""
        self._write("end", status=status, time=time, summary=dict(summary))

    def sync(self) -> None:
        """Wait until the disk has everything."""
        with self._lock:
            self._synced = clock.monotonic()  # first: a disk that fails is not asked at every step
            os.fsync(self._file.fileno())

    def _sync_behind(self) -> None:
        """Have the disk take everything while the training goes on: a slow one takes seconds."""
        self._synced = clock.monotonic()
        if self._syncing is None or not self._syncing.is_alive():
            # A descriptor of its own: the file may be closed in the meantime.
            own = os.dup(self._file.fileno())
            self._syncing = threading.Thread(target=_sync, args=(own,), daemon=True)
            self._syncing.start()

    def close(self) -> None:
        """Sync and close; a second time does nothing."""
        with self._lock:
            if self._file.closed:
                return
            try:
                self._append_lines()
                self.sync()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, kind: str, **record: object) -> None:
        line = _to_json({"kind": kind, **record}).encode() + b"\n"
        with self._lock:
            self._lines.append(line)
            self._append_lines()
            if clock.monotonic() - self._synced >= _SECONDS_BETWEEN_SYNCS:
                self._sync_behind()

    def _append_lines(self) -> None:
        while self._lines:
            # After a line that was cut short, a new line keeps the next one readable.
            self._append(b"\n" + self._lines[0] if self._torn else self._lines[0])
            self._lines.popleft()

    def _append(self, data: bytes) -> None:
        self._torn = True
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        self._torn = False


def is_being_written(path: str | Path) -> bool:
    """Say whether a process of this machine has the ledger open, as far as that can be known.

    Raises:
        OSError: for a file that cannot be opened.
    """
    with Path(path).open("rb") as file:
        return not _lock(file.fileno())


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


def _lock(descriptor: int) -> bool:
    """Mark an open ledger as this process's; False where another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _sync(descriptor: int) -> None:
    try:
        with suppress(OSError):  # the next record, or the end, tells of a disk that fails
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_json(record: Mapping[str, object]) -> str:
    try:
        return _encode(record)
    except (TypeError, ValueError):  # NaN, an infinity, or what is not JSON's
        return _encode(_plain(record))


def _plain(value: object) -> object:
    """Say it in strict JSON: NaN and the infinities become null, what is unknown its text."""
    match value:
        case None | bool() | str():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | AbstractSet():
            return [_plain(item) for item in value]
        case _:
            return str(value)


def _fields(header: LedgerHeader) -> dict[str, object]:
    return {known.name: getattr(header, known.name) for known in fields(header)}


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
