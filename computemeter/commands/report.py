"""`computemeter report`: what a run's weights cost, from its receipt or its ledgers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from computemeter.commands import CommandError
from computemeter.commands.card import card
from computemeter.ledger import Ledger, LedgerError, read_ledger
from computemeter.ledger_runs import SegmentFile, records_from_ledgers, segments_by_run
from computemeter.peak_files import reason
from computemeter.receipt import ComputeReceipt, ReceiptError, find_receipt, read_receipt
from computemeter.records import RunRecord
from computemeter.segments import whole
from computemeter.sinks import redact

_SECONDS_PER_HOUR = 3600


def report(path: str, *, as_json: bool = False) -> str:
    """Write a run's compute as a block for a model card.

    Args:
        path: a receipt; a folder or checkpoint with one; else a ledger or a folder of one run's.
        as_json: the receipt itself.

    Raises:
        CommandError: there is neither there, or it cannot be read.
    """
    try:
        receipt = _receipt(Path(path).expanduser())
    except (LedgerError, ReceiptError) as error:  # they name the file
        raise CommandError(reason(error)) from None
    except (OSError, RuntimeError) as error:  # RuntimeError: no home for a "~"
        raise CommandError(f"{redact(path)}: {reason(error)}") from None
    return json.dumps(receipt.to_dict(), indent=2) if as_json else card(receipt)


def _receipt(path: Path) -> ComputeReceipt:
    if path.suffix == ".jsonl":
        # Its run may have other segments; they lie beside it.
        return _from_ledgers(path.parent, read_ledger(path).header.run)
    path.stat()  # a path that does not exist is not one without a receipt
    if (found := find_receipt(path)) is not None:
        return read_receipt(found)
    return _from_ledgers(path, _only_run(path))


def _only_run(folder: Path) -> str:
    runs = segments_by_run([folder], warn=_ignore) if folder.is_dir() else {}
    if not runs:
        raise CommandError(f"{folder}: neither a compute receipt nor a ledger is there")
    if len(runs) > 1:
        raise CommandError(f"{folder}: ledgers of {len(runs)} runs are there; name one of them")
    return next(iter(runs))


def _ignore(_message: str) -> None:
    """Files that are no ledgers are left out."""


def _from_ledgers(folder: Path, run: str) -> ComputeReceipt:
    """Make the receipt that the run would have written; of a killed run there is none."""
    files = segments_by_run([folder], warn=_ignore)[run]
    (record,) = records_from_ledgers([file.path for file in files])
    try:
        return _made(files, record)
    except ReceiptError as error:
        raise LedgerError(f"{files[-1].path}: {error}") from None


def _made(files: list[SegmentFile], record: RunRecord) -> ComputeReceipt:
    last = files[-1].ledger
    header, seconds = last.header, record.device_seconds
    return ComputeReceipt(
        created=_ended(last),
        run=record.run_id,
        segments=tuple(file.ledger.header.segment for file in files),
        name=header.name,
        status=record.status,
        steps=record.steps,
        run_flops=record.run_flops,
        spent_flops=record.spent_flops,
        lineage_flops=record.lineage_flops,
        model_flops=record.spent_flops,
        gpu_time_flops=record.gpu_time_flops,
        ratio=record.ratio,
        verdict=record.verdict,
        cause=record.cause,
        diagnosis=_diagnosis(files),
        device_hours=None if seconds is None else seconds / _SECONDS_PER_HOUR,
        device_name=header.device_name,
        device_count=header.device_count,
        peak_flops=last.last_totals.get("peak_flops", header.peak_flops),
        assumed_utilization=header.assumed_utilization,
        precision=(last.summary or {}).get("precision"),
        uncounted_ops=_uncounted(files),
        base_model=header.base_model,
        base_flops=header.base_flops,
        project=header.project,
        team=header.team,
        extra={"made_from": "ledger"},
    )


def _ended(ledger: Ledger) -> float:
    if ledger.end is not None:
        return ledger.end.time
    return ledger.progress[-1].time if ledger.progress else ledger.header.started


def _uncounted(files: list[SegmentFile]) -> dict[str, int] | None:
    """Add the calls of all segments up; None where one of them was killed and cannot say."""
    calls: Counter[str] = Counter()
    for file in files:
        ops = (file.ledger.summary or {}).get("uncounted_ops")
        if not isinstance(ops, dict):
            return None
        calls.update({name: whole(number) or 0 for name, number in ops.items()})
    return dict(calls)


def _diagnosis(files: list[SegmentFile]) -> str:
    """Return the last one in words: that of the run, which the segment's summary is not."""
    events = (event for file in reversed(files) for event in reversed(file.ledger.events))
    verdicts = (event.facts for event in events if event.name == "verdict")
    return str(next(verdicts, {}).get("diagnosis", ""))
