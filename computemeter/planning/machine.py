"""What a run is to run on, and how long it takes there."""

from __future__ import annotations

from dataclasses import dataclass

from computemeter.estimate import GPU_UTILIZATION, flops_from_gpu_time
from computemeter.planning.factors import count as count_text
from computemeter.planning.quantities import check_peak
from computemeter.trend.estimated import assumed_hardware, peak_of


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run is to run on.

    Attributes:
        peak_flops: dense peak of one device in FLOP/s at the precision used.
        devices: how many train at the same time.
        utilization: share of the peak that training is assumed to reach.
        name: of one device; "" where only its peak is known.
    """

    peak_flops: float
    devices: float = 1
    utilization: float = GPU_UTILIZATION
    name: str = ""

    def __post_init__(self) -> None:
        flops_from_gpu_time(self.devices, 1, self.peak_flops, self.utilization)  # it checks them
        check_peak(self.peak_flops)

    @classmethod
    def named(cls, text: str, utilization: float = GPU_UTILIZATION) -> Machine:
        """Look "A100", "4xA100" or "4xA100@fp32" up in the table of peaks.

        Without a precision the peak is that at bf16, or at fp16 or fp32 where the device has no
        faster one.

        Args:
            text: a name with, where wanted, a number of devices and a precision.
            utilization: share of peak that is assumed.

        Raises:
            ValueError: not of this form, or a device without a peak; names the nearest.
        """
        found = assumed_hardware(text)
        peak = peak_of(found)
        assert peak is not None, "assumed_hardware refuses a device without a peak"
        rate, precision = peak
        return cls(rate, found.count or 1, utilization, f"{found.name} at {precision}")

    def __str__(self) -> str:
        """Write what it is made of: "4 x A100 at bf16", "2 devices"."""
        if self.name:
            return f"{count_text(self.devices)} x {self.name}"
        return f"{count_text(self.devices)} device{'' if self.devices == 1 else 's'}"

    def ideal_seconds(self, flops: float) -> float:
        """Return the least time that FLOP take on it: at peak, which no training reaches."""
        return flops / (self.devices * self.peak_flops)

    def expected_seconds(self, flops: float) -> float:
        """Return the time that FLOP take on it at the assumed utilisation."""
        return self.ideal_seconds(flops) / self.utilization
