"""The frozen records that cross the package's boundaries, and nothing that computes.

FLOP are Python ints, seconds are floats, times are seconds since the epoch (UTC). `None` means
"not measured" or "not known" everywhere; zero is only ever a measured zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from computemeter.forecast import Forecast, Projection

Verdict = Literal["agree", "warn", "alarm", "unknown"]
"""What the two methods say about each other."""
Cause = Literal[
    "count_suspect",
    "peak_suspect",
    "low_utilization",
    "input_bound",
    "short_run",
    "no_peak",
    "none",
]
"""Why they differ, or why nothing can be said, in one word."""
CATEGORIES = ("training", "synthetic_data")
"""What a metered run's compute is for."""


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted in one call or one training step.

    Attributes:
        model_flops: operations of the forward and backward passes, recomputation left out.
        hardware_flops: the same with recomputation.
        by_op: model FLOPs per operator; they add up to `model_flops`.
        by_dtype: model FLOPs per data type of the contraction's inputs ("float32").
        uncounted_ops: calls per operator that does arithmetic and has no formula.
        causal_flops: the part that a causal mask could skip, where an operator was told of one.
        contractions: calls of the operators that were counted; 0 where a counter does not say.
        contraction_bytes: size of what these calls read and wrote; 0 where it does not say.
    """

    model_flops: int = 0
    hardware_flops: int = 0
    by_op: Mapping[str, int] = field(default_factory=dict)
    by_dtype: Mapping[str, int] = field(default_factory=dict)
    uncounted_ops: Mapping[str, int] = field(default_factory=dict)
    causal_flops: int = 0
    contractions: int = 0
    contraction_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """One device as the framework sees it, with its dense peaks.

    Attributes:
        name: as the framework reports it ("NVIDIA H100 80GB HBM3").
        kind: "cuda", "cpu", "mps", "xpu", "tpu".
        peaks: dense peak in FLOP/s by precision ("fp32", "tf32", "fp16", "bf16", "fp8", "fp4",
            "int8", "fp64"); empty where the device is unknown.
        source: where the peaks come from, or why there are none and what to do about it.
        bandwidth: of its memory, in bytes/s; None where it is not known.
        idle_accelerator: of a CPU, the accelerator that the framework could have used instead.
    """

    name: str
    kind: str
    peaks: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    bandwidth: float | None = None
    idle_accelerator: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the two methods say about each other; see `computemeter.reconcile.judge`.

    Attributes:
        ratio: method 2 / method 1; None where one of them has no number.
        divergence: max(ratio, 1 / ratio).
        verdict: "agree", "warn", "alarm" or "unknown".
        cause: one fixed word for why the methods differ.
        diagnosis: one sentence with the evidence.
    """

    ratio: float | None
    divergence: float | None
    verdict: Verdict
    cause: Cause
    diagnosis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTotals:
    """What one segment (one launch) has done so far.

    The same fields wherever a segment is told of: in ledgers, checkpoints and trackers' tags.

    Attributes:
        steps: training steps (micro-batches).
        model_flops: method 1; None where nothing could be counted.
        hardware_flops: method 1 with recomputation.
        gpu_time_flops: method 2; None where no peak is known.
        training_seconds: first step to last, validation and checkpoints taken out.
        busy_seconds: the part in which the device worked on steps; None where not known.
        device_seconds: training seconds x devices.
        run_flops: the run's work in the current weights, over all segments.
        spent_flops: everything burned by the run, as far as this segment knows.
        lineage_flops: `run_flops` plus the base model's compute.
        verdict: of both methods over the run.
        cause: of the same.
        mfu: over this segment.
        started: seconds since the epoch.
        device_count: devices trained on.
        peak_flops: dense peak of one device in FLOP/s at the precision used.
        assumed_utilization: the share of peak that method 2 assumes.
        energy_joules: drawn by the GPUs, see `computemeter.energy`; None: not measured on all.
        counted_steps: counted as they ran; this and the next three are the first process's.
        predicted_steps: of a kind that was counted before.
        estimated_steps: booked at a mean or a guess.
        recounts: counts of a kind that had been counted before.
        flops_standard_error: of `model_flops`; 0 where counts of one kind never differed.
        causal_flops: the part of `model_flops` that causal masks could skip.
        samples: examples trained on.
        uncounted_kinds: operators that do arithmetic and have no formula, each once.
    """

    steps: int = 0
    model_flops: int | None = None
    hardware_flops: int | None = None
    gpu_time_flops: int | None = None
    training_seconds: float = 0.0
    busy_seconds: float | None = None
    device_seconds: float = 0.0
    run_flops: int | None = None
    spent_flops: int | None = None
    lineage_flops: int | None = None
    verdict: Verdict = "unknown"
    cause: Cause = "none"
    mfu: float | None = None
    started: float | None = None
    device_count: int | None = None
    peak_flops: float | None = None
    assumed_utilization: float | None = None
    energy_joules: float | None = None
    counted_steps: int | None = None
    predicted_steps: int | None = None
    estimated_steps: int | None = None
    recounts: int | None = None
    flops_standard_error: float | None = None
    causal_flops: int | None = None
    samples: int | None = None
    uncounted_kinds: int | None = None

    @classmethod
    def from_mapping(cls, totals: Mapping[str, Any]) -> Self:
        """Take what is known of a segment from a file or a tag; what is missing is not known.

        Raises:
            TypeError: a value is of another type.
        """
        known = {each.name: totals[each.name] for each in fields(cls) if each.name in totals}
        for name, value in known.items():
            word = name in {"verdict", "cause"}
            right = isinstance(value, str) if word else _is_number(value)
            if not right and (value is not None or name in _NEVER_NONE):
                raise TypeError(f"a segment's {name} cannot be {value!r}")
        return cls(**known)

    @property
    def busy_device_seconds(self) -> float | None:
        """Busy seconds x devices."""
        busy, devices = self.busy_seconds, self.device_count
        return None if busy is None or devices is None else busy * devices

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


