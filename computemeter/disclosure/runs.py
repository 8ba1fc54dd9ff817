"""Entries of a disclosure from runs: their receipts, their ledgers, or what a tracker knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import hypot
from pathlib import Path
from typing import Any, cast

from computemeter.disclosure import DisclosureError
from computemeter.disclosure.energy import BOARDS, energy_of
from computemeter.disclosure.entries import (
    NOT_MEASURED,
    Base,
    Category,
    Counting,
    Entry,
    Period,
    added,
    merged,
)
from computemeter.energy import kwh
from computemeter.ledger import FOLDER, Ledger
from computemeter.ledger_runs import SegmentFile, records_from_ledgers, segments_by_run
from computemeter.ledger_writer import launch_time
from computemeter.receipt import ComputeReceipt
from computemeter.records import CATEGORIES, RunRecord
from computemeter.segments import SegmentedRun, SegmentRecord, number, whole
from computemeter.units import SECONDS_PER_HOUR

_LEVELS_UP = 3
"""From a Lightning checkpoint to where its ledgers lie: lightning_logs/version_0/checkpoints."""
_EARLY = "no category is recorded, as before computemeter had any: taken as training"


def from_receipt(receipt: ComputeReceipt, path: Path) -> Entry:
    """Take a run from its receipt, and from its ledgers what the receipt does not say.

    They are looked for by their names where the receipt lies, in `compute_ledger` there and in
    `compute_ledger` of the folders above: Lightning's checkpoints lie some levels below the run's.
    """
    hours = receipt.device_hours
    entry = Entry(
        name=receipt.name or _label(receipt.run),
        category=_category([receipt.category], receipt.run),
        origin="receipt",
        source=str(path),
        run=receipt.run,
        segments=receipt.segments,
        started=_launched(receipt.segments),
        ended=receipt.created,
        status=receipt.status,
        operations=receipt.spent_flops,
        run_flops=receipt.run_flops,
        lineage_flops=receipt.lineage_flops,
        gpu_time=receipt.gpu_time_flops,
        verdict=receipt.verdict,
        cause=receipt.cause,
        diagnosis=receipt.diagnosis,
        possible=_at_full_peak(receipt.gpu_time_flops, receipt.assumed_utilization),
        device_seconds=None if hours is None else hours * SECONDS_PER_HOUR,
        steps=receipt.steps,
        counting=Counting(uncounted_ops=_ops_of(receipt)),
        base=_base(
            receipt.base_model, receipt.base_flops, next(iter(receipt.parents), None), str(path)
        ),
        receipt=receipt.hash,
        energy_kwh=None if receipt.energy_joules is None else kwh(receipt.energy_joules),
        energy_source=NOT_MEASURED if receipt.energy_joules is None else BOARDS,
        notes=(_EARLY,) if receipt.category is None else (),
    )
    files = _ledgers_beside(receipt, path)
    if files:
        found = from_ledgers(files)
        return replace(
            entry,
            started=found.started,
            ended=found.ended,
            possible=found.possible or entry.possible,
            training_seconds=found.training_seconds,
            periods=found.periods,
            counting=_with_ops(found.counting, _ops_of(receipt)),
            # Alone they know whether part of it was measured.
            energy_source=found.energy_source if entry.energy_kwh is None else BOARDS,
        )
    return _without_ledgers(entry, receipt)


def _ops_of(receipt: ComputeReceipt) -> Mapping[str, int] | None:
    """Return a receipt's operators, which are its last launch's: none there may be some before."""
    ops = receipt.uncounted_ops
    return ops if ops or len(receipt.segments) == 1 else None


def _with_ops(counting: Counting | None, ops: Mapping[str, int] | None) -> Counting | None:
    if counting is None or ops is None:
        return counting
    known = counting.uncounted_ops
    return replace(counting, uncounted_ops=ops if known is None else {**ops, **known})


def _without_ledgers(entry: Entry, receipt: ComputeReceipt) -> Entry:
    launches = len(receipt.segments)
    seconds, devices = entry.device_seconds, receipt.device_count
    alone = launches == 1
    training = seconds / devices if alone and seconds is not None and devices else None
    period = Period(
        launches=launches,
        devices=devices,
        device_name=receipt.device_name,
        device_seconds=seconds,
        training_seconds=training,
        peak_flops=receipt.peak_flops,
        precision=receipt.precision,
        utilization=receipt.assumed_utilization,
        operations=entry.operations,
        gpu_time=entry.gpu_time,
        note="" if alone else "all launches, with the devices of the last: a receipt has no others",
    )
    return replace(entry, training_seconds=training, periods=(period,))


def _launched(segments: Iterable[str]) -> float | None:
    """Return when the first of all launches began; None where one's id does not say."""
    times = [launch_time(segment) for segment in segments]
    known = [each for each in times if each is not None]
    return min(known) if known and len(known) == len(times) else None


