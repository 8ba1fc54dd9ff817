"""The energy that a run's GPU drew, from the counter on its board.

NVML's `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was loaded, of Volta GPUs
and newer ones (NVML API reference). It is the board's: memory and power supply on it are in it,
and whatever other processes do on the same GPU; the host, the network and the cooling are not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from computemeter.nvml import library, uuid_of, whole_gpu

_SECONDS_BETWEEN_READS = 10.0
_MILLI = 1e-3
_JOULES_PER_KWH = 3.6e6


def kwh(joules: float) -> float:
    """Return kilowatt-hours.

    >>> kwh(5.4e6)
    1.5
    """
    return joules / _JOULES_PER_KWH


class BoardEnergy:
    """What one GPU draws from now on.

    Attributes:
        uuid: of the GPU, as NVML writes it.
    """

    def __init__(self, nvml: Any, device: Any, uuid: str) -> None:
        self.uuid = uuid
        self._nvml, self._device = nvml, device
        self._began = nvml.nvmlDeviceGetTotalEnergyConsumption(device)
        self._open = True

    @classmethod
    def open(cls, device: int | str) -> Self | None:
        """Begin; None where the GPU's energy cannot be had, as of a MIG slice.

        Args:
            device: torch's CUDA index, or NVML's UUID ("GPU-...").
        """
        try:
            nvml = library("nvmlDeviceGetTotalEnergyConsumption")
            try:
                uuid = uuid_of(device)
                return cls(nvml, whole_gpu(nvml, uuid), uuid)
            except BaseException:
                nvml.nvmlShutdown()
                raise
        except Exception:  # noqa: BLE001 - a run without this figure is still metered
            return None

    def joules(self) -> float | None:
        """Return what was drawn since the beginning; None where NVML does not know any more."""
        try:
            drawn = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device) - self._began
        except Exception:  # noqa: BLE001 - a device that fell off the bus; training goes on
            return None
        # The counter begins anew with the driver.
        return drawn * _MILLI if drawn >= 0 else None

    def close(self) -> None:
        """Let go of NVML; a second time does nothing."""
        if self._open:
            self._open = False
            try:
                self._nvml.nvmlShutdown()
            except Exception:  # noqa: BLE001 - what is lost needs no letting go
                return


class RunEnergy:
    """The energy of the GPU that this process trains on, from the first step on.

    It is read when asked, every 10 s at most: a reading is a call to the driver. Of a process that
    keeps tensors on several GPUs it is not measured, as one board was read.

    Args:
        device: the `torch.device` that the run trains on; None before that is known.
        open_device: begins with a device by its CUDA index; tests pass their own.
        now: a monotonic clock in seconds; tests pass their own.
    """

    def __init__(
        self,
        device: Callable[[], Any],
        open_device: Callable[[int], BoardEnergy | None] = BoardEnergy.open,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device_of, self._open_device, self._now = device, open_device, now
        self._begun = False
        self._index: int | None = None
        self._board: BoardEnergy | None = None
        self._drawn: dict[str, float] = {}
        self._read_at = 0.0

    @property
    def drawn(self) -> dict[str, float]:
        """Joules by the GPU's UUID, as of the last reading; empty where they are not measured."""
        return self._drawn

    def begin(self) -> None:
        """Begin, before the first step; a second time does nothing.

        In a plain loop nobody has said yet where the model is: the GPU that PyTorch has in use is
        taken, and let go again if the steps turn out to run elsewhere.
        """
        if self._begun:
            return
        self._begun, self._read_at = True, self._now()
        self._index = _index(self._device_of())
        if self._index is not None:
            self._board = self._open_device(self._index)

    def sample(self, *, last: bool = False) -> None:
        """Read the counter, if the last reading is not too young.

        Args:
            last: however young that is.
        """
        young = self._now() - self._read_at < _SECONDS_BETWEEN_READS
        device = self._device_of()
        if self._board is None or device is None or (young and not last):
            return
        self._read_at = self._now()
        here = _index(device) == self._index and not _is_elsewhere(self._index)
        joules = self._board.joules() if here else None
        self._drawn = {} if joules is None else {self._board.uuid: joules}

    def close(self) -> None:
        """Read no more."""
        if self._board is not None:
            self._board.close()
            self._board = None


def _index(device: Any) -> int | None:
    """Return torch's index of a CUDA device, or of the one in use where none is named."""
    torch = sys.modules.get("torch")
    if torch is None or (device is not None and device.type != "cuda"):
        return None
    if device is not None and device.index is not None:
        return int(device.index)
    return int(torch.cuda.current_device()) if torch.cuda.is_initialized() else None


def _is_elsewhere(index: int | None) -> bool:
    """Whether PyTorch has memory in use on another GPU, by its own books; True: they do not say."""
    cuda = sys.modules["torch"].cuda
    try:
        if not cuda.is_initialized():
            return False
        others = [other for other in range(cuda.device_count()) if other != index]
        return any(cuda.memory_allocated(other) > 0 for other in others)
    except Exception:  # noqa: BLE001 - an allocator of the user's own keeps no books
        return True
