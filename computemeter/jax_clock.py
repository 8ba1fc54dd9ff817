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
from weakref import finalize

import jax

_CLOSING_SECONDS = 1.0
_COMPILING = "/jax/core/compile/"
_SPANS_KEPT = 64
_ALL_WATCHED = 64
"""Steps that are all watched, before the short ones among them are sampled."""
_WATCH_EVERY_SECONDS = 0.004
_MOST_SKIPPED = 64


class _Dispatch(NamedTuple):
    at: float
    results: Any
    stands_for: int


class JaxClock:
    """Watches the results of steps, and JAX's own account of compilation.

    The time of a step on the device is that from its dispatch, or from the end of the step before,
    to its end. Waking a thread costs the training some 30 us, so of steps shorter than a few
    milliseconds two in a row are watched now and then: the second stands for all that were not.

    Args:
        now: a monotonic clock; tests pass their own.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._dispatches: SimpleQueue[_Dispatch | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = 0.0
        self._steps, self._round, self._in_round = 0, 1, 0
        self._round_began = 0.0
        self._compiling, self._compiling_outside = _Spans(), _Spans()
        self._in_step = False
        self._compiled_until = 0.0
        self._tracing = self._paused = False
        jax.monitoring.register_event_duration_secs_listener(self._note_compilation)

    def dispatched(self, at: float, results: Any) -> None:
        """Watch a step, if it is one to watch; nothing is read from its results.

        Args:
            at: when the host began to dispatch it.
            results: of the step, not donated to the next one.
        """
        self._steps += 1
        steps, place = self._round, self._in_round
        if steps == 1 or place == 1:
            self._watch(_Dispatch(max(at, self._compiled_until), results, steps))
        elif place == 0:  # for its end, at which the next one begins
            self._watch(_Dispatch(at, results, 0))
        self._in_round += 1
        if self._in_round == steps:
            self._begin_round(at)

    def begin_step(self) -> None:
        """Note that what is compiled now is compiled in a step."""
        self._in_step = True

    def end_step(self, seconds: float, *, first: bool) -> None:  # noqa: ARG002 - others need them
        """Note that the host is done with the step; the device is not."""
        self._in_step = False

    def pause(self, paused: bool) -> None:
        """Leave out what is compiled while paused."""
        self._paused = paused

    def busy_seconds(self, _step_seconds: float) -> float | None:
        """Return the device's time in the steps that are known to be done."""
        return self._busy

    def compile_seconds(self) -> float | None:
        """Return what JAX spent on tracing and compiling, validation left out."""
        return self._compiling.total + self._compiling_outside.total

    def compile_seconds_outside(self) -> float:
        """Return the part of it between steps: callbacks, and what comes before the first step."""
        return self._compiling_outside.total

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
            _stop(self._dispatches, self._thread)
            self._thread = None

    def _begin_round(self, at: float) -> None:
        """Say how many steps the next watched ones stand for, by how long the last took."""
        seconds, self._round_began = (at - self._round_began) / self._round, at
        self._in_round = 0
        if self._steps >= _ALL_WATCHED and seconds > 0:
            skipped = min(_MOST_SKIPPED, int(_WATCH_EVERY_SECONDS / seconds))
            self._round = skipped if skipped > 2 else 1

    def _watch(self, dispatch: _Dispatch) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, name="computemeter", daemon=True)
            self._thread.start()
            # A thread that waits in JAX when the interpreter ends would abort the process.
            finalize(self, _stop, self._dispatches, self._thread)
        self._dispatches.put(dispatch)

    def _note_compilation(self, event: str, seconds: float, **_facts: Any) -> None:
        if event.startswith(_COMPILING) and not (self._tracing or self._paused):
            # A step that had to be compiled reaches the device after that.
            self._compiled_until = self._now()
            spans = self._compiling if self._in_step else self._compiling_outside
            spans.add(self._compiled_until, seconds)

    def _wait(self) -> None:
        done = 0.0
        while (dispatch := self._dispatches.get()) is not None:
            # A step that failed has told the user so.
            with suppress(Exception):
                jax.block_until_ready(dispatch.results)
            finished = self._now()
            seconds = max(0.0, finished - max(dispatch.at, done))
            self._busy += dispatch.stands_for * seconds
            done = finished


def _stop(dispatches: SimpleQueue[_Dispatch | None], thread: threading.Thread) -> None:
    dispatches.put(None)
    thread.join(_CLOSING_SECONDS)


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
