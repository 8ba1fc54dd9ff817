"""Runs as a CSV file: written for spreadsheets, read back exactly.

A column for each field of a `RunRecord`, and one more for the segments of a run. Nothing is an
empty cell; FLOP are written out in full. A text that a spreadsheet would take for a formula gets an
apostrophe in front, as does one that begins with an apostrophe or is empty: reading takes one away.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, SegmentRecord, a_cause, a_verdict, number

_COLUMNS = tuple(each.name for each in fields(SegmentedRun))
_JSON = {"tags", "parts"}
_FLOPS = {name for name in _COLUMNS if name.endswith("_flops")}
_WHOLE = _FLOPS | {"device_count", "segments", "steps"}
_FLOATS = {"started", "ended", "ratio", "mfu", "device_seconds"}
_MOST_DIGITS = 100
# What the record must have; a table that was made by hand may lack any other column.
_NEEDED = {"source": "", "name": "", "status": "unknown", "segments": 1}
# The full-width forms are formulas to a spreadsheet of Japanese.
_FORMULAS = tuple("=+-@'\uff1d\uff0b\uff0d\uff20")
# Excel knows UTF-8 by the mark in front; a name may hold half a surrogate pair.
_TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogatepass", "newline": ""}


def write_csv(records: Iterable[RunRecord], path: str | Path) -> None:
    """Write runs to a file, in their order; an older file of the name is replaced.

    Raises:
        OSError: it cannot be written.
    """
    with Path(path).open("w", **_TEXT) as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        table.writerows([_cell(record, name) for name in _COLUMNS] for record in records)


def read_csv(
    path: str | Path, *, warn: Callable[[str], None] = lambda _message: None
) -> list[RunRecord]:
    """Read runs from a file of `write_csv`, or a table with some of its columns.

    Args:
        path: of the file; `run_id` is the one column it must have.
        warn: takes one line for each row that is left out.

    Raises:
        ValueError: no CSV, or no column `run_id`.
        OSError: it cannot be read.
    """
    with Path(path).open(**_TEXT) as file:
        try:
            rows = csv.DictReader(file, strict=True)
            if "run_id" not in (rows.fieldnames or ()):
                raise ValueError(f"{path}: no table of runs, it has no column run_id")
            found = [_read(row, f"{path}, line {rows.line_num}", warn) for row in rows]
        except csv.Error as error:
            raise ValueError(f"{path}: {error}") from None
    return [record for record in found if record is not None]


def _cell(record: RunRecord, name: str) -> str:
    value = getattr(record, name, None)
    if name == "parts":
        value = [asdict(part) for part in value] if value is not None else None
    if value is None or value == {}:
        return ""
    if isinstance(value, str):
        return _guarded(value)
    return json.dumps(value) if name in _JSON else repr(value)


def _guarded(text: str) -> str:
    # A spreadsheet may cut off what is blank in front, and with it what hides a formula.
    start = text.lstrip()[:1]
    return f"'{text}" if not text or start in _FORMULAS or text[0] in "\t\r\n\0" else text


def _read(row: Mapping[str, Any], where: str, warn: Callable[[str], None]) -> RunRecord | None:
    try:
        values = {name: _value(name, row.get(name) or "") for name in _COLUMNS}
        return _record(**values)
    except (ValueError, TypeError, InvalidOperation, OverflowError) as error:
        warn(f"{where}: left out: {error}")
        return None


def _record(*, run_id: str | None, parts: Any, **values: Any) -> RunRecord:
    if run_id is None:
        raise ValueError("it has no run_id")
    if parts is None:
        return RunRecord(run_id=run_id, **values)
    return SegmentedRun(run_id=run_id, **values, parts=tuple(_part(**part) for part in parts))


def _value(name: str, cell: str) -> Any:
    if read := _READERS.get(name):
        return read(cell)
    if not cell:
        return _NEEDED.get(name)
    if name in _WHOLE or name in _FLOATS:
        return _number(name, cell, int if name in _WHOLE else float)
    return cell.removeprefix("'")


def _part(*, id: str, verdict: str, cause: str, **totals: Any) -> SegmentRecord:  # noqa: A002
    if wrong := [name for name, value in totals.items() if value != number(value)]:
        raise ValueError(f"a segment's {wrong[0]} cannot be {totals[wrong[0]]!r:.40}")
    return SegmentRecord(str(id), verdict=a_verdict(verdict), cause=a_cause(cause), **totals)


def _number(name: str, cell: str, kind: type[int | float]) -> int | float:
    # A spreadsheet that saved the file may have written 1.2E+23.
    exact = Decimal(cell)
    fits = exact.is_finite() and exact.adjusted() < _MOST_DIGITS
    value = number(kind(exact)) if fits else None
    if value is None:
        raise ValueError(f"{name} cannot be {cell[:40]!r}")
    return value


def _tags(cell: str) -> dict[str, str]:
    found = json.loads(cell) if cell else {}
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError("its tags are no JSON object of texts")
    return found


_READERS: Mapping[str, Callable[[str], Any]] = {
    "verdict": a_verdict,
    "cause": a_cause,
    "estimated": lambda cell: cell.strip().lower() == "true",
    "tags": _tags,
    "parts": lambda cell: json.loads(cell) if cell else None,
}
