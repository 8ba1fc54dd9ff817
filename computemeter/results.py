"""From what was collected to what is reported: pure functions, no clock and no framework."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from computemeter.evidence import Evidence
from computemeter.forecast import Forecast, Projection
from computemeter.options import Options
from computemeter.peaks import REMEDY, main_precision, unknown_precisions
from computemeter.reconcile import judge, mfu
from computemeter.records import Count, Judgement, SegmentTotals, Snapshot, Summary
from computemeter.run_reading import Reading
from computemeter.units import SECONDS_PER_HOUR, pfs_days


def judge_segment(reading: Reading) -> Judgement:
    """Compare the methods over this segment alone, as a `Summary` does."""
    return judge(
        _evidence(reading, reading.model_flops, reading.gpu_time_flops, reading.device_seconds)
    )


def judge_run(reading: Reading) -> Judgement:
    """Compare the methods over all segments of the run, as the trackers do."""
    if not reading.carried.device_seconds or reading.spent_flops is None:
        return judge_segment(reading)
    seconds, flops = reading.run_device_seconds, reading.spent_flops
    evidence = _evidence(reading, flops, reading.run_gpu_time_flops, seconds)
    steps = reading.carried.steps + reading.totals.steps
    training = reading.carried.training_seconds + reading.training_seconds
    settled = _is_settled(reading.options, steps, training)
    return judge(
        replace(
            evidence,
            # Earlier segments may have run on another device: there is no one peak, but method 2
            # has all.
            peak_flops=None,
            steps=steps,
            settled=settled,
            # What is known of waiting and compiling is this segment's, and so is their share.
            training_seconds=evidence.training_seconds if settled else training,
        )
    )


def _is_settled(options: Options, steps: int, seconds: float) -> bool:
    return steps >= options.settle_steps and seconds >= options.settle_seconds


def _evidence(
    reading: Reading, flops: int, gpu_time_flops: int | None, device_seconds: float
) -> Evidence:
    options, totals = reading.options, reading.totals
    return Evidence(
        model_flops=flops,
        gpu_time_flops=gpu_time_flops,
        hardware_flops=flops + reading.hardware_flops - reading.model_flops,
        device_seconds=device_seconds,
        training_seconds=reading.training_seconds,
        busy_seconds=reading.busy_seconds,
        steps=totals.steps,
        peak_flops=reading.peak_flops,
        assumed_utilization=reading.assumed_utilization,
        uncounted_ops=totals.count.uncounted_ops,
        settled=_is_settled(options, totals.steps, reading.training_seconds),
        settle_steps=options.settle_steps,
        settle_seconds=options.settle_seconds,
        no_peak_reason=_no_peak_reason(reading),
        no_count_reason=reading.no_count_reason,
        warn_at=options.warn_at,
        alarm_at=options.alarm_at,
        device_kind=reading.known_device.kind,
        stall_seconds=reading.host.stall_in_training,
        compile_seconds=reading.host.compiling,
        flops_per_contraction=_per(totals.as_counted, totals.as_counted.contractions),
        flops_per_byte=_per(totals.as_counted, totals.as_counted.contraction_bytes),
        bandwidth=reading.known_device.bandwidth,
        idle_accelerator=reading.known_device.idle_accelerator,
    )


def _no_peak_reason(reading: Reading) -> str:
    device, by_dtype = reading.known_device, reading.totals.count.by_dtype
    without = unknown_precisions(by_dtype, device.peaks) if device.peaks else []
    if without:
        return f"no {' or '.join(without)} peak of {device.name} is known; {REMEDY}"
    return device.source


def _per(counted: Count, divisor: int) -> float | None:
    return counted.model_flops / divisor if divisor else None


def summarise(
    reading: Reading, flops_formula: str | None = None, projection: Projection | None = None
) -> Summary:
    """Write the summary of this segment; `flops_formula` as the book knows it."""
    totals, judgement = reading.totals, judge_segment(reading)
    flops, hardware, steps = reading.model_flops, reading.hardware_flops, totals.steps
    measured = reading.measured
    two = reading.gpu_time_flops
    parameters, trained = reading.parameters or (None, None)
    return Summary(
        steps=steps,
        model_flops=flops if measured else None,
        hardware_flops=hardware if measured else None,
        flops_per_step=round(flops / steps) if steps and measured else None,
        pfs_days=pfs_days(flops) if measured else None,
        pfs_days_gpu_time=None if two is None else pfs_days(two),
        ratio=judgement.ratio,
        divergence=judgement.divergence,
        verdict=judgement.verdict,
        cause=judgement.cause,
        diagnosis=judgement.diagnosis,
        mfu=mfu(flops, reading.device_seconds, reading.peak_flops),
        hfu=mfu(hardware, reading.device_seconds, reading.peak_flops),
        training_seconds=reading.training_seconds,
        busy_seconds=reading.busy_seconds,
        compile_seconds=reading.host.all_compiling,
        wall_seconds=reading.host.wall,
        host_seconds=reading.host.parts(),
        device_seconds=reading.device_seconds,
        device_name=reading.known_device.name,
        device_count=reading.device_count,
        peak_flops=reading.peak_flops,
        precision=main_precision(totals.count.by_dtype),
        assumed_utilization=reading.assumed_utilization,
        measured_utilization=reading.measured_utilization,
        utilization_source=reading.utilization_source,
        pfs_days_gpu_time_measured=reading.pfs_days_measured,
        uncounted_ops=totals.count.uncounted_ops,
        flops_formula=flops_formula,
        by_op=totals.count.by_op,
        by_dtype=totals.count.by_dtype,
        causal_flops=totals.count.causal_flops,
        counted_steps=totals.counted_steps,
        predicted_steps=totals.predicted_steps,
        estimated_steps=totals.estimated_steps,
        flops_standard_error=_standard_error(reading),
        samples=totals.samples,
        parameters=parameters,
        trainable_parameters=trained,
        other_flops=None,
        run_flops=reading.run_flops,
        spent_flops=reading.spent_flops,
        lineage_flops=reading.lineage_flops,
        warnings=reading.warnings,
        energy_joules=reading.energy_joules,
        projection=projection,
    )


def take_snapshot(
    reading: Reading,
    previous: Snapshot | None,
    *,
    step: int,
    time: float,
    loss: float | None = None,
    forecast: Forecast | None = None,
) -> Snapshot:
    """Write the state at one logging step, with rates since the previous snapshot.

    Args:
        reading: what was collected so far.
        previous: None at the first logging step; its rates are since the run began.
        step: the tracker's step.
        time: seconds since the epoch.
        loss: the training loss, logged again beside the compute.
        forecast: what is expected of the run; the trackers have it only with `verbose=2`.
    """
    judgement = judge_run(reading)
    metrics = {
        **_cumulative_metrics(reading, judgement),
        **_interval_metrics(reading, previous.totals if previous else None),
        "compute/loss": loss,
    }
    if forecast is not None and reading.options.verbose > 1:
        metrics["compute/eta_seconds"] = forecast.seconds_left
        metrics["compute/projected_pfs_days"] = forecast.pfs_days
    return Snapshot(
        time=time,
        step=step,
        totals=segment_totals(reading, judgement),
        judgement=judgement,
        uncounted_ops=reading.totals.count.uncounted_ops,
        metrics={name: value for name, value in metrics.items() if value is not None},
        forecast=forecast,
    )


def segment_totals(reading: Reading, judgement: Judgement) -> SegmentTotals:
    """Say what the segment has done so far; `judgement` is the run's."""
    measured = reading.measured
    return SegmentTotals(
        steps=reading.totals.steps,
        model_flops=reading.model_flops if measured else None,
        hardware_flops=reading.hardware_flops if measured else None,
        gpu_time_flops=reading.gpu_time_flops,
        training_seconds=reading.training_seconds,
        busy_seconds=reading.busy_seconds,
        device_seconds=reading.device_seconds,
        run_flops=reading.run_flops,
        spent_flops=reading.spent_flops,
        lineage_flops=reading.lineage_flops,
        verdict=judgement.verdict,
        cause=judgement.cause,
        mfu=mfu(reading.model_flops, reading.device_seconds, reading.peak_flops),
        started=reading.started,
        device_count=reading.device_count,
        peak_flops=reading.peak_flops,
        assumed_utilization=reading.assumed_utilization,
        energy_joules=reading.energy_joules,
        **_how_counted(reading),
    )


