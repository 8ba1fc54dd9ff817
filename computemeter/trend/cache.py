"""The runs that an earlier collection read from a tracker, kept in the user's cache folder.

A file for each source, options and version of the records: a small SQLite database, so that two
processes may write at once and a write that is cut short leaves the file as it was. Whatever is
wrong with a file, it is thrown away, and everything is read again: so it is after a week, which
bounds how long a change goes unnoticed that no reader can see. A source is known by its address
without credentials; which of the runs still exist, the source is asked each time.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import sqlite3
import sys
import time
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import platformdirs

from computemeter.reading import Found
from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, SegmentRecord
from computemeter.sinks import redact

KEPT_SECONDS = 7 * 86_400.0
"""After this long everything is read anew."""

_FORGOTTEN_SECONDS = 30 * 86_400.0
_SECONDS_TO_WAIT = 10.0
_RUN = tuple(each.name for each in fields(SegmentedRun))
_PART = tuple(each.name for each in fields(SegmentRecord))
# What marshal writes is read by the same Python alone.
_FORM = f"2 {sys.version_info[:2]} {_RUN} {_PART}"
# Of a team's runs most have one of a few.
_SHARED = ("source", "user", "project", "team", "status", "device_name", "verdict", "cause")
_TABLES = """
create table if not exists facts (name text primary key, value real);
create table if not exists runs (run_id text primary key, stamp text, record blob, crc integer);
"""
_ANEW, _READ_AT, _SINCE = "anew", "read_at", "since"


class RunCache:
    """A `computemeter.reading.Memory` that outlives the process; nothing is written before `save`.

    Attributes:
        path: of the file.
    """

    def __init__(self, source: str, options: str = "", *, folder: Path | None = None) -> None:
        """Read what is there; a file that cannot be read is as none.

        Args:
            source: URI of a tracker.
            options: whatever else the records depend on.
            folder: of the files; the user's cache folder if left out.
        """
        self.path = (folder or cache_folder()) / f"{_key(source, options)}.sqlite"
        self._facts: dict[str, float | None] = {}
        self._stamps: dict[str, str] = {}
        self._packed: dict[str, bytes] = {}
        self._changed: dict[str, tuple[str, bytes]] = {}
        self._forgotten: set[str] = set()
        self._damaged = not self._load()

    def read_at(self, since: float | None) -> float | None:
        """Return when the last whole reading began; None: there was none of runs since then."""
        covered = self._facts.get(_SINCE)
        whole = covered is None or (since is not None and since >= covered)
        return self._facts.get(_READ_AT) if whole else None

    def stamps(self) -> Mapping[str, str]:
        """Return the stamps of the runs it knows, by run id."""
        return self._stamps

    def recall(self, run_ids: Collection[str]) -> Sequence[Found]:
        """Return what it knows of runs that it knows."""
        return _unpacked([self._packed[run_id] for run_id in run_ids])

    def remember(self, run_id: str, stamp: str, found: Found) -> None:
        """Keep a run in place of what was known of it."""
        self._changed[run_id] = stamp, _packed(found)

    def forget(self, run_ids: Collection[str]) -> None:
        """Drop runs; ids that are not known do not matter."""
        self._forgotten |= self._stamps.keys() & set(run_ids)

    def completed(self, began: float, since: float | None) -> None:
        """Note a whole reading of all runs, or of those that started since then."""
        covered = self._facts.get(_SINCE)
        if self._facts.get(_READ_AT) is None or (covered is not None and since is None):
            self._facts[_SINCE] = since
        elif covered is not None and since is not None:
            self._facts[_SINCE] = min(covered, since)
        self._facts[_READ_AT] = began
        self._facts.setdefault(_ANEW, began)

    def save(self) -> None:
        """Write what has changed.

        Raises:
            OSError: the file or its folder cannot be written.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if self._damaged:
                raise sqlite3.DatabaseError  # noqa: TRY301 - as if it were found out now
            self._write()
        except sqlite3.OperationalError as error:
            raise OSError(str(error)) from None
        except sqlite3.DatabaseError:
            self.path.unlink(missing_ok=True)
            self._write()
        _clear(self.path.parent)

    def _load(self) -> bool:
        """Take what is in the file; return whether it can be written to as it is."""
        if not self.path.exists():
            return True
        try:
            with closing(sqlite3.connect(self.path, timeout=_SECONDS_TO_WAIT)) as file:
                facts = dict(file.execute("select name, value from facts"))
                rows = file.execute("select run_id, stamp, record, crc from runs").fetchall()
            whole = all(zlib.crc32(row[2]) == row[3] for row in rows)
            if not whole or not _fresh(facts):
                return False
        except (sqlite3.Error, ValueError, TypeError, AttributeError):  # or of other types
            return False
        self._facts = facts
        self._stamps = {run_id: stamp for run_id, stamp, *_ in rows}
        self._packed = {run_id: packed for run_id, _, packed, _ in rows}
        return True

    def _write(self) -> None:
        with closing(sqlite3.connect(self.path, timeout=_SECONDS_TO_WAIT)) as file, file:
            self.path.chmod(0o600)
            file.executescript(_TABLES)
            file.executemany("delete from runs where run_id = ?", [(i,) for i in self._forgotten])
            file.executemany("replace into runs values (?, ?, ?, ?)", self._rows())
            file.executemany("replace into facts values (?, ?)", self._facts.items())

    def _rows(self) -> Iterable[tuple[str, str, bytes, int]]:
        for run_id, (stamp, packed) in self._changed.items():
            yield run_id, stamp, packed, zlib.crc32(packed)


