"""The training steps of one process: counted, timed and booked, as hooks tell of them."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from computemeter.book import StepBook
from computemeter.clock import TrainingClock, Window
from computemeter.counters.signature import examples
from computemeter.device_clock import DeviceClock, TorchClock
from computemeter.energy import RunEnergy
from computemeter.failures import Failures
from computemeter.host_time import HostTimer
from computemeter.options import Options
from computemeter.records import Count, Device
from computemeter.switch import switched_off

_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}


@dataclass(slots=True)
class _Step:
    """A step that has begun; one whose key could not be made is booked at the mean."""

    key: Hashable = "unnamed"
    batch: Any = None
    counting: bool = False


class StepMeter:
    """Counts, times and books the training steps of this process.

    Its methods are called from a framework's hooks, each guarded with `failures.call`.

    Args:
        options: of the user.

    Attributes:
        failures: takes what goes wrong in the meter.
        metering: False where the meter could not be attached to the training.
        off: the user's site or environment disables every meter, and nothing is measured.
    """

    def __init__(self, options: Options) -> None:
        self.off = switched_off()
        self.options = (
            replace(options, ledger=None, trackers=(), verbose=0) if self.off else options
        )
        self.failures = Failures()
        self.metering = not self.off
        self._clock = TrainingClock()
        self._book = StepBook(lambda: self._clock.training_seconds)
        self._counter: Any = None
        self._step: _Step | None = None
        self._counting = False
        self._steps = 0
        self._host = HostTimer()
        self._device: Device | None = None
        self._device_clock: DeviceClock = TorchClock(self._torch_device)
        self._energy = RunEnergy(self._torch_device)

    def start_step(self, batch: Any = None, facts: Hashable = ()) -> None:
        """Begin a step; `facts` are further things that decide how much work it is."""
        if self.off:
            return
        if self._step is not None:
            self._drop_step()
            self.ensure_off()
        if not self._steps:
            self.failures.call(self._energy.begin)
        step = self._step = _Step()
        self._clock.start_step()
        counter = self._counter = self._counter or _torch_counter(self.failures)
        step.key, step.batch = counter.key(batch, facts), batch
        self._device_clock.begin_step()
        if self._book.wants_count(step.key):
            step.counting = self._counting = True
            counter.start(batch)

    def end_step(self, seen: Hashable = ()) -> None:
        """End and book the step.

        Args:
            seen: what only the step itself has shown, and decides how much work it was.
        """
        step, self._step = self._step, None
        if step is None:
            return
        seconds = self._clock.end_step()
        count, counting_seconds = self._stop_counting() if step.counting else (None, 0.0)
        if count is not None:
            step.key = self._counter.complete(step.key)
        self._steps += 1
        # A trace is made when the step is over, and takes none of its time.
        self._host.note_step(seconds, counted=step.counting and self._counter.recounts)
        spent = seconds + counting_seconds
        first = self._book.add(step.key, count, spent, lambda: examples(step.batch), seen)
        self._device_clock.end_step(seconds, first=first)
        self._after_steps()

    def break_off(self, error: BaseException) -> None:
        """End a step that raised: it is not booked.

        One that ran out of memory while it was counted is counted no more.
        """
        step = self._step
        self._drop_step()
        names = {cls.__name__ for cls in type(error).__mro__}
        if step is None or not step.counting or not names & _OUT_OF_MEMORY:
            return
        self._book.give_up(step.key)
        self.failures.warn(
            "out of memory in a step that was being counted: steps of this kind are booked at the "
            "mean of the others from now on"
        )

    def ensure_off(self) -> None:
        """Take the counting off the user's code, whatever failed before; never raises."""
        if self._counting:
            self._counting = False
            self.failures.call(self._counter.off)

    def start_execution(self) -> None:
        """Begin a call that runs several steps, known only when it has ended."""
        if self.off:
            return
        if not self._steps:
            self.failures.call(self._energy.begin)
        self._drop_step()
        self._clock.start_step()

    def end_execution(self, batches: Sequence[Any], facts: Hashable = ()) -> None:
        """End the call and book its steps, by a counter that needs no step to run.

        Args:
            batches: of the steps that ran.
            facts: as for `start_step`.
        """
        if self.off:
            return
        seconds = self._clock.end_step() / max(1, len(batches))
        firsts = [self._book_step(batch, facts, seconds) for batch in batches]
        for _ in batches:
            self._device_clock.end_step(seconds, first=any(firsts))
        self._after_steps()

    def drop_execution(self) -> None:
        """End a call of which nobody knows what it ran: the run's compute is then not known."""
        self._clock.end_step()
        self.metering = False

    def start_waiting(self) -> None:
        """Note that the training asks for its next batch."""
        self._clock.start_waiting()

    def end_waiting(self) -> None:
        """Note that it has the batch."""
        self._clock.end_waiting()

    def leave_out(self, kind: Window = "pause") -> None:
        """Begin a time that is no training; operations within it do not count either."""
        if self.off:
            return
        self._clock.leave_out(kind)
        self._pause(True)

    def take_back(self) -> None:
        """End a time that is no training."""
        if not self.off:
            self._clock.take_back()
            self._pause(self._clock.leaving_out)

    def settle(self) -> None:
        """Note that the device has finished all steps up to now, where it runs behind the host."""
        self._clock.extend()

    def _after_steps(self) -> None:
        """Do what is due once steps are booked."""

    def _book_step(self, batch: Any, facts: Hashable, seconds: float) -> bool:
        """Book a step of an execution; say whether it is the first of its kind."""
        key = self._counter.key(batch, facts)
        count, counting_seconds = None, 0.0
        if self._book.wants_count(key):
            self._counter.start(batch)
            count, counting_seconds = self._stop_counting()
        self._steps += 1
        return self._book.add(key, count, seconds + counting_seconds, lambda: examples(batch))

    def _drop_step(self) -> None:
        """End a step without booking it."""
        if self._step is not None:
            self._step = None
            self._clock.end_step()

    def _pause(self, paused: bool) -> None:
        self._device_clock.pause(paused)
        if self._counter is not None:
            self._counter.pause(paused)

    def _stop_counting(self) -> tuple[Count | None, float]:
        """End the count of a step; return it and the seconds that ending it took."""
        began, count = time.perf_counter(), None
        try:
            count = self._counter.stop()
            self._counting = False
        except Exception as error:  # noqa: BLE001 - the step itself went well
            self.failures.record("counting", error)
        seconds = time.perf_counter() - began
        self._host.tracing += seconds
        return count, seconds

    def _torch_device(self) -> Any:
        return getattr(self._counter, "torch_device", None)

    def _known_device(self) -> Device | None:
        if self._device is None and self._counter is not None:
            self._device = self._counter.device()
        if self._device is None or self.options.peak_flops is None:
            return self._device
        from computemeter.devices import with_peak

        return with_peak(self._device, self.options.peak_flops)

    def _device_name(self) -> str:
        device = self._known_device()
        return "" if device is None else device.name

    def _parameters(self) -> tuple[int, int] | None:
        counter = self._counter
        return None if counter is None else self.failures.call(counter.parameter_counts)

    def _busy_seconds(self) -> float | None:
        busy = self._device_clock.busy_seconds(self._clock.step_seconds)
        return None if busy is None else min(busy, self._clock.training_seconds)


def _torch_counter(failures: Failures) -> Any:
    from computemeter.counters import require_torch

    require_torch("metering a loop of one's own")
    from computemeter.counters.torch_counter import TorchCounter

    return TorchCounter(warn=failures.warn)
