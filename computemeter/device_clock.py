"""The device's side of time: how long it worked on steps, and what compiling took."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from computemeter.event_clock import EventPairs

_NANO = 1e-9


class DeviceClock(Protocol):
    """What one framework's device says about time; no method waits for it at every step."""

    def begin_step(self) -> None:
        """Note that the host begins a step."""

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

    def compile_seconds_outside(self) -> float:
        """Return the part of it that was not in steps."""

    def close(self) -> None:
        """Let go of what watches; what was measured stays readable."""


class TorchClock:
    """On the CPU the work is done when the step returns; elsewhere the device's events tell.

    Args:
        device: the `torch.device` that the run trains on; None before that is known.
    """

    def __init__(self, device: Callable[[], Any]) -> None:
        self._device_of = device
        self._device: Any = None
        self._events: EventPairs | None = None
        self._compiled = 0.0
        self._since: float | None = _dynamo_seconds()

    def begin_step(self) -> None:
        """Mark the beginning of the step in the device's queue, where it has one."""
        if self._device is None:
            self._device = self._device_of()
            self._events = None if self._device is None else EventPairs.on(self._device)
        if self._events is not None:
            self._events.begin()

    def end_step(self, seconds: float, *, first: bool) -> None:  # noqa: ARG002 - others need them
        """Mark its end."""
        if self._events is not None:
            self._events.end()

    def busy_seconds(self, step_seconds: float) -> float | None:
        """Return the time in steps: on a CPU the host's, without compiling, else by the events."""
        if self._events is not None:
            return self._events.busy_seconds()
        device = self._device or self._device_of()
        if device is None or device.type != "cpu":
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

    def compile_seconds_outside(self) -> float:
        """Take all of it to be in steps."""
        return 0.0

    def close(self) -> None:
        """Keep what was compiled so far."""
        self.pause(True)


def _dynamo_seconds() -> float:
    """Read Dynamo's account of the process; where it was never imported, nothing was compiled."""
    utils = sys.modules.get("torch._dynamo.utils")
    spent = getattr(utils, "cumulative_time_spent_ns", {})
    return float(spent.get("entire_frame_compile", 0.0)) * _NANO
