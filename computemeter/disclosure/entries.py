"""What a disclosure is made of: runs, figures given by hand, and the models they started from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

from computemeter.disclosure import DisclosureError

Category = Literal["training", "synthetic_data", "excluded"]
Origin = Literal["ledger", "receipt", "tracker", "manual"]

NOT_MEASURED = "not measured"
"""Said of an energy where nothing was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A time in which the number and kind of devices did not change.

    Attributes:
        started: seconds since the epoch.
        launches: segments that it covers.
        devices: N of the guidelines' hardware method.
        device_name: as the framework reported it (untrusted text).
        device_seconds: N x L, training seconds x devices.
        training_seconds: L, wall time from the first training step to the last, stalls included,
            validation and checkpoints taken out.
        peak_flops: H, dense peak of one device in FLOP/s at the precision used.
        precision: of most of the FLOPs.
        utilization: U, the share of peak that method 2 assumes.
        operations: method 1.
        gpu_time: method 2.
        note: what this row is, where it is no exact account of a launch.
    """

    started: float | None = None
    launches: int = 1
    devices: int | None = None
    device_name: str | None = None
    device_seconds: float | None = None
    training_seconds: float | None = None
    peak_flops: float | None = None
    precision: str | None = None
    utilization: float | None = None
    operations: int | None = None
    gpu_time: int | None = None
    note: str = ""


def merged(periods: tuple[Period, ...]) -> tuple[Period, ...]:
    """Make one period of launches that follow each other on the same devices."""
    return tuple(_one(tuple(same)) for _, same in groupby(periods, key=_hardware))


def _hardware(period: Period) -> tuple[object, ...]:
    p = period
    return p.devices, p.device_name, p.peak_flops, p.precision, p.utilization, p.note


def _one(same: tuple[Period, ...]) -> Period:
    first = same[0]
    return Period(
        started=first.started,
        launches=sum(each.launches for each in same),
        devices=first.devices,
        device_name=first.device_name,
        device_seconds=added(*(each.device_seconds for each in same)),
        training_seconds=added(*(each.training_seconds for each in same)),
        peak_flops=first.peak_flops,
        precision=first.precision,
        utilization=first.utilization,
        operations=added(*(each.operations for each in same)),
        gpu_time=added(*(each.gpu_time for each in same)),
        note=first.note,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """How method 1 came about, over all launches of a run; None for what one cannot say.

    Attributes:
        uncounted_ops: calls per operator without a formula; {} where all have one.
        hardware_flops: operations with recomputation.
        causal_flops: the part of the operations that causal masks could skip.
        counted_steps: counted as they ran.
        predicted_steps: of a kind that was counted.
        estimated_steps: booked at a mean.
        recounts: counts of a kind that had been counted before.
        standard_error: of the operations, in FLOP; 0 where counts of one kind never differed.
        killed: launches that were killed, or still run.
        parameters: of the module, P of the architecture method; (all, trained).
        samples: examples trained on.
        formula: closed form of a step's FLOPs.
        measured_utilization: share of time with tensor pipes active: an upper bound of U.
    """

    uncounted_ops: Mapping[str, int] | None = None
    hardware_flops: int | None = None
    causal_flops: int | None = None
    counted_steps: int | None = None
    predicted_steps: int | None = None
    estimated_steps: int | None = None
    recounts: int | None = None
    standard_error: float | None = None
    killed: int = 0
    parameters: tuple[int, int | None] | None = None
    samples: int | None = None
    formula: str | None = None
    measured_utilization: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A model whose weights a run started from.

    Attributes:
        name: untrusted text.
        flops: that made its weights, its own bases included; None where it is not known.
        receipt: hash of its compute receipt.
        source: who says so.
        error: its stated error, as a share.
    """

    name: str = ""
    flops: int | None = None
    receipt: str | None = None
    source: str = ""
    error: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One run, or one figure given by hand.

    Attributes:
        name: untrusted text, as is every text below.
        category: what it counts as.
        origin: where it was read.
        source: the file, the tracker, or who says so.
        reason: why it is left out.
        run: its id; None for a figure given by hand.
        segments: ids of the launches.
        started: when its first launch began, in seconds since the epoch.
        ended: when its last record was written, in seconds since the epoch.
        status: how the run ended.
        operations: method 1, everything the run burned.
        run_flops: method 1, the work in the final weights.
        lineage_flops: the same with the base.
        gpu_time: method 2, over the same launches as `operations`.
        verdict: of both methods, as the meter had it.
        cause: why they differ.
        diagnosis: one sentence with the evidence.
        possible: device seconds x peak.
        device_seconds: training seconds x devices.
        training_seconds: of all launches, one after the other.
        steps: training steps.
        planned_steps: training steps (micro-batches) that are to be in the final weights.
        periods: launches by their devices.
        counting: how method 1 came about; None where that is not known.
        base: the model it started from.
        receipt: hash of the run's own compute receipt.
        error: stated error, as a share.
        energy_kwh: drawn; None where it is not known.
        energy_source: who says so; of an energy that is not known, in how far it was measured.
        inputs: factors that were given by hand, by name.
        notes: what else a reader should know.
    """

    name: str
    category: Category
    origin: Origin
    source: str
    reason: str = ""
    run: str | None = None
    segments: tuple[str, ...] = ()
    started: float | None = None
    ended: float | None = None
    status: str = ""
    operations: int | None = None
    run_flops: int | None = None
    lineage_flops: int | None = None
    gpu_time: int | None = None
    verdict: str = ""
    cause: str = ""
    diagnosis: str = ""
    possible: int | None = None
    device_seconds: float | None = None
    training_seconds: float | None = None
    steps: int | None = None
    planned_steps: int | None = None
    periods: tuple[Period, ...] = ()
    counting: Counting | None = None
    base: Base | None = None
    receipt: str | None = None
    error: float | None = None
    energy_kwh: float | None = None
    energy_source: str = NOT_MEASURED
    inputs: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether it is part of the model's compute."""
        return self.category != "excluded"

    @property
    def flops(self) -> int | None:
        """What it adds to the model: of training what is in the weights, of data generation all.

        By method 1; by method 2, which cannot leave out what a crash threw away, where method 1
        has no figure.
        """
        own = self.run_flops if self.category == "training" else self.operations
        return self.gpu_time if own is None else own

    @property
    def by_gpu_time(self) -> bool:
        """Whether `flops` is method 2's."""
        own = self.run_flops if self.category == "training" else self.operations
        return own is None and self.gpu_time is not None

    @property
    def thrown_away(self) -> int | None:
        """Work that is in no final weights; None where it is not known. Discarded data counts."""
        if self.category == "synthetic_data" or self.by_gpu_time:
            return 0
        spent, kept = self.operations, self.run_flops
        return None if spent is None or kept is None or kept > spent else spent - kept

    @property
    def recomputed(self) -> int | None:
        """Operations that were done again (activation checkpointing): in no total."""
        hardware = self.counting.hardware_flops if self.counting else None
        if hardware is None or self.operations is None:
            return None
        return max(0, hardware - self.operations)

    @property
    def ratio(self) -> float | None:
        """Method 2 / method 1, over the same launches."""
        return self.gpu_time / self.operations if self.gpu_time and self.operations else None

    @property
    def implied_utilization(self) -> float | None:
        """Model FLOPs of method 1 / (device seconds x peak): MFU."""
        return self.operations / self.possible if self.operations and self.possible else None

    @property
    def hardware_utilization(self) -> float | None:
        """The same with recomputation: HFU."""
        hardware = self.counting.hardware_flops if self.counting else None
        return hardware / self.possible if hardware and self.possible else None

    @property
    def projected(self) -> int | None:
        """What it adds when all planned steps are in its weights, at the mean of those that ran."""
        burned = self.gpu_time if self.operations is None else self.operations
        if self.planned_steps is None or self.flops is None or burned is None or not self.steps:
            return self.flops
        return burned * self.planned_steps // self.steps

    def with_plan(self, steps: int) -> Entry:
        """Say how many steps are to be in the run's final weights.

        Raises:
            DisclosureError: more have run, or it is not known how many have.
        """
        if self.steps is None:
            raise DisclosureError("planned_steps: how many steps have run is not known")
        kept = self.steps
        if self.flops is not None and self.operations:
            kept = self.steps * self.flops // self.operations
        if steps < kept:
            raise DisclosureError(f"planned_steps = {steps}: {kept:,} steps have run already")
        return replace(self, planned_steps=steps)


def added(*values: Any) -> Any:
    """Add up; None where one of them is not known, and where there is none."""
    return sum(values) if values and None not in values else None
