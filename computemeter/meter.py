"""The meter: collects a run's steps, books them, and passes snapshots on."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from computemeter.activity import RunActivity
from computemeter.book import StepBook
from computemeter.carried import Carried
from computemeter.clock import TrainingClock, Window
from computemeter.counters.signature import examples
from computemeter.device_clock import DeviceClock, TorchClock
from computemeter.energy import RunEnergy
from computemeter.failures import Failures
from computemeter.forecast import Outlook
from computemeter.host_time import HostTimer
from computemeter.journal import Journal, Place
from computemeter.options import Options, OptionValues, check_count
from computemeter.randomness import same_random_numbers
from computemeter.ranks import WAIT_CLOSING, WAIT_LOGGING, Ranks, SoloRanks, torch_ranks
from computemeter.records import Count, Device, SegmentTotals, Snapshot, Summary
from computemeter.results import (
    Reading,
    judge_run,
    segment_totals,
    summarise,
    take_snapshot,
)
from computemeter.switch import nothing_measured, switched_off
from computemeter.telling import Telling

_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}
_SECONDS_BETWEEN_RECORDS = 10.0
"""Of training, where logging steps are further apart: so much is lost of a run that is killed."""


@dataclass(slots=True)
class _Step:
    """A step that has begun; one whose key could not be made is booked at the mean."""

    key: Hashable = "unnamed"
    batch: Any = None
    counting: bool = False


class Meter:
    """Measures the compute of a training run, in any PyTorch loop.

    >>> with Meter(ledger=None, trackers=None, verbose=0) as meter:
    ...     for batch in []:
    ...         with meter.step(batch):
    ...             pass  # forward, backward, optimizer step
    >>> meter.summary().steps
    0

    A failure inside the meter never reaches the training: it is warned of once and kept in the
    summary's `warnings`.

    In a `torch.distributed` run every process has a meter, made in the same order as on the others.
    Rank 0 adds up what all of them counted and writes for all; close the meters before
    `destroy_process_group`, for until then the ranks can tell each other.

    Args:
        log_every: steps between two records in the ledger and the trackers.
        total_steps: that this launch will run, where you know; the time left is told by it.
        options: see `computemeter.options.Options`.

    Raises:
        ValueError: an option's value is not accepted.
        TypeError: an option does not exist.
    """

    def __init__(
        self,
        *,
        log_every: int = 50,
        total_steps: int | None = None,
        **options: Unpack[OptionValues],
    ) -> None:
        check_count("log_every", log_every)
        if total_steps is not None:
            check_count("total_steps", total_steps)
        self.options = Options.from_user(options, also=("log_every", "total_steps"))
        self.outlook = Outlook(total_steps)
        self.failures = Failures()
        self._log_every: int | None = log_every
        self._clock = TrainingClock()
        self._book = StepBook(lambda: self._clock.training_seconds)
        self._counter: Any = None
        self._step: _Step | None = None
        self._counting = False
        self._steps = 0
        self._host = HostTimer()
        self._added_flops = 0
        self._place = Place()
        self._ranks: Ranks = SoloRanks()
        self._attached = False
        self._device: Device | None = None
        self._device_clock: DeviceClock = TorchClock(self._torch_device)
        self._activity = RunActivity(self._torch_device)
        self._energy = RunEnergy(self._torch_device)
        self._carried = Carried()
        self._journal: Journal | None = None
        self._opened = False
        self._last: Snapshot | None = None
        self._kept_at = 0.0
        self._started = time.time()
        self.telling = Telling(alert=self.options.alert)
        self.metering = True
        self._closed = False
        self.off = switched_off()
        if self.off:
            self.options = replace(self.options, ledger=None, trackers=(), verbose=0)
            self.metering, self._opened, self._closed, self._log_every = False, True, True, None

    # What a user types.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        status = "interrupted" if interrupted else "finished" if kind is None else "failed"
        self.failures.call(self.close, status)
        self.failures.call(self.print_summary)

    @contextmanager
    def step(self, batch: Any = None, facts: Hashable = ()) -> Iterator[None]:
        """Meter one training step: forward, backward and, where there is one, optimizer step.

        Args:
            batch: the step's input, looked at for its shapes; without it, steps of different
                shapes are told apart only by counting some of them again.
            facts: what else decides how much work the step is.
        """
        safely = self.failures.call
        safely(self.start_step, batch, facts)
        try:
            yield
        except BaseException as error:
            safely(self.break_off, error)
            safely(self.ensure_off)
            raise
        safely(self.end_step)
        safely(self.ensure_off)
        if self._log_every and self._steps % self._log_every == 0:
            safely(self.log, self._steps)

    @contextmanager
    def pause(self, kind: Window = "pause") -> Iterator[None]:
        """Leave the time of a block out: it is no training.

        Args:
            kind: "validation", "checkpoint" or "pause": what the block's time is booked as.
        """
        self.failures.call(self.leave_out, kind)
        try:
            yield
        finally:
            self.failures.call(self.take_back)

    def validation(self) -> Any:
        """Leave validation out: neither its time nor its operations are training."""
        return self.pause("validation")

    def add_flops(self, flops: int) -> None:
        """Add operations that the meter cannot see, such as those of a kernel of your own.

        Args:
            flops: of the whole run, all processes; counted as model and hardware FLOPs.

        Raises:
            ValueError: `flops` is no whole number, or negative.
        """
        check_count("flops", flops, least=0)
        self._added_flops += int(flops)

    @staticmethod
    def count(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Count:
        """Count the operations of one call.

        >>> import torch
        >>> Meter.count(torch.mm, torch.ones(2, 3), torch.ones(3, 4)).model_flops  # 2 * 2*3*4
        48
        """
        from computemeter.counters.torch_mode import count

        return count(function, *args, **kwargs)

    def breakdown(self, model: Any = None) -> dict[str, int]:
        """Return the model FLOPs of the last counted step by module, largest first.

        For finding out where a count comes from. Work without a weight (attention between its
        projections) goes to the module around it; what belongs to no known parameter to
        "(unknown)".

        Args:
            model: names the modules; the one given to the meter if left out.
        """
        return {} if self._counter is None else dict(self._counter.breakdown(model))

    @property
    def steps(self) -> int:
        """Training steps so far."""
        return self._steps

    def summary(self) -> Summary:
        """Return this segment's compute so far, by both methods.

        Of many processes, rank 0 has the sum over all, the others as of their last logging step
        until they end. The other ranks have their own part alone, with one device, and say so in
        `warnings`.
        """
        reading = self._read()
        projection = self.failures.call(self.outlook.against, reading, ended=self._closed)
        summary = summarise(reading, self.failures.call(self._book.formula), projection)
        return nothing_measured(summary) if self.off else summary

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on from here: plain ints, floats and texts.

        Of many processes, save what rank 0 returns, but call this on all of them, so that rank 0
        knows how far the others are.
        """
        self.failures.call(self._exchange)
        return (self.failures.call(self._handed_on) or self._not_known()).to_state()

    def _handed_on(self) -> Carried:
        reading, journal, carried = self._read(), self._journal, self._carried
        segments = dict(carried.segments)
        # Before its first step a segment's peak is not known; nothing is lost without it.
        if journal and (reading.totals.steps or reading.added_flops):
            segments[journal.segment] = segment_totals(reading, judge_run(reading))
        if self.off:
            segments["disabled"] = SegmentTotals()  # nobody knows what it burns
        return Carried(
            run_flops=reading.run_flops,
            run=journal.run if journal else carried.run,
            parent=journal.segment if journal else carried.parent,
            segments=segments,
            base=reading.base,
            trackers={**carried.trackers, **(journal.trackers if journal else {})},
        )

    def _not_known(self) -> Carried:
        """Hand on that this segment's work is not known: without a word it would count as none."""
        journal, carried = self._journal, self._carried
        segment = journal.segment if journal else "unknown"
        segments = {**carried.segments, segment: SegmentTotals()}
        return replace(carried, run_flops=None, segments=segments)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of an earlier segment.

        Raises:
            ValueError: the state was written by a newer version, or is none.
        """
        self._carried = Carried.from_state(state)

    # What a callback calls; it guards each call with `failures.call`.

    def attach(
        self,
        counter: Any,
        place: Place,
        *,
        ranks: Ranks | None = None,
        carried: Carried | None = None,
        device_clock: DeviceClock | None = None,
    ) -> None:
        """Say what is metered and where; a plain loop finds out by itself.

        Args:
            counter: of the framework, see `TorchCounter`.
            place: where the run's records go.
            ranks: the processes that train together; None to go by `torch.distributed`.
            carried: of earlier segments of the run.
            device_clock: of the framework; None for PyTorch's.
        """
        if self.off:
            return
        self._clock.begin()
        self._log_every = None  # the framework's own logging steps decide
        self._book.recounts = counter.recounts
        self._device_clock = device_clock or self._device_clock
        self._counter, self._place, self._attached = counter, place, True
        self._ranks = ranks or self.failures.call(torch_ranks) or SoloRanks()
        self._carried = carried or self._carried
        self._open()

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

    def _after_steps(self) -> None:
        if not self._opened:
            self._open()
        elif self._clock.training_seconds - self._kept_at >= _SECONDS_BETWEEN_RECORDS:
            self._keep()

    def _keep(self, *, sync: bool = False) -> None:
        """Record the totals for a run that is killed before its next logging step."""
        self._kept_at = self._clock.training_seconds
        # At a checkpoint all ranks meet; between logging steps nobody waits for anybody.
        self.failures.call(self._exchange, WAIT_LOGGING if sync else 0.0)
        self._keep_totals(sync=sync)

    def _keep_totals(self, *, sync: bool = False) -> Snapshot | None:
        """Record the totals in the ledger alone."""
        if self._journal is None or not self._place.writes:
            return None
        # The tracker's step, which is not this segment's count of steps.
        step = self._last.step if self._last else 0
        now = take_snapshot(self._read(), self._last, step=step, time=time.time())
        self._journal.keep(now, sync=sync)
        return now

    def _book_step(self, batch: Any, facts: Hashable, seconds: float) -> bool:
        """Book a step of an execution; say whether it is the first of its kind."""
        key = self._counter.key(batch, facts)
        count, counting_seconds = None, 0.0
        if self._book.wants_count(key):
            self._counter.start(batch)
            count, counting_seconds = self._stop_counting()
        self._steps += 1
        return self._book.add(key, count, seconds + counting_seconds, lambda: examples(batch))

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
        if kind == "checkpoint":
            self._keep(sync=True)

    def take_back(self) -> None:
        """End a time that is no training."""
        if not self.off:
            self._clock.take_back()
            self._pause(self._clock.leaving_out)

    def settle(self) -> None:
        """Note that the device has finished all steps up to now, where it runs behind the host."""
        self._clock.extend()

    def log(self, step: int, loss: float | None = None) -> Snapshot:
        """Record the state under the tracker's step."""
        began = time.perf_counter()
        self._open()
        self.failures.call(self._exchange)
        self.failures.call(self._activity.sample, self._clock.training_seconds)
        read = time.perf_counter()
        snapshot = self._record(step, loss)
        ended = time.perf_counter()
        # What came before the reading is in it.
        self.outlook.logged(ended - read)
        self._host.logging += ended - began
        return snapshot

    def _record(self, step: int, loss: float | None = None) -> Snapshot:
        reading, now = self._read(), time.time()
        ahead = None if self._closed else self.failures.call(self.outlook.look, reading, now)
        snapshot = take_snapshot(
            reading, self._last, step=step, time=now, loss=loss, forecast=ahead
        )
        self._last, self._kept_at = snapshot, self._clock.training_seconds
        if self._journal is not None:
            self._journal.write(snapshot)
        if self._place.writes:  # for all ranks
            known = reading.no_count_reason is not None
            self.telling.hear(snapshot.judgement, self._journal, known=known)
            if self.options.verbose:
                self.failures.call(self.outlook.tell, reading)
        return snapshot

    @same_random_numbers()
    def close(self, status: str, step: int | None = None, checkpoints: Path | None = None) -> None:
        """End the segment: record what came since the last logging step, close the ledger.

        Args:
            status: "finished", "failed" or "interrupted".
            step: the tracker's step of the last training step.
            checkpoints: the folder where the run's checkpoints lie, for its compute receipt; None
                puts that beside the ledger.
        """
        if self._closed:
            return
        self._closed = True
        self.failures.call(self._drop_step)
        self._clock.end()
        self.ensure_off()
        self.failures.call(self._open)
        self.failures.call(self._energy.sample, last=True)
        self.failures.call(self._part, status)
        self.failures.call(self._record_last, self._steps if step is None else step)
        self.failures.call(self._device_clock.close)
        self.failures.call(self._activity.close)
        self.failures.call(self._energy.close)
        if self._journal is None:
            return
        reading = self.failures.call(self._read)
        summary = self.failures.call(self.summary)
        self.failures.call(self._journal.close, status, self._last, summary, reading, checkpoints)

    @same_random_numbers()
    def print_summary(self) -> None:
        """Print the table at the end, unless `verbose=0`."""
        if self.options.verbose and self._place.writes:
            from computemeter.table import print_summary

            print_summary(self.summary())

    def _open(self) -> None:
        if not self._opened:
            self._opened = True  # first: what fails now is not tried again at every step
            self._begin_journal()

    @same_random_numbers()
    def _begin_journal(self) -> None:
        if not self._attached:
            self._ranks = self.failures.call(torch_ranks) or self._ranks
            self._place = replace(self._place, writes=self._ranks.rank == 0)
        self._started = time.time()
        reading = self._read()
        self._journal = Journal(self._place, reading, self.failures)
        self._carried = self._journal.carried
        if self.options.verbose and self._place.writes:
            from computemeter.table import print_start

            print_start(reading.known_device, reading.device_count)

    def _drop_step(self) -> None:
        """End a step without booking it."""
        if self._step is not None:
            self._step = None
            self._clock.end_step()

    def _record_last(self, step: int) -> None:
        """Record what came since the last logging step; each step has each value once."""
        if self._last is None or self._last.totals.steps != self._steps:
            if self._steps or self._added_flops:
                self._record(step)
        elif (self._last.totals.model_flops or 0) != self._read().model_flops:
            # Added by hand, or another rank's: the last step has its value.
            self._record(self._last.step + 1)
        elif self._last.totals.energy_joules != self._read().energy_joules:
            self._last = self._keep_totals() or self._last

    def _exchange(self, seconds: float = WAIT_LOGGING) -> None:
        if not self._closed:
            self.failures.call(self._energy.sample)
            self._ranks.exchange(
                self._book.totals,
                seconds=seconds,
                device=self._device_name(),
                energy=self._energy.drawn,
            )

    def _part(self, status: str) -> None:
        """Tell the other ranks that this one has ended; on rank 0 hear of their ends."""
        # Where this rank failed the others may hang in a collective, and never end.
        seconds = WAIT_CLOSING if status == "finished" else WAIT_LOGGING
        self.failures.call(
            self._ranks.exchange,
            self._book.totals,
            ended=True,
            seconds=seconds,
            device=self._device_name(),
            energy=self._energy.drawn,
        )
        if (missing := self._ranks.missing()) is not None:
            self.failures.warn(missing)

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

    def _read(self) -> Reading:
        ranks, own = self._ranks, self._book.totals()
        safely = self.failures.call
        note = safely(getattr, ranks, "note", None)
        return Reading(
            totals=safely(ranks.merge, own) or own,
            # Of the whole run, all processes: rank 0 has it.
            added_flops=self._added_flops if ranks.rank == 0 else 0,
            training_seconds=self._clock.training_seconds,
            busy_seconds=safely(self._busy_seconds),
            host=self._host.read(self._clock, self._device_clock),
            device=safely(self._known_device),
            device_count=ranks.devices,
            options=self.options,
            carried=self._carried,
            parameters=self._parameters(),
            warnings=(*self.failures.messages, *([note] if note else [])),
            metering=self.metering,
            measured_utilization=self._activity.share,
            utilization_source=self._activity.source,
            dtype=getattr(self._counter, "dtype", None),
            no_count_reason=getattr(self._counter, "problem", None),
            started=self._started,
            energy_joules=safely(ranks.energy, self._energy.drawn),
        )

    def _device_name(self) -> str:
        device = self._known_device()
        return "" if device is None else device.name

    def _parameters(self) -> tuple[int, int] | None:
        counter = self._counter
        return None if counter is None else self.failures.call(counter.parameter_counts)

    def _torch_device(self) -> Any:
        return getattr(self._counter, "torch_device", None)

    def _known_device(self) -> Device | None:
        if self._device is None and self._counter is not None:
            self._device = self._counter.device()
        if self._device is None or self.options.peak_flops is None:
            return self._device
        from computemeter.devices import with_peak

        return with_peak(self._device, self.options.peak_flops)

    def _busy_seconds(self) -> float | None:
        busy = self._device_clock.busy_seconds(self._clock.step_seconds)
        return None if busy is None else min(busy, self._clock.training_seconds)


def _torch_counter(failures: Failures) -> Any:
    from computemeter.counters.torch_counter import TorchCounter

    return TorchCounter(warn=failures.warn)
