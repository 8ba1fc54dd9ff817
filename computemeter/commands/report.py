"""`computemeter report`: what a model's compute disclosure needs, or a block for its model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from computemeter.commands import CommandError
from computemeter.disclosure import DisclosureError
from computemeter.disclosure.card import card
from computemeter.disclosure.energy import energy_joules
from computemeter.disclosure.find import ledgers_at, run_at, run_of
from computemeter.disclosure.model import read_model
from computemeter.disclosure.plain import to_dict
from computemeter.disclosure.runs import diagnosis_of, uncounted_ops_of
from computemeter.disclosure.text import markdown
from computemeter.disclosure.totals import Disclosure, assemble
from computemeter.ledger import LedgerError
from computemeter.ledger_runs import SegmentFile, records_from_ledgers
from computemeter.peak_files import reason
from computemeter.receipt import ComputeReceipt, ReceiptError, read_receipt
from computemeter.receipt_match import receipt_of
from computemeter.records import RunRecord
from computemeter.sinks import redact
from computemeter.table import printable
from computemeter.units import SECONDS_PER_HOUR

Form = Literal["md", "json"]


def report(
    run: str | None = None,
    *,
    sources: Sequence[str] = (),
    model: str | None = None,
    planned_steps: int | None = None,
    cache: bool = True,
    filer: str | None = None,
    form: Form = "md",
) -> str:
    """Write a compute disclosure of a run or of a model.

    Args:
        run: a receipt; a folder or checkpoint with one; a ledger or a folder of one run's; with
            sources, a run's id.
        sources: see `computemeter.sources.records`.
        model: the file of a model, see docs/disclosure.md; instead of a run.
        planned_steps: steps that the run is to have in the end.
        cache: keep what trackers tell, and do not ask for it again.
        filer: who files it.
        form: Markdown or JSON.

    Raises:
        CommandError: it cannot be made of that.
    """
    if (run is None) == (model is None):
        raise CommandError("name either a run or a --model")
    if model is not None and (sources or planned_steps is not None):
        raise CommandError("--source and --planned-steps are of a run: a model's are in its file")
    if filer is not None and not filer.strip():
        raise CommandError("--filer is empty: accepted is the name of who files it")
    try:
        # To the error output, where it does not mix with what is printed.
        with Console(stderr=True).status("reading"):
            made = (
                read_model(model, cache=cache)
                if model is not None
                else _of(run or "", sources, planned_steps, cache)
            )
    except DisclosureError as error:
        raise CommandError(printable(str(error))) from None
    made = replace(made, filer=redact(filer or ""))
    return json.dumps(to_dict(made), indent=2) if form == "json" else markdown(made)


def _of(run: str, sources: Sequence[str], planned_steps: int | None, cache: bool) -> Disclosure:
    entry = run_of(run, sources, cache=cache) if sources else run_at(run)
    if planned_steps is not None:
        entry = entry.with_plan(planned_steps)
    return assemble(entry.name, [entry])


def model_card(path: str, *, as_json: bool = False) -> str:
    """Write a run's compute as a block for a model card.

    Args:
        path: a receipt; a folder or checkpoint with one; else a ledger or a folder of one run's.
        as_json: the receipt itself.

    Raises:
        CommandError: there is neither there, or it cannot be read.
    """
    try:
        receipt = _receipt(Path(path).expanduser())
    except (DisclosureError, LedgerError, ReceiptError) as error:  # they name the file
        raise CommandError(printable(reason(error))) from None
    except (OSError, RuntimeError) as error:  # RuntimeError: no home for a "~"
        raise CommandError(f"{redact(path)}: {reason(error)}") from None
    return json.dumps(receipt.to_dict(), indent=2) if as_json else card(receipt)


def _receipt(path: Path) -> ComputeReceipt:
    files = ledgers_at(path)
    if files:
        return _from_ledgers(files)
    found, _why = receipt_of(path)
    assert found is not None, "ledgers_at raises where there is neither"
    return read_receipt(found)


def _from_ledgers(files: list[SegmentFile]) -> ComputeReceipt:
    """Make the receipt that the run would have written; of a killed run there is none."""
    (record,) = records_from_ledgers([file.path for file in files])
    try:
        return _made(files, record)
    except ReceiptError as error:
        raise LedgerError(f"{files[-1].path}: {error}") from None


def _made(files: list[SegmentFile], record: RunRecord) -> ComputeReceipt:
    last = files[-1].ledger
    header, seconds = last.header, record.device_seconds
    return ComputeReceipt(
        created=last.last_time,
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
        diagnosis=diagnosis_of([file.ledger for file in files]),
        device_hours=None if seconds is None else seconds / SECONDS_PER_HOUR,
        device_name=header.device_name,
        device_count=header.device_count,
        peak_flops=last.last_totals.get("peak_flops", header.peak_flops),
        assumed_utilization=header.assumed_utilization,
        precision=(last.summary or {}).get("precision"),
        uncounted_ops=uncounted_ops_of(file.ledger for file in files),
        base_model=header.base_model,
        base_flops=header.base_flops,
        parents=(header.base_receipt,) if header.base_receipt else (),
        project=header.project,
        team=header.team,
        category=header.category,
        energy_joules=energy_joules(getattr(record, "parts", ())),
        extra={"made_from": "ledger"},
    )
