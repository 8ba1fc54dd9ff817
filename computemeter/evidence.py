"""What a verdict is reached by: plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What `judge` looks at: plain numbers, all over the same segments of a run.

    Attributes:
        model_flops: method 1, operations without recomputation.
        gpu_time_flops: method 2; None where no peak is known.
        hardware_flops: method 1 with recomputation.
        device_seconds: training seconds x devices.
        training_seconds: first step to last, validation and checkpoints taken out.
        busy_seconds: the part spent in steps; None where it was not measured.
        steps: training steps that ran.
        peak_flops: dense peak of one device in FLOP/s; None where unknown.
        assumed_utilization: share of peak that method 2 assumes.
        uncounted_ops: calls per operator that does arithmetic and has no formula.
        settled: whether the run is past `settle_steps` and `settle_seconds`.
        settle_steps: steps before which there is no verdict.
        settle_seconds: training seconds before which there is no verdict.
        no_peak_reason: why no peak is known and what to do about it.
        warn_at: divergence from which the verdict is "warn".
        alarm_at: divergence from which it is "alarm".
        device_kind: "cuda", "cpu", "mps", "xpu", "tpu".
        no_count_reason: why nothing could be counted, where that is known.
        stall_seconds: waiting for data; None where that was not timed by itself.
        compile_seconds: compiling; None where it was not measured.
        flops_per_contraction: mean over the calls in counted steps; None where not known.
        flops_per_byte: what these calls did for each byte that they read or wrote, at least; None
            where not known.
        bandwidth: of the device's memory, in bytes/s; None where not known.
        idle_accelerator: one that is there while the run is on the CPU.
    """

    model_flops: int
    gpu_time_flops: int | None
    hardware_flops: int
    device_seconds: float
    training_seconds: float
    busy_seconds: float | None
    steps: int
    peak_flops: float | None
    assumed_utilization: float
    uncounted_ops: Mapping[str, int]
    settled: bool
    settle_steps: int
    settle_seconds: float
    no_peak_reason: str
    warn_at: float
    alarm_at: float
    device_kind: str
    no_count_reason: str | None = None
    stall_seconds: float | None = None
    compile_seconds: float | None = None
    flops_per_contraction: float | None = None
    flops_per_byte: float | None = None
    bandwidth: float | None = None
    idle_accelerator: str | None = None