def _ledgers_beside(receipt: ComputeReceipt, path: Path) -> list[SegmentFile]:
    """Find the run's ledgers; none where one of its segments lacks."""
    above = path.absolute().parents[: _LEVELS_UP + 1]
    files = [
        folder / f"{segment}.jsonl"
        for folder in (path.parent, *(each / FOLDER for each in above))
        for segment in receipt.segments
    ]
    ours = {file for file in files if file.is_file()}
    if {file.stem for file in ours} != set(receipt.segments):
        return []
    try:
        return segments_by_run(sorted(ours), warn=_ignore).get(receipt.run, [])
    except (OSError, ValueError):  # a ledger of that name that cannot be read
        return []


def _ignore(_message: str) -> None:
    """Files that are no ledgers are left out."""


def from_ledgers(files: Sequence[SegmentFile]) -> Entry:
    """Take a run from the ledgers of all its segments."""
    (record,) = records_from_ledgers([file.path for file in files])
    ledgers = [file.ledger for file in files]
    header = ledgers[-1].header
    first = next((each.header for each in ledgers if each.header.base_model), header)
    recorded = [each.header.category for each in ledgers]
    parts = {part.id: part for part in getattr(record, "parts", ())}
    every = [_period(ledger, parts[ledger.header.segment]) for ledger in ledgers]
    periods = tuple(period for period in every if period.device_seconds is not None)
    return Entry(
        name=header.name or _label(header.run),
        category=_category(recorded, header.run),
        origin="ledger",
        source=str(files[-1].path.parent),
        run=header.run,
        segments=tuple(each.header.segment for each in ledgers),
        started=number(ledgers[0].header.started),
        ended=number(max(each.last_time for each in ledgers)),
        status=record.status,
        operations=record.spent_flops,
        run_flops=record.run_flops,
        lineage_flops=record.lineage_flops,
        gpu_time=record.gpu_time_flops,
        verdict=record.verdict,
        cause=record.cause,
        diagnosis=diagnosis_of(ledgers),
        possible=record.possible_flops,
        device_seconds=record.device_seconds,
        training_seconds=added(*(period.training_seconds for period in periods)),
        steps=record.steps,
        periods=merged(periods),
        counting=_counting(ledgers),
        base=_base(first.base_model, first.base_flops, first.base_receipt, str(files[-1].path)),
        notes=(_EARLY,) if None in recorded else (),
        **energy_of(parts.values()),
    )


def _period(ledger: Ledger, launch: SegmentRecord) -> Period:
    """Say what one launch ran on."""
    header, totals = ledger.header, ledger.last_totals
    devices = whole(totals.get("device_count", header.device_count))
    precision = (ledger.summary or {}).get("precision")
    return Period(
        started=number(header.started),
        devices=devices,
        device_name=_text(header.device_name),
        device_seconds=launch.device_seconds,
        training_seconds=number(totals.get("training_seconds")),
        peak_flops=number(totals.get("peak_flops", header.peak_flops)),
        precision=_text(precision),
        utilization=number(totals.get("assumed_utilization", header.assumed_utilization)),
        operations=launch.model_flops,
        gpu_time=launch.gpu_time_flops,
    )


def _counting(ledgers: Sequence[Ledger]) -> Counting:
    measured = [ledger for ledger in ledgers if ledger.last_totals]
    ended = [ledger.summary for ledger in measured if ledger.summary]
    last = ended[-1] if ended else {}
    told = [_told(ledger) for ledger in measured]
    shares = [number(each.get("measured_utilization")) for each in told]

    def over_all(name: str) -> Any:
        return added(*(number(each.get(name)) for each in told))

    return Counting(
        uncounted_ops=uncounted_ops_of(ledgers),
        hardware_flops=added(
            *(whole(each.last_totals.get("hardware_flops")) for each in measured),
        ),
        causal_flops=over_all("causal_flops"),
        counted_steps=over_all("counted_steps"),
        predicted_steps=over_all("predicted_steps"),
        estimated_steps=over_all("estimated_steps"),
        recounts=over_all("recounts"),
        standard_error=_together([number(each.get("flops_standard_error")) for each in told]),
        killed=sum(ledger.end is None for ledger in measured),
        parameters=_parameters(last),
        samples=over_all("samples"),
        formula=_text(last.get("flops_formula")),
        measured_utilization=shares[0] if len(shares) == 1 else None,
    )


def _told(ledger: Ledger) -> Mapping[str, Any]:
    """Return what a launch says of its counting, at its end and in its last record."""
    return {**(ledger.summary or {}), **ledger.last_totals}


def _together(errors: Sequence[float | None]) -> float | None:
    """Add the launches' errors, which are independent; None where one is not known."""
    known = [error for error in errors if error is not None]
    return hypot(*known) if known and len(known) == len(errors) else None


