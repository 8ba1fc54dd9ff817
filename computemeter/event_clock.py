"""How long an asynchronous PyTorch device worked on steps: a pair of its events around each.

The host runs ahead of such a device. An event is a mark in the device's queue that keeps the time
when the device reaches it; reading two of them needs no waiting once both are done.

Busy is the time from the moment the stream reaches a step's first event to the moment it reaches
the last one. Gaps in the queue between two steps are idle; gaps within a step are busy: a step
whose kernels are done before the host has launched the next ones looks busy all along.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from computemeter.sinks import describe

_MILLI = 1e-3
_MOST_PENDING = 4096
_LOOKED_AT = 2  # per step: one is added, so what piled up while the device lagged melts away

# PyTorch's `elapsed_time` on MPS commits and waits for the whole queue at every call
# (`MPSEventPool::elapsedTime` in aten/src/ATen/mps/MPSEvent.mm, read at 2.13), done or not.
_MOST_PENDING_MPS = 64


class Event(Protocol):
    """What is needed of `torch.cuda.Event(enable_timing=True)` and its like."""

    def record(self) -> Any:
        """Put the mark behind the work that is queued now."""

    def query(self) -> bool:
        """Say whether the device has reached the mark."""

    def elapsed_time(self, end_event: Any, /) -> float:
        """Return the milliseconds from this mark to another; both have been reached."""


@dataclass(slots=True)
class _Pair:
    first: Event
    last: Event


class EventPairs:
    """Pairs of device events around steps, read when they are done; never waits for the device.

    Pairs come from a pool and go back to it. Where more than `most_pending` of them wait to be
    read, further steps get none and are taken to be as long as the mean of those that were read:
    `skipped` says how many. An event that raises (a device that is lost) ends it: busy is unknown
    from then on, and `problem` says why. Nothing is recorded and no event is asked while a CUDA
    graph is being captured on the current stream, for that would break the capture; such a step
    does not run.

    Args:
        make_event: makes an event with a clock.
        capturing: says whether the current stream is being captured.
        most_pending: pairs that may wait to be read.
        read_at_end: look at the oldest pending pairs whenever a step ends; otherwise all reading
            is left to `busy_seconds`.

    Attributes:
        problem: why the time is unknown; None while all is well.
        skipped: steps that got no pair and are extrapolated.
    """

    def __init__(
        self,
        make_event: Callable[[], Event],
        *,
        capturing: Callable[[], bool] = lambda: False,
        most_pending: int = _MOST_PENDING,
        read_at_end: bool = True,
    ) -> None:
        self.problem: str | None = None
        self.skipped = 0
        self._make_event = make_event
        self._capturing = capturing
        self._most_pending = most_pending
        self._read_at_end = read_at_end
        self._open: _Pair | None = None
        self._skipping = False
        self._pending: deque[_Pair] = deque()
        self._pool: list[_Pair] = []
        self._milliseconds = 0.0
        self._read = 0

    @classmethod
    def on(cls, device: Any) -> Self | None:
        """Return the clock of a torch device; None where the host's clock will do, or none can.

        On MPS pairs are read in `busy_seconds` alone, which does wait there, and of at most 64
        steps between two calls: PyTorch waits for the queue at every reading.

        Args:
            device: as torch has it ("cuda:1"); without an index the current one at each step.
        """
        make_event = event_factory(device)
        if make_event is None:
            return None
        kind = _kind(device)
        if kind == "mps":
            return cls(make_event, most_pending=_MOST_PENDING_MPS, read_at_end=False)
        if kind == "cuda":
            import torch

            return cls(make_event, capturing=torch.cuda.is_current_stream_capturing)
        return cls(make_event)

    def begin(self) -> None:
        """Mark the beginning of a step; one that began and never ended is forgotten."""
        if self.problem is not None:
            return
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 - drivers raise what they like
            self._give_up(error)

    def end(self) -> None:
        """Mark the end of the step that began last; without one, do nothing."""
        if self.problem is not None or not (self._open or self._skipping):
            return
        try:
            self._end()
        except Exception as error:  # noqa: BLE001 - drivers raise what they like
            self._give_up(error)

    def busy_seconds(self) -> float | None:
        """Return the time in the steps that the device has ended; None where that is unknown."""
        if self.problem is None:
            try:
                if not self._capturing():
                    self._read_done(len(self._pending))
            except Exception as error:  # noqa: BLE001 - drivers raise what they like
                self._give_up(error)
        if self.problem is not None or (self.skipped and not self._read):
            return None
        extrapolated = self._milliseconds / self._read * self.skipped if self.skipped else 0.0
        return _MILLI * (self._milliseconds + extrapolated)

    def _begin(self) -> None:
        self._skipping = False
        if self._capturing():
            self._put_back()
            return
        if self._open is None:
            if len(self._pending) >= self._most_pending:
                self._skipping = True
                return
            self._open = self._pool.pop() if self._pool else self._new()
        # The pair of a step that broke off is open still: its first event is recorded anew.
        self._open.first.record()

    def _end(self) -> None:
        if self._capturing():
            self._put_back()
            self._skipping = False
            return
        if self._open is None:
            self._skipping = False
            self.skipped += 1
        else:
            pair, self._open = self._open, None
            pair.last.record()
            self._pending.append(pair)
        if self._read_at_end:
            self._read_done(_LOOKED_AT)

    def _new(self) -> _Pair:
        return _Pair(self._make_event(), self._make_event())

    def _put_back(self) -> None:
        if self._open is not None:
            self._pool.append(self._open)
            self._open = None

    def _read_done(self, most: int) -> None:
        """Read up to `most` pairs, oldest first; a queue is worked through in order."""
        pending = self._pending
        for _ in range(min(most, len(pending))):
            pair = pending[0]
            if not pair.last.query():
                return
            # A step that switched streams may have reached its end before its beginning.
            self._milliseconds += max(0.0, pair.first.elapsed_time(pair.last))
            self._read += 1
            self._pool.append(pending.popleft())

    def _give_up(self, error: Exception) -> None:
        self.problem = f"the device's events failed: {describe(error)}"
        self._open = None
        self._pending.clear()
        self._pool.clear()


def event_factory(device: Any) -> Callable[[], Event] | None:
    """Return what makes events with a clock for a torch device; None where it has none.

    Args:
        device: "cuda" (NVIDIA and AMD), "mps" or "xpu", with or without an index, or a
            `torch.device`.
    """
    kind = _kind(device)
    if kind not in {"cuda", "mps", "xpu"}:
        return None
    import torch

    if kind == "mps":
        return lambda: torch.mps.event.Event(enable_timing=True)
    module: Any = torch.cuda if kind == "cuda" else torch.xpu
    if torch.device(device).index is None:
        return lambda: module.Event(enable_timing=True)
    return _on_device(module, torch.device(device))


def _on_device(module: Any, device: Any) -> Callable[[], Event]:
    """Make events that go to one device, whichever is the current one when they are recorded."""

    class OnDevice(module.Event):  # type: ignore[misc]  # torch builds it at run time
        def record(self, stream: Any = None) -> None:
            super().record(stream or module.current_stream(device))

    return lambda: OnDevice(enable_timing=True)


def _kind(device: Any) -> str:
    return str(device).partition(":")[0]