_NEVER_NONE = {"steps", "training_seconds", "device_seconds", "verdict", "cause"}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one logging step.

    Attributes:
        time: seconds since the epoch.
        step: the tracker's step this belongs to.
        totals: of this segment.
        judgement: of both methods over all segments of the run.
        uncounted_ops: calls per operator that does arithmetic and has no formula.
        metrics: the values for the trackers under their fixed names (`compute/pfs_days`, ...);
            rates cover the interval since the last snapshot.
        forecast: what is expected of the run from here; None where nothing can be said.
    """

    time: float
    step: int
    totals: SegmentTotals
    judgement: Judgement
    uncounted_ops: Mapping[str, int]
    metrics: Mapping[str, float]
    forecast: Forecast | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The compute of one segment (one launch of a job), by both methods.

    Attributes:
        steps: training steps (micro-batches) that ran.
        model_flops: method 1, operations without recomputation; None where steps ran and none
            could be counted, as everything that follows from it.
        hardware_flops: method 1 with recomputation.
        flops_per_step: mean model FLOPs of a step.
        pfs_days: method 1 in petaflop/s-days.
        pfs_days_gpu_time: method 2 (devices x peak x training seconds x assumed utilisation).
        ratio: method 2 / method 1.
        divergence: max(ratio, 1 / ratio).
        verdict: "agree", "warn", "alarm" or "unknown".
        cause: one fixed word for why the methods differ.
        diagnosis: one sentence with the evidence.
        mfu: model FLOPs / (devices x training seconds x peak); None where it came out above 1.
        hfu: the same with hardware FLOPs.
        training_seconds: first step to last, stalls included, validation and checkpoints not.
        busy_seconds: the part in which the device worked on steps.
        compile_seconds: what compiling took, tracing included; part of the training seconds.
        wall_seconds: from the beginning of the fit to its end, everything included.
        host_seconds: the parts of `wall_seconds`: "step", "stall" (waiting for data), "validation",
            "checkpoint", "compile", "counting" (what the meter's counting cost) and "other".
        device_seconds: training seconds x devices.
        device_name: as the framework reports it.
        device_count: devices the run trained on.
        peak_flops: dense peak of one device in FLOP/s at the precision used.
        precision: precision of most of the FLOPs ("fp32").
        assumed_utilization: the share of peak that method 2 assumes.
        measured_utilization: share of the training in which the device's tensor pipes were active,
            where that can be read; an upper bound of the share of peak.
        utilization_source: where that comes from.
        pfs_days_gpu_time_measured: method 2 with the measured share in place of the assumed one.
        uncounted_ops: calls per operator that does arithmetic and has no formula.
        flops_formula: closed form of a step's FLOPs where one is known.
        by_op: model FLOPs per operator.
        by_dtype: model FLOPs per data type.
        causal_flops: the part of `model_flops` that causal masks could skip, where an operator was
            told that its mask is causal; a mask given as a tensor cannot be known.
        counted_steps: steps whose operations were counted as they ran.
        predicted_steps: steps of a kind that was counted before.
        estimated_steps: steps booked at a mean or a guess.
        flops_standard_error: of `model_flops`; 0: counts of one kind never differed.
        samples: examples trained on, where batches could be measured; one that several processes
            share (tensor parallelism) counts for each of them.
        parameters: of the trained module.
        trainable_parameters: the part that requires a gradient.
        other_flops: validation, test, predict; outside every total; None: not measured.
        run_flops: this run's work in the final weights, all segments.
        spent_flops: everything burned in this run's segments.
        lineage_flops: run plus the base it started from; None where the base is not known.
        warnings: what went wrong inside the meter.
        energy_joules: drawn by the GPUs, see `computemeter.energy`; None: not measured on all.
        projection: what the first forecast said beside what became of it; None: there was none.
    """

    steps: int
    model_flops: int | None
    hardware_flops: int | None
    flops_per_step: int | None
    pfs_days: float | None
    pfs_days_gpu_time: float | None
    ratio: float | None
    divergence: float | None
    verdict: Verdict
    cause: Cause
    diagnosis: str
    mfu: float | None
    hfu: float | None
    training_seconds: float
    busy_seconds: float | None
    compile_seconds: float | None
    wall_seconds: float
    host_seconds: Mapping[str, float]
    device_seconds: float
    device_name: str
    device_count: int
    peak_flops: float | None
    precision: str | None
    assumed_utilization: float
    measured_utilization: float | None
    utilization_source: str | None
    pfs_days_gpu_time_measured: float | None
    uncounted_ops: Mapping[str, int]
    flops_formula: str | None
    by_op: Mapping[str, int]
    by_dtype: Mapping[str, int]
    causal_flops: int
    counted_steps: int
    predicted_steps: int
    estimated_steps: int
    flops_standard_error: float | None
    samples: int | None
    parameters: int | None
    trainable_parameters: int | None
    other_flops: int | None
    run_flops: int | None
    spent_flops: int | None
    lineage_flops: int | None
    warnings: tuple[str, ...] = ()
    energy_joules: float | None = None
    projection: Projection | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, fit for `json.dumps`."""
        return asdict(self)

    def __str__(self) -> str:
        from computemeter.table import render

        return render(self)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of a team, as a source (a ledger, MLflow, W&B) yields it.

    Attributes:
        run_id: the tracker's run id; in a ledger the first segment's id.
        source: where it was read, without credentials.
        url: a page to open the run on, where there is one.
        name: the run's name (untrusted text).
        user: who started it (untrusted text).
        project: from `project=`, the experiment or the W&B project.
        team: from `team=`.
        started: seconds since the epoch.
        ended: seconds since the epoch; None while it runs or where it was killed.
        status: "running", "finished", "failed", "interrupted" or "unknown".
        device_name: as the framework reported it.
        device_count: devices the run trained on.
        run_flops: the work in the final weights.
        spent_flops: everything burned in its segments.
        lineage_flops: run plus its base; None where the base is not known.
        gpu_time_flops: method 2 over the same segments as `spent_flops`.
        ratio: method 2 / method 1.
        verdict: of the last segment.
        cause: of the last segment.
        mfu: over all segments.
        device_seconds: training seconds x devices, all segments.
        segments: how many launches were added up.
        estimated: true where no meter ran and the tracker's own facts were used.
        steps: of all segments; None where a source does not say.
        possible_flops: what the devices could have done at their peak in that time, if known.
        tags: the user's own, not those of the tracker and of the meter (untrusted text); W&B's,
            which have no values, as names without one.
        category: what the compute was for ("training", "synthetic_data"), where the run says.
    """

    run_id: str
    source: str
    url: str | None
    name: str
    user: str | None
    project: str | None
    team: str | None
    started: float | None
    ended: float | None
    status: str
    device_name: str | None
    device_count: int | None
    run_flops: int | None
    spent_flops: int | None
    lineage_flops: int | None
    gpu_time_flops: int | None
    ratio: float | None
    verdict: Verdict
    cause: Cause
    mfu: float | None
    device_seconds: float | None
    segments: int
    estimated: bool
    steps: int | None = None
    possible_flops: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    category: str | None = None

    @property
    def overclaims(self) -> bool:
        """Whether it claims more than its devices could have done: marked, and in no sum."""
        possible, claimed = self.possible_flops, self.spent_flops
        return possible is not None and claimed is not None and claimed > possible
