"""From what was collected to what is reported: pure functions, no clock and no framework."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real

from computemeter.base_model import BaseModel
from computemeter.book import Totals
from computemeter.carried import Carried
from computemeter.estimate import CPU_UTILIZATION, GPU_UTILIZATION, flops_from_gpu_time
from computemeter.evidence import Evidence
from computemeter.forecast import Forecast, Projection
from computemeter.host_time import HostTime
from computemeter.options import Options
from computemeter.peaks import effective_peak, main_precision
from computemeter.reconcile import judge, mfu
from computemeter.records import Count, Device, Judgement, SegmentTotals, Snapshot, Summary
from computemeter.units import pfs_days

_NO_DEVICE = Device(name="unknown", kind="unknown", source="no operation has been counted yet")
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything a meter has collected at one moment.

    Attributes:
        totals: FLOPs, calls and samples of all processes, steps of this one.
        added_flops: what the user added by hand.
        host: where the wall time went.
        device: None before it is known.
        device_count: devices the run trains on; each process counts the work of its own.
        parameters: (all, trained); None where they are not known.
        warnings: what went wrong inside the meter.
        metering: False where the meter could not be attached to the training.
        measured_utilization: share of the training in which the tensor pipes were active.
        utilization_source: where that comes from.
        dtype: that the model computes in, as far as the counter knows without having counted.
        no_count_reason: why nothing can be counted.
        started: when the segment began, in seconds since the epoch.
        energy_joules: drawn by the GPUs of all processes; None where one is not measured.
    """

    totals: Totals
    added_flops: int
    training_seconds: float
    busy_seconds: float | None
    host: HostTime
    device: Device | None
    device_count: int
    options: Options
    carried: Carried
    parameters: tuple[int, int] | None
    warnings: tuple[str, ...] = ()
    metering: bool = True
    measured_utilization: float | None = None
    utilization_source: str | None = None
    dtype: str | None = None
    no_count_reason: str | None = None
    started: float | None = None
    energy_joules: float | None = None

    @property
    def measured(self) -> bool:
        """Whether method 1 has a number: zero is one only where no step could have run."""
        return self.metering and (not self.totals.steps or self.model_flops > 0)

    @property
    def model_flops(self) -> int:
        """Method 1 of all ranks."""
        return self.totals.count.model_flops + self.added_flops

    @property
    def hardware_flops(self) -> int:
        """Method 1 with recomputation, of all ranks."""
        return self.totals.count.hardware_flops + self.added_flops

    @property
    def device_seconds(self) -> float:
        """Training seconds x devices."""
        return self.training_seconds * self.device_count

    @property
    def known_device(self) -> Device:
        """The device, or a stand-in that says why there is none."""
        return self.device or _NO_DEVICE

    @property
    def peak_flops(self) -> float | None:
        """Dense peak of one device in FLOP/s at the precisions used."""
        by_dtype = self.totals.count.by_dtype or self._dtype_without_a_count
        return effective_peak(by_dtype, self.known_device.peaks)

    @property
    def _dtype_without_a_count(self) -> dict[str, int]:
        if self.no_count_reason is None:
            return {}
        # A peak of the user's is the same at every precision.
        dtype = self.dtype or ("float32" if isinstance(self.options.peak_flops, Real) else None)
        return {} if dtype is None else {dtype: 1}

    @property
    def assumed_utilization(self) -> float:
        """The user's share of peak, or the literature's for the kind of device."""
        if self.options.assumed_utilization is not None:
            return self.options.assumed_utilization
        return CPU_UTILIZATION if self.known_device.kind == "cpu" else GPU_UTILIZATION

    @property
    def gpu_time_flops(self) -> int | None:
        """Method 2 over this segment."""
        if self.peak_flops is None:
            return None
        if self.training_seconds <= 0:
            return 0
        return flops_from_gpu_time(
            self.device_count, self.training_seconds, self.peak_flops, self.assumed_utilization
        )

    @property
    def pfs_days_measured(self) -> float | None:
        """Method 2 over this segment with the measured utilisation in place of the assumed one."""
        if self.gpu_time_flops is None or self.measured_utilization is None:
            return None
        share = self.measured_utilization / self.assumed_utilization
        return pfs_days(round(self.gpu_time_flops * share))

    @property
    def run_gpu_time_flops(self) -> int | None:
        """Method 2 over all segments of the run; None where one of them has no peak."""
        own, before = self.gpu_time_flops, self.carried.gpu_time_flops
        return None if own is None or before is None else own + before

    @property
    def run_flops(self) -> int | None:
        """This run's work in the final weights, all segments; None where one is not known."""
        return self._with(self.carried.run_flops)

    @property
    def spent_flops(self) -> int | None:
        """Everything burned in this run's segments; None where one is not known."""
        return self._with(self.carried.spent_flops)

    @property
    def run_busy_device_seconds(self) -> float | None:
        """Busy seconds x devices over all segments; None where one has none."""
        own, before = self.busy_seconds, self.carried.busy_device_seconds
        return None if own is None or before is None else own * self.device_count + before

    @property
    def run_energy_joules(self) -> float | None:
        """Energy over all segments of the run; None where one has none."""
        own, before = self.energy_joules, self.carried.energy_joules
        return None if own is None or before is None else own + before

    def _with(self, before: int | None) -> int | None:
        return None if before is None or not self.measured else before + self.model_flops

    @property
    def base(self) -> BaseModel | None:
        """The model that the run started from.

        The checkpoint's word comes first: a resumed run may find its own receipt where the base's
        was.
        """
        return self.carried.base or self.options.base

    @property
    def lineage_flops(self) -> int | None:
        """Run plus the base it started from; None where a base is named without its compute."""
        base, run = self.base, self.run_flops
        if run is None or (base is not None and base.flops is None):
            return None
        return run + ((base and base.flops) or 0)

    @property
    def run_device_seconds(self) -> float:
        """Training seconds x devices over all segments of the run."""
        return self.carried.device_seconds + self.device_seconds


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
        no_peak_reason=reading.known_device.source,
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
        flops_standard_error=totals.standard_error,
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
    )


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
        "compute/device_hours": (reading.run_device_seconds / _SECONDS_PER_HOUR),
        "compute/busy_device_hours": (None if busy is None else busy / _SECONDS_PER_HOUR),
        "compute/spent_pfs_days": None if spent is None or spent == run else pfs_days(spent),
        "compute/lineage_pfs_days": (
            None if lineage is None or lineage == run else pfs_days(lineage)
        ),
        "compute/uncounted_ops": (
            len(reading.totals.count.uncounted_ops) if reading.totals.counted_steps else None
        ),
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
