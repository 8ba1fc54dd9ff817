"""The device's side of time: how long it worked on steps, and what compiling took."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from computemeter.records import Device

_NANO = 1e-9


class DeviceClock(Protocol):
    """What one framework's device says about time; no method waits for it at every step."""

    def end_step(self, seconds: float, *, first: bool) -> None:
        """Note that the host has ended a step.

        Args:
            seconds: how long the host took over it.
            first: no step of its kind ran before.
        """

    def pause(self, paused: bool) -> None:
        """Note that what follows is no training, or is training again."""

    def busy_seconds(self, step_seconds: float) -> float | None:
        """Return how long the device worked on steps; None where that is not known.

        Args:
            step_seconds: how long the host spent in steps.
        """

    def compile_seconds(self) -> float | None:
        """Return what compiling took, tracing included; None where that is not known."""

    def close(self) -> None:
        """Let go of what watches; what was measured stays readable."""


class TorchClock:
    """Where PyTorch trains on the CPU, the work is done when the step returns.

    Args:
        device: what the run trains on; None before that is known.
    """

    def __init__(self, device: Callable[[], Device | None]) -> None:
        self._device = device
        self._compiled = 0.0
        self._since: float | None = _dynamo_seconds()

    def end_step(self, seconds: float, *, first: bool) -> None:
        """Do nothing: Dynamo keeps its own account."""

    def busy_seconds(self, step_seconds: float) -> float | None:
        """Return the time in steps on a CPU, without compiling; others run behind the host."""
        device = self._device()
        if device is None or device.kind != "cpu":
            return None
        return max(0.0, step_seconds - (self.compile_seconds() or 0.0))

    def pause(self, paused: bool) -> None:
        """Leave out what is compiled while paused."""
        self._compiled = self.compile_seconds() or 0.0
        self._since = None if paused else _dynamo_seconds()

    def compile_seconds(self) -> float | None:
        """Return what Dynamo spent on compiling frames in the training."""
        if self._since is None:
            return self._compiled
        return self._compiled + max(0.0, _dynamo_seconds() - self._since)

    def close(self) -> None:
        """Keep what was compiled so far."""
        self.pause(True)


def _dynamo_seconds() -> float:
    """Read Dynamo's account of the process; where it was never imported, nothing was compiled."""
    utils = sys.modules.get("torch._dynamo.utils")
    spent = getattr(utils, "cumulative_time_spent_ns", {})
    return float(spent.get("entire_frame_compile", 0.0)) * _NANO
