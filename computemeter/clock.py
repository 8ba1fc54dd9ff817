"""The host's clock of a run: which seconds are training, and where the others go."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

Window = Literal["validation", "checkpoint", "pause"]
"""What is no training."""


class TrainingClock:
    """Wall time from the first training step to the last, less the windows taken out.

    Validation, checkpoint writing and pauses are taken out; everything else between two steps
    (waiting for data, logging, callbacks, compilation) is training time. All values in seconds.

    Args:
        now: a monotonic clock; tests pass their own.

    Attributes:
        step_seconds: in steps.
        training_seconds: first step to last, windows taken out.
        windows: in each kind of window, also before the first step; of nested ones the outermost.
        waiting_seconds: waiting for data; None where nobody said when.
        waiting_before: the part of it before the first step, which is no training.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.step_seconds = 0.0
        self.training_seconds = 0.0
        self.windows: dict[Window, float] = {"validation": 0.0, "checkpoint": 0.0, "pause": 0.0}
        self.waiting_seconds: float | None = None
        self.waiting_before = 0.0
        self._began: float | None = None
        self._ended: float | None = None
        self._first_start: float | None = None
        self._step_start: float | None = None
        self._waiting_since: float | None = None
        self._left_out = 0.0
        self._window: Window = "pause"
        self._window_start: float | None = None
        self._windows_open = 0

    @property
    def leaving_out(self) -> bool:
        """Whether a window that is no training is open."""
        return self._windows_open > 0

    @property
    def wall_seconds(self) -> float:
        """From `begin`, or the first step, to `end`, or now."""
        if self._began is None:
            return 0.0
        return max(0.0, (self.now() if self._ended is None else self._ended) - self._began)

    def begin(self) -> None:
        """Mark the beginning of the fit."""
        self._began = self.now()

    def end(self) -> None:
        """Mark its end."""
        self._ended = self.now()

    def start_step(self) -> None:
        """Mark the beginning of a training step."""
        self._step_start = self.now()
        if self._first_start is None:
            self._first_start = self._step_start
            self._began = self._step_start if self._began is None else self._began
            # What was taken out before the first step is no part of the span it starts.
            self._left_out = 0.0
            if self._windows_open:
                self._close_window(self._step_start)
                self._left_out, self._window_start = 0.0, self._step_start

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

    def start_waiting(self) -> None:
        """Mark that the next batch is asked for; within a step or a window that is part of it."""
        if self._step_start is None and not self._windows_open:
            self._waiting_since = self.now()

    def end_waiting(self) -> None:
        """Mark that the batch is there."""
        since, self._waiting_since = self._waiting_since, None
        if since is not None:
            waited = max(0.0, self.now() - since)
            self.waiting_seconds = (self.waiting_seconds or 0.0) + waited
            if self._first_start is None:
                self.waiting_before = self.waiting_seconds

    def leave_out(self, kind: Window = "pause") -> None:
        """Open a window that is not training; windows may be nested."""
        if self._windows_open == 0:
            self._window, self._window_start = kind, self.now()
        self._windows_open += 1

    def take_back(self) -> None:
        """Close the window that `leave_out` opened; without one, do nothing."""
        if self._windows_open == 0:
            return
        self._windows_open -= 1
        if self._windows_open == 0:
            self._close_window(self.now())

    def _reach(self, end: float) -> None:
        if self._first_start is not None:
            span = end - self._first_start - self._left_out
            self.training_seconds = max(self.training_seconds, span)

    def _close_window(self, end: float) -> None:
        if self._window_start is not None:
            seconds = max(0.0, end - self._window_start)
            self._left_out += seconds
            self.windows[self._window] += seconds
            self._window_start = None