def _how_counted(reading: Reading) -> dict[str, Any]:
    """Say how method 1 came about; nothing where the meter may have missed steps."""
    totals = reading.totals
    if not reading.metering:
        return {}
    return {
        "counted_steps": totals.counted_steps,
        "predicted_steps": totals.predicted_steps,
        "estimated_steps": totals.estimated_steps,
        "recounts": totals.recounts,
        "flops_standard_error": _standard_error(reading),
        "causal_flops": totals.count.causal_flops if reading.measured else None,
        "samples": totals.samples,
        "uncounted_kinds": _uncounted_kinds(reading),
    }


def _standard_error(reading: Reading) -> float | None:
    totals = reading.totals
    known = reading.metering and (totals.counted_steps or not totals.steps)
    return (totals.standard_error or 0.0) if known else None


def _uncounted_kinds(reading: Reading) -> int | None:
    totals = reading.totals
    return len(totals.count.uncounted_ops) if totals.counted_steps else None


def _cumulative_metrics(reading: Reading, judgement: Judgement) -> dict[str, float | None]:
    busy, two = reading.run_busy_device_seconds, reading.run_gpu_time_flops
    run, spent, lineage = reading.run_flops, reading.spent_flops, reading.lineage_flops
    return {
        # A count that shows nothing is not measured, and not a zero on a chart.
        "compute/pfs_days": None if run is None else pfs_days(run),
        "compute/flops": run,
        "compute/pfs_days_gpu_time": None if two is None else pfs_days(two),
        "compute/ratio": judgement.ratio,
        "compute/divergence": judgement.divergence,
        "compute/device_hours": reading.run_device_seconds / SECONDS_PER_HOUR,
        "compute/busy_device_hours": None if busy is None else busy / SECONDS_PER_HOUR,
        "compute/spent_pfs_days": None if spent is None or spent == run else pfs_days(spent),
        "compute/lineage_pfs_days": (
            None if lineage is None or lineage == run else pfs_days(lineage)
        ),
        "compute/uncounted_ops": _uncounted_kinds(reading),
    }


def _interval_metrics(reading: Reading, previous: SegmentTotals | None) -> dict[str, float | None]:
    steps, model, hardware = reading.totals.steps, reading.model_flops, reading.hardware_flops
    seconds, busy = reading.training_seconds, reading.busy_seconds
    if previous is not None and previous.steps and previous.model_flops is None:
        return {}  # the work of before is only known now: no rate of this interval
    if previous is not None:
        steps -= previous.steps
        model -= previous.model_flops or 0
        hardware -= previous.hardware_flops or 0
        seconds -= previous.training_seconds
        busy = None if busy is None else busy - (previous.busy_seconds or 0.0)
    if steps <= 0 or seconds <= 0 or model <= 0:
        return {}
    device_seconds = seconds * reading.device_count
    return {
        "compute/flops_per_step": model / steps,
        "compute/flops_per_sec": model / seconds,
        "compute/mfu": mfu(model, device_seconds, reading.peak_flops),
        "compute/hfu": mfu(hardware, device_seconds, reading.peak_flops),
        "compute/busy_fraction": None if busy is None else busy / seconds,
    }
