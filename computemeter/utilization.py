"""Measured utilisation of NVIDIA GPUs: how much of the time their tensor pipes were active.

Read from NVML's GPU performance monitoring (GPM): Hopper and newer. It is not NVML's "GPU-Util",
the share of time in which any kernel ran at all, which says nothing about arithmetic. DCGM has the
same figure (PIPE_TENSOR_ACTIVE) on Volta to Ampere too, but needs its own service and libraries,
and is not used here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

from computemeter.nvml import UnavailableError, library, uuid_of, whole_gpu
from computemeter.sinks import describe

# NVML refreshes its samples inside: two of them should be more than 100 ms apart (NVML API
# reference, nvmlGpmMetricsGet).
_LEAST_SECONDS = 0.1
_SUCCESS = 0


class TensorActivity:
    """The share of time in which a GPU's tensor pipes were active, sampled when asked.

    An upper bound of what utilisation of the tensor cores' arithmetic means: at a clock below the
    one that the peak is quoted at, the same share is fewer FLOP/s. Arithmetic beside the tensor
    cores (float32 without TF32, pointwise work) is not in it, and all processes on the device are.

    Attributes:
        source: where the figure comes from.
        problem: why the last sample is unknown; None while all is well.
    """

    source = "NVML GPM, share of time with tensor pipes active"

    def __init__(
        self, nvml: Any, device: Any, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.problem: str | None = None
        self._nvml, self._device, self._now = nvml, device, now
        self._open = True
        self._last, self._spare = nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
        self._take_sample()

    @classmethod
    def open(
        cls, device: int | str, explain: Callable[[str], None] = lambda _why: None
    ) -> Self | None:
        """Begin to watch a device; None where its tensor activity cannot be had.

        Args:
            device: torch's CUDA index, which CUDA_VISIBLE_DEVICES reorders, or NVML's UUID
                ("GPU-...").
            explain: takes one line that says why, where the result is None.
        """
        try:
            nvml = library("nvmlGpmMetricsGet")
            try:
                return cls(nvml, _handle(nvml, uuid_of(device)))
            except BaseException:
                nvml.nvmlShutdown()
                raise
        except Exception as error:  # noqa: BLE001 - a run without this figure is still metered
            why = str(error) if isinstance(error, UnavailableError) else describe(error)
            explain(f"tensor activity of device {device} is unknown: {why}")
            return None

    def sample(self) -> float | None:
        """Return the share (0 to 1) since the last sample, or since the beginning.

        None where NVML does not know, where the last sample is less than 0.1 s old (the next one
        then reaches further back), and after `close`.
        """
        if not self._open or self._now() - self._at < _LEAST_SECONDS:
            return None
        try:
            before = self._last
            self._take_sample()
            share = self._share(before, self._last)
        except Exception as error:  # noqa: BLE001 - a device that fell off the bus; training goes on
            self.problem = describe(error)
            return None
        self.problem = None
        return share

    def close(self) -> None:
        """Let go of NVML."""
        if not self._open:
            return
        self._open = False
        for let_go in (self._free_samples, self._nvml.nvmlShutdown):
            try:
                let_go()
            except Exception as error:  # noqa: BLE001 - what is lost needs no letting go
                self.problem = describe(error)

    def _free_samples(self) -> None:
        self._nvml.nvmlGpmSampleFree(self._last)
        self._nvml.nvmlGpmSampleFree(self._spare)

    def _take_sample(self) -> None:
        """Read the counters; where that fails, the last sample stays what the next one is to."""
        self._nvml.nvmlGpmSampleGet(self._device, self._spare)
        self._at = self._now()
        self._last, self._spare = self._spare, self._last

    def _share(self, before: Any, after: Any) -> float:
        nvml = self._nvml
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        request.sample1, request.sample2 = before, after
        request.numMetrics = 1
        metric = request.metrics[0]
        metric.metricId = nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL
        nvml.nvmlGpmMetricsGet(request)
        if metric.nvmlReturn != _SUCCESS:
            raise nvml.NVMLError(metric.nvmlReturn)
        if not 0 <= metric.value <= 100:  # NaN neither
            raise UnavailableError(f"NVML reports {metric.value} %")
        return float(metric.value / 100)


def _handle(nvml: Any, uuid: str) -> Any:
    device = whole_gpu(nvml, uuid)
    if not nvml.nvmlGpmQueryDeviceSupport(device).isSupportedDevice:
        raise UnavailableError("GPM needs a Hopper GPU or a newer one")
    return device
