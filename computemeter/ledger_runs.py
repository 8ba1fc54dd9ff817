"""Runs from ledgers: the segments of each run, wherever their files lie, added up to one record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from computemeter.ledger import Ledger, LedgerError, read_ledger
from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, SegmentRecord, add_up, number

_SECONDS_OF_SILENCE = 120.0
"""A ledger without an end that nobody has written to for so long is a killed run's, or a copy."""


class SegmentFile(NamedTuple):
    """A segment's ledger and where it lies."""

    path: Path
    ledger: Ledger


def records_from_ledgers(
    paths: Iterable[str | Path], *, warn: Callable[[str], None] = lambda _message: None
) -> list[RunRecord]:
    """Add the segments of each run up to one record per run, in the order the runs started.

    Args:
        paths: ledgers, and folders that are searched for them at any depth.
        warn: takes one line for each file in a folder that is no ledger; such a file is left out.

    Raises:
        LedgerError: for a file given by name that is no ledger.
        OSError: for a path that cannot be opened.
    """
    records: list[RunRecord] = [
        _run_record(segments) for segments in segments_by_run(paths, warn=warn).values()
    ]
    return sorted(records, key=lambda record: record.started or 0.0)


def segments_by_run(
    paths: Iterable[str | Path], *, warn: Callable[[str], None]
) -> dict[str, list[SegmentFile]]:
    """Read the ledgers of each run, in the order of their launch; see `records_from_ledgers`."""
    runs: dict[str, dict[str, SegmentFile]] = {}
    for file in _files(paths, warn):
        header = file.ledger.header
        known = runs.setdefault(header.run, {})
        # The same segment in two folders is a copy: the longer one is the later.
        known[header.segment] = max(known.get(header.segment, file), file, key=_length)
    return {run: sorted(files.values(), key=_start) for run, files in runs.items()}


def _files(paths: Iterable[str | Path], warn: Callable[[str], None]) -> Iterator[SegmentFile]:
    for path in map(Path, paths):
        if not path.is_dir():
            yield SegmentFile(path, read_ledger(path))
            continue
        for file in sorted(path.rglob("*.jsonl")):
            try:
                yield SegmentFile(file, read_ledger(file))
            except (LedgerError, OSError) as error:
                warn(f"left out: {error}")


def _length(file: SegmentFile) -> tuple[int, bool]:
    return len(file.ledger.progress), file.ledger.end is not None


def _start(file: SegmentFile) -> tuple[float, str]:
    return file.ledger.header.started, file.ledger.header.segment


def _run_record(files: list[SegmentFile]) -> SegmentedRun:
    first, last = files[0].ledger, files[-1].ledger
    return SegmentedRun(
        run_id=last.header.run,
        source=str(files[-1].path),
        url=None,
        name=last.header.name,
        user=last.header.user,
        project=last.header.project,
        team=last.header.team,
        started=first.header.started,
        ended=last.end.time if last.end else None,
        status=status_of(files[-1]),
        device_name=last.header.device_name,
        device_count=last.header.device_count,
        estimated=False,
        category=last.header.category,
        **add_up(_segment_record(file.ledger) for file in files),
    )


def status_of(file: SegmentFile) -> str:
    """Say how a run ended, by its last segment; see `RunRecord.status`."""
    if file.ledger.end is not None:
        return file.ledger.status
    try:
        silent = time.time() - file.path.stat().st_mtime
    except OSError:  # moved away since it was read
        return "unknown"
    return "running" if silent < _SECONDS_OF_SILENCE else "unknown"


def _segment_record(ledger: Ledger) -> SegmentRecord:
    header, last = ledger.header, ledger.last_totals
    totals = {
        "assumed_utilization": header.assumed_utilization,
        **last,
        # Not of the last record alone: whatever was once recorded as spent stays spent.
        **{name: _largest(ledger, name) for name in _ONLY_GROW},
    }
    return SegmentRecord.from_totals(header.segment, totals)


_ONLY_GROW = ("steps", "model_flops", "gpu_time_flops", "device_seconds")


def _largest(ledger: Ledger, total: str) -> float | None:
    values = [number(record.totals.get(total)) for record in ledger.progress]
    return max((value for value in values if value is not None), default=None)