def cache_folder() -> Path:
    """Return where the files are: `computemeter` in the user's cache folder."""
    return platformdirs.user_cache_path("computemeter") / "runs"


def _key(source: str, options: str) -> str:
    # A relative path is another file in another folder.
    place = str(Path.cwd()) if source.startswith("sqlite") and ":////" not in source else ""
    text = "\0".join((redact(source), place, options, _FORM))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _fresh(facts: Mapping[str, Any]) -> bool:
    # A clock that was set back must not keep a file for ever.
    age = time.time() - (facts.get(_ANEW) or 0.0)
    return 0 <= age < KEPT_SECONDS


def _packed(run: Found) -> bytes:
    if isinstance(run, str):
        return marshal.dumps((run,))
    facts = [_shared(name, getattr(run, name)) for name in _RUN[:-1]]
    if parts := getattr(run, "parts", ()):
        facts.append([[getattr(part, name) for name in _PART] for part in parts])
    return marshal.dumps(tuple(facts))


def _shared(name: str, value: Any) -> Any:
    # An interned text is interned when it is read, and takes its memory once.
    return sys.intern(value) if name in _SHARED and type(value) is str else value


def _unpacked(packed: Iterable[bytes]) -> list[Found]:
    rows = [marshal.loads(each) for each in packed]  # noqa: S302 - the user's own file, checked
    reasons, plain, segmented = (
        [row for row in rows if len(row) == length] for length in (1, len(_RUN) - 1, len(_RUN))
    )
    parts = iter(_made(SegmentRecord, _PART, [part for row in segmented for part in row[-1]]))
    whole = [(*row[:-1], tuple(islice(parts, len(row[-1])))) for row in segmented]
    found: Mapping[int, Iterator[Found]] = {
        1: iter([reason for (reason,) in reasons]),
        len(_RUN) - 1: iter(_made(RunRecord, _RUN[:-1], plain)),
        len(_RUN): iter(_made(SegmentedRun, _RUN, whole)),
    }
    return [next(found[len(row)]) for row in rows]


def _made(kind: type[Any], names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Make records of rows, one field of all of them at a time.

    It takes a third of the time that 100,000 calls do, each with a call for every field.
    """
    made = [object.__new__(kind) for _ in rows]
    for name, values in zip(names, zip(*rows, strict=True), strict=bool(rows)):
        deque(map(getattr(kind, name).__set__, made, values), maxlen=0)
    return made


def _clear(folder: Path) -> None:
    """Drop the files that nobody has written to for a month."""
    limit = time.time() - _FORGOTTEN_SECONDS
    for path in folder.glob("*.sqlite"):
        with suppress(OSError):
            if path.stat().st_mtime < limit:
                os.unlink(path)  # noqa: PTH108 - Path.unlink reads no better here
