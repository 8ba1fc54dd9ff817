"""Finds the run that a disclosure is asked for: by a path, or by its id in a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from computemeter.disclosure import DisclosureError
from computemeter.disclosure.entries import Entry
from computemeter.disclosure.runs import from_ledgers, from_receipt, from_record
from computemeter.ledger import read_ledger
from computemeter.ledger_runs import SegmentFile, segments_by_run
from computemeter.peak_files import reason
from computemeter.reading import Request
from computemeter.receipt import read_receipt
from computemeter.receipt_match import receipt_of
from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, merge
from computemeter.sinks import redact
from computemeter.sources import SourceError
from computemeter.table import printable
from computemeter.trend.collect import read_cached
from computemeter.wording import counted

_NAMED = 3


def run_at(path: str | Path) -> Entry:
    """Take the run that a receipt, a checkpoint, a ledger or a folder of one run's ledgers is of.

    Raises:
        DisclosureError: there is none, or it cannot be read.
    """
    try:
        place = Path(path).expanduser()
        return _entry(place)
    except DisclosureError:
        raise
    except ValueError as error:  # LedgerError and ReceiptError, which name the file
        raise DisclosureError(printable(reason(error))) from None
    except (OSError, RuntimeError) as error:  # RuntimeError: no home for a "~"
        raise DisclosureError(f"{redact(str(path))}: {reason(error)}") from None


def _entry(path: Path) -> Entry:
    files = ledgers_at(path)
    if files:
        return from_ledgers(files)
    found, _why = receipt_of(path)
    assert found is not None, "ledgers_at raises where there is neither"
    return from_receipt(read_receipt(found), _as_given(found, path))


def _as_given(found: Path, path: Path) -> Path:
    """Write a file as the path that led to it is: a disclosure tells of no folder of a machine."""
    here = Path.cwd()
    if path.is_absolute() or not found.is_relative_to(here):
        return found
    return found.relative_to(here)


def ledgers_at(path: Path) -> list[SegmentFile]:
    """Return the ledgers of the run that a path names; none where there is a receipt.

    Raises:
        DisclosureError: there is neither, or there are several runs.
        LedgerError: the path is a ledger that cannot be read.
        OSError: there is no such path.
    """
    if path.suffix == ".jsonl":
        # Its run may have other segments; they lie beside it.
        return segments_by_run([path.parent], warn=_ignore)[read_ledger(path).header.run]
    path.stat()  # a path that does not exist is not one without a receipt
    found, why = receipt_of(path)
    if found is not None:
        return []
    runs = segments_by_run([path], warn=_ignore) if path.is_dir() else {}
    if not runs:
        told = "" if path.is_dir() else "; of a killed run name the folder of its ledgers"
        raise DisclosureError(f"{path}: {why}, and no ledger is there{told}")
    if len(runs) > 1:
        raise DisclosureError(
            f"{path}: ledgers of {len(runs)} runs are there; name one of them, or give a run's id "
            f"and --source {path}"
        )
    return next(iter(runs.values()))


def _ignore(_message: str) -> None:
    """Files that are no ledgers are left out."""


def run_of(run: str, sources: Sequence[str], *, cache: bool = True) -> Entry:
    """Take a run by its id, or the id of one of its segments, from all sources that know of it.

    Args:
        run: the id.
        sources: see `computemeter.sources.records`.
        cache: keep what a tracker told, as `computemeter trend` does, and read only what changed.

    Raises:
        DisclosureError: a source cannot be read, or none has the run.
    """
    skipped: Counter[str] = Counter()
    # As `computemeter trend` asks: a cache is of one request.
    request = Request(unmetered=True, skip=lambda why, count: skipped.update({why: count}))
    try:
        read = [read_cached(source, request, cache=cache) for source in sources]
    except SourceError as error:
        raise DisclosureError(printable(str(error))) from None
    found = merge(record for records in read for record in records)
    record = next((each for each in found if run in _ids(each)), None)
    if record is None:
        raise DisclosureError(_not_found(run, found, sources, skipped))
    files = _ledgers(record, sources)
    return from_ledgers(files) if files else from_record(record)


def _ids(record: RunRecord) -> set[str]:
    parts = record.parts if isinstance(record, SegmentedRun) else ()
    return {record.run_id, *(part.id for part in parts)}


def _ledgers(record: RunRecord, sources: Sequence[str]) -> list[SegmentFile]:
    """Find the run's ledgers among the sources: they know more than a tracker does."""
    folders = [path for path in map(Path, sources) if path.is_dir() or path.suffix == ".jsonl"]
    for files in segments_by_run(folders, warn=_ignore).values():
        if _ids(record) >= {file.ledger.header.segment for file in files}:
            return files if len(files) >= record.segments else []
    return []


def _not_found(
    run: str, found: Sequence[RunRecord], sources: Sequence[str], skipped: Mapping[str, int]
) -> str:
    where = ", ".join(redact(source) for source in sources)
    named = [each.run_id for each in found if each.name == run]
    if named:
        same = f"{run!r} is the name of {counted(len(named), 'run')}: give the id"
        return printable(f"{where}: {same}, such as {named[0]}")
    some = ", ".join(each.run_id for each in found[-_NAMED:])
    such = f", such as {some}" if some else ""
    left_out = "".join(f"; left out: {n:,}, {why}" for why, n in skipped.items())
    there = counted(len(found), "run")
    return printable(f"{where}: no run has the id {run!r}; {there}{such}{left_out}")
