"""How long TensorFlow's device worked on steps, and what tracing and compiling took."""

from __future__ import annotations

import time
from collections.abc import Callable

import tensorflow as tf


class TensorflowClock:
    """Takes the host's time in steps, and at logging steps what the device was behind it by.

    On a CPU a step is done when it returns. On other devices the host's time in a step stands for
    the device's, for TensorFlow has no events that can be read later.

    Args:
        on_cpu: whether the model trains on the CPU.
        now: a monotonic clock; tests pass their own.
    """

    def __init__(self, *, on_cpu: bool, now: Callable[[], float] = time.perf_counter) -> None:
        self._on_cpu, self._now = on_cpu, now
        self._behind = 0.0
        self._firsts: list[float] = [0, 0.0]
        self._others: list[float] = [0, 0.0]

    def begin_step(self) -> None:
        """Do nothing: the host's time is taken."""

    def end_step(self, seconds: float, *, first: bool) -> None:
        """Note a step's time; TensorFlow traces and compiles in the first of each kind."""
        sums = self._firsts if first else self._others
        sums[0] += 1
        sums[1] += seconds

    def pause(self, paused: bool) -> None:
        """Do nothing: steps alone are timed."""

    def busy_seconds(self, step_seconds: float) -> float | None:
        """Return the time in steps, after waiting for the device where it is not the CPU."""
        if not self._on_cpu:
            began = self._now()
            tf.test.experimental.sync_devices()
            self._behind += self._now() - began
        return max(0.0, step_seconds - (self.compile_seconds() or 0.0)) + self._behind

    def compile_seconds(self) -> float | None:
        """Return by how much the first steps of their kind took longer than the others.

        None before a kind has had a second step: there is nothing to compare with.
        """
        if not self._others[0]:
            return None
        usual = self._others[1] / self._others[0]
        return max(0.0, self._firsts[1] - self._firsts[0] * usual)

    def compile_seconds_outside(self) -> float:
        """Return zero: it is by steps that compiling is known."""
        return 0.0

    def close(self) -> None:
        """Do nothing: nothing is watched."""
