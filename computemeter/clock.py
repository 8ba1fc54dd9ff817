"""The host's clock of a run: which seconds are training, and which are left out."""

from __future__ import annotations

import time
from collections.abc import Callable


class TrainingClock:
    """Wall time from the first training step to the last, less the windows taken out.

    Validation, checkpoint writing and pauses are taken out; everything else between two steps
    (waiting for data, logging, callbacks, compilation) is training time. All values in seconds.

    Args:
        now: a monotonic clock; tests pass their own.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.step_seconds = 0.0
        self.training_seconds = 0.0
        self._first_start: float | None = None
        self._step_start: float | None = None
        self._left_out = 0.0
        self._window_start: float | None = None
        self._windows_open = 0

    @property
    def leaving_out(self) -> bool:
        """Whether a window that is no training is open."""
        return self._windows_open > 0

    def start_step(self) -> None:
        """Mark the beginning of a training step."""
        self._step_start = self.now()
        if self._first_start is None:
            self._first_start = self._step_start
            # What was taken out before the first step is no part of the span it starts.
            self._left_out = 0.0
            if self._windows_open:
                self._window_start = self._step_start

    def end_step(self) -> float:
        """Mark the end of the step; return its duration."""
        if self._step_start is None or self._first_start is None:
            return 0.0
        end = self.now()
        # A clock that jumps back must not make time negative.
        duration = max(0.0, end - self._step_start)
        self._step_start = None
        self.step_seconds += duration
        self._reach(end)
        return duration

    def extend(self) -> None:
        """Take the time up to now for training: the device has worked on steps that ended before.

        Within a window that is no training, and before the first step, do nothing.
        """
        if self._first_start is not None and not self._windows_open:
            self._reach(self.now())

    def _reach(self, end: float) -> None:
        if self._first_start is not None:
            span = end - self._first_start - self._left_out
            self.training_seconds = max(self.training_seconds, span)

    def leave_out(self) -> None:
        """Open a window that is not training; windows may be nested."""
        if self._windows_open == 0:
            self._window_start = self.now()
        self._windows_open += 1

    def take_back(self) -> None:
        """Close the window that `leave_out` opened; without one, do nothing."""
        if self._windows_open == 0:
            return
        self._windows_open -= 1
        if self._windows_open == 0 and self._window_start is not None:
            self._left_out += max(0.0, self.now() - self._window_start)
            self._window_start = None
