"""Writes a ledger so that a kill, a full disk or a second process damages nothing of it."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time as clock
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from computemeter.ledger import LedgerHeader
from computemeter.strict_json import plain

try:
    import fcntl
except ModuleNotFoundError:  # no locks on Windows
    fcntl = None  # type: ignore[assignment]

_SECONDS_BETWEEN_SYNCS = 30.0
_TIME_OF_LAUNCH = "%Y%m%dT%H%M%S%f"
_LINES_KEPT = 1000
"""Lines that a full disk has not taken; they are written when it has room again."""
# ASCII only: a lone surrogate in a run's name would otherwise not encode.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def new_segment_id() -> str:
    """Make an id that sorts by time and is unique across machines.

    It has no dots, which W&B would take for nesting, and draws from the operating system: the
    user's random state is not touched.
    """
    return f"{datetime.now(UTC):{_TIME_OF_LAUNCH}}Z-{secrets.token_hex(4)}"


def launch_time(segment: str) -> float | None:
    """Return when a segment was launched, by its id; None for an id that is not ours."""
    try:
        return datetime.strptime(segment.partition("-")[0], f"{_TIME_OF_LAUNCH}%z").timestamp()
    except ValueError:
        return None


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
        return _encode(plain(record))


def _fields(header: LedgerHeader) -> dict[str, object]:
    return {known.name: getattr(header, known.name) for known in fields(header)}
