"""The measured utilisation of a run: its GPU's tensor activity, sampled at logging steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from computemeter.utilization import TensorActivity


class RunActivity:
    """Averages a device's tensor activity over a run's training.

    Args:
        device: the `torch.device` that the run trains on; None before that is known.
        open_device: begins to watch a device by its CUDA index; tests pass their own.

    Attributes:
        source: where the figure comes from; None without one.
    """

    def __init__(
        self,
        device: Callable[[], Any],
        open_device: Callable[[int], TensorActivity | None] = TensorActivity.open,
    ) -> None:
        self.source: str | None = None
        self._device_of, self._open_device = device, open_device
        self._asked = False
        self._activity: TensorActivity | None = None
        self._weighted = self._seconds = self._until = 0.0

    @property
    def share(self) -> float | None:
        """Share of the time, 0 to 1, in which the tensor pipes were active; None where unknown."""
        return self._weighted / self._seconds if self._seconds else None

    def sample(self, training_seconds: float) -> None:
        """Take a sample, which stands for the training since the last one.

        Args:
            training_seconds: of the run so far.
        """
        if not self._asked:
            self._begin(training_seconds)
            return
        share = None if self._activity is None else self._activity.sample()
        if share is not None:
            seconds = max(0.0, training_seconds - self._until)
            self._weighted += share * seconds
            self._seconds += seconds
            self._until = training_seconds

    def close(self) -> None:
        """Watch no more."""
        if self._activity is not None:
            with suppress(Exception):
                self._activity.close()
            self._activity = None

    def _begin(self, training_seconds: float) -> None:
        device = self._device_of()
        if device is None:
            return
        self._asked, self._until = True, training_seconds
        if device.type == "cuda":
            self._activity = self._open_device(_index(device))
        if self._activity is not None:
            self.source = self._activity.source


def _index(device: Any) -> int:
    import torch

    return int(torch.cuda.current_device() if device.index is None else device.index)
