"""The run: what its processes and segments come to, read, judged and passed on."""

from __future__ import annotations

import time
from dataclasses import replace

from computemeter.activity import RunActivity
from computemeter.carried import Carried
from computemeter.clock import Window
from computemeter.counters.protocol import StepCounter
from computemeter.device_clock import DeviceClock
from computemeter.forecast import Outlook
from computemeter.journal import Journal, Place
from computemeter.options import Options
from computemeter.randomness import same_random_numbers
from computemeter.ranks import WAIT_CLOSING, WAIT_LOGGING, Ranks, SoloRanks, torch_ranks
from computemeter.records import SegmentTotals, Snapshot
from computemeter.results import judge_run, segment_totals, take_snapshot
from computemeter.run_reading import Reading
from computemeter.step_meter import StepMeter
from computemeter.telling import Telling

_SECONDS_BETWEEN_RECORDS = 10.0
"""Of training, where logging steps are further apart: so much is lost of a run that is killed."""


class RunMeter(StepMeter):
    """Adds up what the processes counted, and passes snapshots of the run on.

    Args:
        options: of the user.
        total_steps: that this launch will run, where it is known.

    Attributes:
        outlook: how long the run still takes.
        telling: says each verdict once.
    """

    def __init__(self, options: Options, total_steps: int | None = None) -> None:
        super().__init__(options)
        self.outlook = Outlook(total_steps)
        self.telling = Telling(alert=self.options.alert)
        self._log_every: int | None = None
        self._added_flops = 0
        self._place = Place()
        self._ranks: Ranks = SoloRanks()
        self._attached = False
        self._activity = RunActivity(self._torch_device)
        self._carried = Carried()
        self._journal: Journal | None = None
        self._opened = self._closed = self.off
        self._last: Snapshot | None = None
        self._kept_at = 0.0
        self._started = time.time()

    def attach(
        self,
        counter: StepCounter,
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

    def leave_out(self, kind: Window = "pause") -> None:
        """Begin a time that is no training; a checkpoint finds the ledger up to date."""
        super().leave_out(kind)
        if kind == "checkpoint" and not self.off:
            self._keep(sync=True)

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