def _parameters(summary: Mapping[str, Any]) -> tuple[int, int | None] | None:
    every = whole(summary.get("parameters"))
    return None if every is None else (every, whole(summary.get("trainable_parameters")))


def uncounted_ops_of(ledgers: Iterable[Ledger]) -> dict[str, int] | None:
    """Add up the calls of all launches; of one that was killed, its records may say none."""
    calls: Counter[str] = Counter()
    for ledger in (each for each in ledgers if each.last_totals):
        ops = (ledger.summary or {}).get("uncounted_ops")
        kinds = [
            each.totals.get("uncounted_kinds", each.metrics.get("compute/uncounted_ops"))
            for each in ledger.progress
        ]
        known = [kind for kind in kinds if kind is not None]
        if isinstance(ops, Mapping):
            calls.update({str(name): whole(number) or 0 for name, number in ops.items()})
        elif not known or known[-1]:
            return None
    return {name: count for name, count in calls.items() if count}


def from_record(record: RunRecord) -> Entry:
    """Take a run from what a tracker knows of it."""
    seconds, devices, share = record.device_seconds, record.device_count, None
    if record.possible_flops and record.gpu_time_flops is not None:
        share = record.gpu_time_flops / record.possible_flops
    training = seconds / devices if record.segments == 1 and seconds and devices else None
    period = Period(
        started=record.started,
        launches=record.segments,
        devices=devices,
        device_name=record.device_name,
        device_seconds=seconds,
        training_seconds=training,
        peak_flops=record.possible_flops / seconds if record.possible_flops and seconds else None,
        utilization=share,
        operations=record.spent_flops,
        gpu_time=record.gpu_time_flops,
        note="" if record.segments == 1 else "all launches: the peak is their mean",
    )
    parts = record.parts if isinstance(record, SegmentedRun) else ()
    return Entry(
        name=record.name or _label(record.run_id),
        category=_category([record.category], record.run_id),
        origin="tracker",
        source=record.source,
        run=record.run_id,
        segments=tuple(part.id for part in parts),
        started=record.started,
        ended=record.ended,
        status=record.status,
        operations=record.spent_flops,
        run_flops=record.run_flops,
        lineage_flops=record.lineage_flops,
        gpu_time=record.gpu_time_flops,
        verdict=record.verdict,
        cause=record.cause,
        possible=record.possible_flops,
        device_seconds=seconds,
        training_seconds=training,
        steps=record.steps,
        periods=(period,),
        base=_base_of(record),
        notes=_notes_of(record),
        **energy_of(parts),
    )


def _base_of(record: RunRecord) -> Base | None:
    """Take the base's compute from the lineage; a tracker has no name of it."""
    run, lineage = record.run_flops, record.lineage_flops
    if run is None or run == lineage:
        return None
    return None if lineage is None else Base(flops=max(0, lineage - run), source=record.source)


def _notes_of(record: RunRecord) -> tuple[str, ...]:
    notes = [] if record.category else [_EARLY]
    if record.lineage_flops is None:
        notes.append("the tracker has no lineage: whether the run started from a model is unknown")
    if record.estimated:
        notes.append("no meter ran: method 2 from what the tracker knows")
    return tuple(notes)


def diagnosis_of(ledgers: Sequence[Ledger]) -> str:
    """Return the last one in words: that of the run, which the segment's summary is not.

    A launch that was killed said it when its verdict last changed, which may be long before.
    """
    events = (event for ledger in reversed(ledgers) for event in reversed(ledger.events))
    verdicts = (event.facts for event in events if event.name == "verdict")
    said = str(next(verdicts, {}).get("diagnosis", ""))
    return f"as last said: {said}" if said and ledgers[-1].end is None else said


def _label(run: str) -> str:
    """Name a run that has no name by the end of its id, which tells runs of one day apart."""
    return f"run {run[-8:]}"


def _base(name: object, flops: object, receipt: object, place: str) -> Base | None:
    if name is None and flops is None and receipt is None:
        return None
    by = "its compute receipt" if receipt else "what the run was given"
    return Base(
        name=_text(name) or "",
        flops=whole(flops),
        receipt=_text(receipt),
        source=f"{by}, as in {place}",
    )


def _category(recorded: Iterable[object], run: str) -> Category:
    named = {each if isinstance(each, str) else "training" for each in recorded}
    if len(named) > 1:
        raise DisclosureError(f"run {run} has launches of several categories: {_listed(named)}")
    (category,) = named
    if category not in CATEGORIES:
        raise DisclosureError(
            f"run {run}: its category is {category!r}, accepted are {_listed(CATEGORIES)}"
        )
    return cast("Category", category)


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _at_full_peak(gpu_time: int | None, share: float | None) -> int | None:
    return round(gpu_time / share) if gpu_time is not None and share else None
