"""The runs that an earlier collection read from a tracker, kept in the user's cache folder.

A file for each source, options and version of this package: a small SQLite database of JSON, so
that two processes may write at once and a write that is cut short leaves the file as it was.
Whatever is wrong with a file, it is thrown away, and everything is read again: so it is where
somebody else could have written it, and after a week, which bounds how long a change goes unnoticed
that no reader can see. A source is known by its address without credentials; which of the runs
still exist, the source is asked each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
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

from computemeter._version import __version__
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
_FORM = f"3 {__version__} {_RUN} {_PART}"
# Of a team's runs most have one of a few: each takes its memory once.
_SHARED = ("source", "user", "project", "team", "status", "device_name", "verdict", "cause")
# At once, so that another process finds both or an empty file.
_TABLES = """
begin immediate;
create table if not exists facts (name text primary key, value real);
create table if not exists runs (run_id text primary key, stamp text, record blob, crc integer);
"""
# So many are made at once: what they are made of stays near the processor, and is dropped early.
_LOT = 1000
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode  # in two thirds of the time of json.loads
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
        self._found: dict[str, Found] = {}
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
        return [self._found[run_id] for run_id in run_ids]

    def remember(self, run_id: str, stamp: str, found: Found) -> None:
        """Keep a run in place of what was known of it; drop one that cannot be written."""
        try:
            (run_id + stamp).encode()
            self._changed[run_id] = stamp, _packed(found)
        except (ValueError, TypeError):  # a lone surrogate in an id, numpy's numbers
            self.forget([run_id])

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
            OSError: the file or its folder cannot be written, or not kept from others.
        """
        try:
            _make_private(self.path.parent)
            if self._damaged:
                self.path.unlink(missing_ok=True)
            try:
                self._write()
            except sqlite3.OperationalError:  # as one that is locked: the file may be sound
                raise
            except sqlite3.DatabaseError:
                self.path.unlink(missing_ok=True)
                self._write()
        except sqlite3.Error as error:
            raise OSError(str(error)) from None
        _clear(self.path.parent)

    def _load(self) -> bool:
        """Take what is in the file; return whether it can be written to as it is."""
        try:
            if not self.path.exists():
                return True
            if not _is_private(self.path.parent) or not _is_private(self.path):
                return False
            if not self.path.stat().st_size:  # another process is about to write it
                return True
            with closing(sqlite3.connect(self.path, timeout=_SECONDS_TO_WAIT)) as file:
                facts = dict(file.execute("select name, value from facts"))
                rows = file.execute("select run_id, stamp, record, crc from runs").fetchall()
            if not _fresh(facts) or any(zlib.crc32(row[2]) != row[3] for row in rows):
                return False
            found = _unpacked([packed for _, _, packed, _ in rows])
        except (OSError, sqlite3.Error, ValueError, TypeError, LookupError, RecursionError):
            return False
        self._facts = facts
        self._stamps = {run_id: stamp for run_id, stamp, *_ in rows}
        self._found = {run_id: run for (run_id, *_), run in zip(rows, found, strict=True)}
        return True

    def _write(self) -> None:
        self.path.touch(mode=0o600)
        with closing(sqlite3.connect(self.path, timeout=_SECONDS_TO_WAIT)) as file, file:
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


def _is_private(path: Path) -> bool:
    """Whether a file or folder is the user's, and no others may write to it."""
    if not hasattr(os, "getuid"):  # Windows keeps the user's folders from others
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & _OTHERS_WRITE


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder):
        with suppress(OSError):
            folder.chmod(0o700)
        if not _is_private(folder):
            raise PermissionError(f"{folder} is another user's, or others may write to it")


def _packed(run: Found) -> bytes:
    """Write a run as JSON: one reason, or the fields without their names.

    Raises:
        ValueError, TypeError: it holds what JSON does not.
    """
    if isinstance(run, str):
        return _encode([run]).encode()
    facts = [getattr(run, name) for name in _RUN[:-1]]
    if parts := getattr(run, "parts", ()):
        facts.append([[getattr(part, name) for name in _PART] for part in parts])
    return _encode(facts).encode()


def _unpacked(packed: Sequence[bytes]) -> list[Found]:
    shared: dict[Any, Any] = {}
    lots = (packed[start : start + _LOT] for start in range(0, len(packed), _LOT))
    return [found for lot in lots for found in _lot(lot, shared)]


def _lot(packed: Iterable[bytes], shared: dict[Any, Any]) -> list[Found]:
    rows = [_decode(each.decode())[0] for each in packed]
    reasons, plain, segmented = (
        [row for row in rows if len(row) == length] for length in (1, len(_RUN) - 1, len(_RUN))
    )
    parts = [part for row in segmented for part in row[-1]]
    part = iter(_made(SegmentRecord, _PART, parts, shared))
    whole = [(*row[:-1], tuple(islice(part, len(row[-1])))) for row in segmented]
    found: Mapping[int, Iterator[Found]] = {
        1: iter([str(reason) for (reason,) in reasons]),
        len(_RUN) - 1: iter(_made(RunRecord, _RUN[:-1], plain, shared)),
        len(_RUN): iter(_made(SegmentedRun, _RUN, whole, shared)),
    }
    return [next(found[len(row)]) for row in rows]


def _made(
    kind: type[Any],
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    shared: dict[Any, Any],
) -> list[Any]:
    """Make records of rows, one field of all of them at a time.

    It takes a third of the time that a call for each does, with a call for every field in it.
    """
    made = [object.__new__(kind) for _ in rows]
    for name, values in zip(names, zip(*rows, strict=True), strict=bool(rows)):
        each = map(shared.setdefault, values, values) if name in _SHARED else values
        deque(map(getattr(kind, name).__set__, made, each), maxlen=0)
    return made


def _clear(folder: Path) -> None:
    """Drop the files that nobody has written to for a month."""
    limit = time.time() - _FORGOTTEN_SECONDS
    for path in folder.glob("*.sqlite"):
        with suppress(OSError):
            if path.stat().st_mtime < limit:
                os.unlink(path)  # noqa: PTH108 - Path.unlink reads no better here
