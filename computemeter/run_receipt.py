"""The receipt of a run, from what its last segment knows."""

from __future__ import annotations

from collections.abc import Sequence

from computemeter.receipt import ComputeReceipt
from computemeter.records import Judgement, Summary
from computemeter.run_reading import Reading
from computemeter.units import SECONDS_PER_HOUR


def receipt_of(
    reading: Reading,
    summary: Summary,
    judgement: Judgement,
    *,
    run: str,
    segments: Sequence[str],
    name: str,
    status: str,
) -> ComputeReceipt:
    """Write down what the run cost.

    Args:
        reading: of the last segment, with all that earlier ones handed on.
        summary: of the last segment.
        judgement: of both methods over the run.
        run: the run's id.
        segments: ids of all its segments.
        name: the run's.
        status: how the last segment ended.
    """
    base = reading.base
    return ComputeReceipt(
        run=run,
        segments=tuple(segments),
        name=name,
        status=status,
        steps=reading.carried.steps + summary.steps,
        run_flops=reading.run_flops,
        spent_flops=reading.spent_flops,
        lineage_flops=reading.lineage_flops,
        model_flops=reading.spent_flops,
        gpu_time_flops=reading.run_gpu_time_flops,
        ratio=judgement.ratio,
        verdict=judgement.verdict,
        cause=judgement.cause,
        diagnosis=judgement.diagnosis,
        device_hours=reading.run_device_seconds / SECONDS_PER_HOUR,
        device_name=reading.known_device.name,
        device_count=reading.device_count,
        peak_flops=reading.peak_flops,
        assumed_utilization=reading.assumed_utilization,
        precision=summary.precision,
        uncounted_ops=summary.uncounted_ops,
        base_model=base.name or None if base else None,
        base_flops=base.flops if base else None,
        parents=(base.receipt,) if base and base.receipt else (),
        project=reading.options.project,
        team=reading.options.team,
        category=reading.options.category,
        energy_joules=reading.run_energy_joules,
    )
