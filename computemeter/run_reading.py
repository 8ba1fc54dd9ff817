"""What a meter has collected at one moment, and the totals of segment and run that follow."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from computemeter.base_model import BaseModel
from computemeter.book import Totals
from computemeter.carried import Carried
from computemeter.estimate import CPU_UTILIZATION, GPU_UTILIZATION, flops_from_gpu_time
from computemeter.host_time import HostTime
from computemeter.options import Options
from computemeter.peaks import effective_peak
from computemeter.records import Device
from computemeter.units import pfs_days

_NO_DEVICE = Device(name="unknown", kind="unknown", source="no operation has been counted yet")


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
