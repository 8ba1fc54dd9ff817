"""Runs from ledgers: the segments of each run, wherever their files lie, added up to one record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

from computemeter.ledger import Ledger, LedgerError, read_ledger
from computemeter.records import Cause, RunRecord, Verdict


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
    runs: dict[str, dict[str, _Segment]] = {}
    for segment in _segments(paths, warn):
        header = segment.ledger.header
        known = runs.setdefault(header.run, {})
        # The same segment in two folders is a copy: the longer one is the later.
        longest = max(known.get(header.segment, segment), segment, key=_length)
        known[header.segment] = longest
    records = [_run_record(sorted(run.values(), key=_start)) for run in runs.values()]
    return sorted(records, key=lambda record: record.started or 0.0)


class _Segment(NamedTuple):
    path: Path
    ledger: Ledger


def _segments(paths: Iterable[str | Path], warn: Callable[[str], None]) -> Iterator[_Segment]:
    for path in map(Path, paths):
        if not path.is_dir():
            yield _Segment(path, read_ledger(path))
            continue
        for file in sorted(path.rglob("*.jsonl")):
            try:
                yield _Segment(file, read_ledger(file))
            except (LedgerError, OSError) as error:
                warn(f"left out: {error}")


def _length(segment: _Segment) -> tuple[int, bool]:
    return len(segment.ledger.progress), segment.ledger.end is not None


def _start(segment: _Segment) -> tuple[float, str]:
    return segment.ledger.header.started, segment.ledger.header.segment


def _run_record(segments: list[_Segment]) -> RunRecord:
    ledgers = [segment.ledger for segment in segments]
    first, last = ledgers[0], ledgers[-1]
    # A segment that died before its first record says nothing about the run's compute.
    measured = [ledger for ledger in ledgers if ledger.progress]
    totals = measured[-1].last_totals if measured else {}
    spent, gpu_time = _sum(measured, "model_flops"), _sum(measured, "gpu_time_flops")
    return RunRecord(
        run_id=last.header.run,
        source=str(segments[-1].path),
        url=None,
        name=last.header.name,
        user=last.header.user,
        project=last.header.project,
        team=last.header.team,
        started=first.header.started,
        ended=last.end.time if last.end else None,
        status=last.status,
        device_name=last.header.device_name,
        device_count=last.header.device_count,
        run_flops=_whole(totals.get("run_flops")),
        spent_flops=_whole(spent),
        lineage_flops=_whole(totals.get("lineage_flops")),
        gpu_time_flops=_whole(gpu_time),
        ratio=gpu_time / spent if spent and gpu_time is not None else None,
        verdict=_one_of(get_args(Verdict), totals.get("verdict"), "unknown"),
        cause=_one_of(get_args(Cause), totals.get("cause"), "none"),
        mfu=_mfu(measured),
        device_seconds=_sum(measured, "device_seconds"),
        segments=len(ledgers),
        estimated=False,
    )


def _largest(ledger: Ledger, total: str) -> float | None:
    values = [_number(record.totals.get(total)) for record in ledger.progress]
    return max((value for value in values if value is not None), default=None)


def _sum(ledgers: list[Ledger], total: str) -> float | None:
    """Add a total up; None where one segment lacks it, so that both methods cover the same."""
    parts = [_largest(ledger, total) for ledger in ledgers]
    known = [part for part in parts if part is not None]
    return sum(known) if parts and len(known) == len(parts) else None


def _mfu(ledgers: list[Ledger]) -> float | None:
    """Model FLOPs over what the devices could have done, which is method 2 without its discount."""
    possible = 0.0
    for ledger in ledgers:
        gpu_time, share = _largest(ledger, "gpu_time_flops"), ledger.header.assumed_utilization
        if not gpu_time or not share:
            return None
        possible += gpu_time / share
    spent = _sum(ledgers, "model_flops")
    # Above 1 it is an error to explain, never a utilisation to show.
    return spent / possible if spent is not None and spent <= possible and possible else None


def _number(value: object) -> float | None:
    """Take a number from a file; an int stays an int."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) else None


def _whole(flops: object) -> int | None:
    number = _number(flops)
    return None if number is None else int(number)


def _one_of(accepted: tuple[Any, ...], word: object, otherwise: str) -> Any:
    """Take a word from a file only where it is one of ours."""
    return word if word in accepted else otherwise
