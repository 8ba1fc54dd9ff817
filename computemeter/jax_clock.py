"""How long JAX's device worked on steps: a thread waits for their results, the training does not.

JAX returns from a step as soon as it is dispatched, and runs many of them behind the host.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, NamedTuple

import jax

_CLOSING_SECONDS = 1.0
_COMPILING = "/jax/core/compile/"
_SPANS_KEPT = 64


class _Dispatch(NamedTuple):
    at: float
    results: Any


class JaxClock:
    """Watches the results of steps, and JAX's own account of compilation.

    Args:
        now: a monotonic clock; tests pass their own.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._dispatches: SimpleQueue[_Dispatch | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = 0.0
        self._compiling = _Spans()
        self._compiled_until = 0.0
        self._tracing = self._paused = False
        jax.monitoring.register_event_duration_secs_listener(self._note_compilation)

    def dispatched(self, at: float, results: Any) -> None:
        """Watch a step; nothing is read from its results.

        Args:
            at: when the host began to dispatch it.
            results: of the step, not donated to the next one.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="computemeter", daemon=True)
            self._thread.start()
        self._dispatches.put(_Dispatch(max(at, self._compiled_until), results))

    def begin_step(self) -> None:
        """Do nothing: a call of the train function may be several steps."""

    def end_step(self, seconds: float, *, first: bool) -> None:
        """Do nothing: the device is not done when the host is."""

    def pause(self, paused: bool) -> None:
        """Leave out what is compiled while paused."""
        self._paused = paused

    def busy_seconds(self, _step_seconds: float) -> float | None:
        """Return the device's time in the steps that are known to be done."""
        return self._busy

    def compile_seconds(self) -> float | None:
        """Return what JAX spent on tracing and compiling in the training."""
        return self._compiling.total

    @contextmanager
    def own_trace(self) -> Iterator[None]:
        """Keep the meter's own tracing out of what compiling took."""
        self._tracing = True
        try:
            yield
        finally:
            self._tracing = False

    def close(self) -> None:
        """Wait a moment for the last steps, and watch no more."""
        with suppress(Exception):  # cleared by somebody else
            jax.monitoring.unregister_event_duration_listener(self._note_compilation)
        if self._thread is not None:
            self._dispatches.put(None)
            self._thread.join(_CLOSING_SECONDS)

    def _note_compilation(self, event: str, seconds: float, **_facts: Any) -> None:
        if event.startswith(_COMPILING) and not (self._tracing or self._paused):
            # A step that had to be compiled reaches the device after that.
            self._compiled_until = self._now()
            self._compiling.add(self._compiled_until, seconds)

    def _watch(self) -> None:
        done = 0.0
        while (dispatch := self._dispatches.get()) is not None:
            # A step that failed has told the user so.
            with suppress(Exception):
                jax.block_until_ready(dispatch.results)
            finished = self._now()
            self._busy += max(0.0, finished - max(dispatch.at, done))
            done = finished


class _Spans:
    """Spans of time that may lie within each other, added up without counting any twice."""

    def __init__(self) -> None:
        self.total = 0.0
        self._spans: deque[tuple[float, float]] = deque(maxlen=_SPANS_KEPT)

    def add(self, end: float, seconds: float) -> None:
        """Add the span that ended now; those within it ended before."""
        start = end - seconds
        while self._spans and self._spans[-1][0] >= start:
            self.total -= self._spans.pop()[1]
        self._spans.append((start, seconds))
        self.total += seconds
