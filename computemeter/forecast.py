"""How long a run still takes and what it will have computed, from what it has done so far.

Arithmetic on numbers that were measured anyway, done at logging steps alone. What happens once is
not extrapolated: everything up to the first logging step with what that step itself took (trackers
are opened in it), and afterwards compiling and the counting of operations. What comes back with
every epoch is: validations and checkpoints at their mean, as often as they are still to come; the
first of them is left out of it as soon as there is a second.

    seconds left = steps left x seconds per step + rounds left x seconds per round
    the run's FLOP at its end = its FLOP so far + steps left x FLOP per step
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from computemeter.randomness import same_random_numbers
from computemeter.units import SECONDS_PER_DAY, pfs_days

if TYPE_CHECKING:
    from computemeter.host_time import HostTime
    from computemeter.run_reading import Reading

_LONGEST = 100 * 365 * SECONDS_PER_DAY
"""Seconds: data that claims `sys.maxsize` batches has no length."""
_ENOUGH_STEPS, _ENOUGH_SECONDS = 20, 10.0
"""Of either, so many make a pace: a single step may take a tenth or ten times what others do."""
_WORTH_SAYING = 5.0
"""Seconds: a shorter fit is over before anyone has read how long it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """What is left of a fit, as the one that runs it says at one moment.

    Attributes:
        steps: training steps (micro-batches) still to run; None where no number of them ends it,
            or none is known yet.
        seconds: of wall time still allowed; None without such a limit.
        rounds: validations (without any: ends of epochs) within these steps; None where nobody
            knows when they come.
        validates: that validations come is known, even where it is not known when.
        limit: what ends it by `steps` ("max_epochs").
        time_limit: what ends it by `seconds` ("max_time").
        may_stop: what may end it earlier, which nobody can know ("EarlyStopping").
        unknown: why there is no end to be known, for people; empty where there is one, or will be.
    """

    steps: int | None = None
    seconds: float | None = None
    rounds: int | None = None
    validates: bool = False
    limit: str = ""
    time_limit: str = "max_time"
    may_stop: tuple[str, ...] = ()
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a step takes of wall time, in seconds, and a round of validation and checkpoints.

    Attributes:
        step: with everything that comes back as often: waiting, logging.
        round: None where nothing of it has been seen since the first logging step.
    """

    step: float
    round: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is expected of a run, at one moment.

    Attributes:
        step: training steps of this launch that had been run.
        steps: that this launch will have run at its end.
        seconds_left: wall time to the end, validation and checkpoints included.
        wall_seconds: of this launch, from its beginning to that end.
        ends_at: seconds since the epoch.
        run_flops: model FLOPs of the run at its end, all launches; None where the work so far is
            not known.
        limit: what ends it ("max_steps", "max_epochs", "max_time", "epochs", "total_steps").
        timed: that is a limit of time.
        rounds_missing: validations or ends of epochs are to come, nothing has been seen of them,
            and what they may take is not included.
        may_stop: what may end it earlier, which nobody can know.
    """

    step: int
    steps: int
    seconds_left: float
    wall_seconds: float
    ends_at: float
    run_flops: int | None
    limit: str
    timed: bool = False
    rounds_missing: bool = False
    may_stop: tuple[str, ...] = ()

    @property
    def pfs_days(self) -> float | None:
        """The run's compute at its end in petaflop/s-days."""
        return None if self.run_flops is None else pfs_days(self.run_flops)

    @property
    def is_news(self) -> bool:
        """Whether the whole fit takes long enough for anyone to be told of its end."""
        return self.wall_seconds >= _WORTH_SAYING


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What the first forecast said beside what became of it; the latter is None before the end.

    The errors are None too where the run had other steps than projected and no limit of time ended
    it: a forecast is not wrong because somebody stopped the run.

    Attributes:
        step: training steps of this launch after which it was made.
        steps: of this launch, as projected.
        real_steps: as it ran them.
        seconds: wall time of this launch, as projected.
        real_seconds: as it took.
        seconds_error: projected / real - 1.
        run_flops: of the run at its end, as projected.
        real_run_flops: as it became.
        flops_error: projected / real - 1.
        rounds_missing: of the forecast: validation and checkpoints were not in it.
    """

    step: int
    steps: int
    real_steps: int | None
    seconds: float
    real_seconds: float | None
    seconds_error: float | None
    run_flops: int | None
    real_run_flops: int | None
    flops_error: float | None
    rounds_missing: bool

    @property
    def was_said(self) -> bool:
        """Whether it was of a fit long enough to tell anyone; see `Forecast.is_news`."""
        return self.seconds >= _WORTH_SAYING


def pace_of(host: HostTime, steps: int, rounds: int | None, once: float = 0.0) -> Pace | None:
    """Say what a step and a round take, from a stretch of the run.

    >>> from computemeter.host_time import HostTime
    >>> host = HostTime(wall=12.0, training=10.0, steps=10.0, waiting=0.0, waiting_before=0.0,
    ...     validation=2.0, checkpoint=0.0, paused=0.0, logging=0.0, tracing=0.0, counted=0.0,
    ...     counted_steps=0, all_steps=100, compiling=None)
    >>> pace_of(host, steps=100, rounds=2)  # 10 s of 100 steps, 2 s of 2 validations
    Pace(step=0.1, round=1.0)

    Args:
        host: what was timed in that stretch alone.
        steps: training steps in it.
        rounds: validations or ends of epochs in it; None where nobody knows.
        once: further seconds of it that will not come back.

    Returns:
        None where all its steps were counted ones, which say nothing about the others.
    """
    if steps <= host.counted_steps:
        return None
    # Steps of a new kind are compiled and counted at once: `counting` has left the compiling out.
    once += host.counting + (host.all_compiling or 0.0)
    between = host.validation + host.checkpoint
    if rounds is None or rounds <= 0:
        return Pace(step=max(0.0, host.wall - once) / steps)
    each = between / rounds if between else None
    return Pace(step=max(0.0, host.wall - once - between) / steps, round=each)


def time_left(pace: Pace, length: Length) -> tuple[int, float, str] | None:
    """Return the steps that are left, their seconds of wall time, and what ends them.

    >>> time_left(Pace(step=0.5, round=10.0), Length(steps=100, rounds=2, limit="max_epochs"))
    (100, 70.0, 'max_epochs')

    Of a limit of steps and one of time, the one that comes first. None where neither is known,
    or the steps have all been run and there are more.
    """
    steps, allowed = length.steps, None if length.seconds is None else max(0.0, length.seconds)
    if steps is not None and steps < 0:
        return None
    if steps is not None:
        seconds = steps * pace.step + (length.rounds or 0) * (pace.round or 0.0)
        if allowed is None or seconds <= allowed:
            return steps, seconds, length.limit
        return int(steps * allowed / seconds), allowed, length.time_limit
    if allowed is None or not pace.step:
        return None
    return int(allowed / pace.step), allowed, length.time_limit


@dataclass(slots=True)
class _Mark:
    """A logging step.

    Attributes:
        host: what had been timed.
        steps: that had been run.
        rounds: still to come.
        once: seconds after it that do not come back; None before that is known.
    """

    host: HostTime
    steps: int
    rounds: int | None
    once: float | None = None

    def rounds_since(self, before: _Mark) -> int | None:
        known = self.rounds is not None and before.rounds is not None
        return (before.rounds or 0) - (self.rounds or 0) if known else None

    def is_enough_after(self, before: _Mark) -> bool:
        long = self.host.wall - before.host.wall >= _ENOUGH_SECONDS
        return long or self.steps - before.steps >= _ENOUGH_STEPS


class Outlook:
    """The forecasts of one run: what they are made from, and the first one.

    Args:
        total_steps: of this launch, as the user says; None where a framework is asked.

    Attributes:
        length: asked at each logging step with the steps of this launch so far; None where nobody
            knows how long the run is.
        bar_is_open: says whether a progress bar has left its line without an end.
        first: the first forecast with steps to come; see `look`.
    """

    def __init__(self, total_steps: int | None = None) -> None:
        self.length: Callable[[int], Length | None] | None = None
        if total_steps is not None:
            self.length = lambda steps: Length(steps=total_steps - steps, limit="total_steps")
        self.bar_is_open: Callable[[], bool] = bool
        self.first: Forecast | None = None
        self._start: _Mark | None = None
        self._warm: _Mark | None = None
        self._said = False
        self._unknown = ""

    def look(self, reading: Reading, now: float) -> Forecast | None:
        """Forecast at a logging step; None where nothing can be said.

        The first one is due at the second logging step. It comes later where that is less than 20
        steps and 10 s after the first: with logging at every step it would rest on a single one.

        Args:
            reading: what was collected so far.
            now: seconds since the epoch.
        """
        length = self.length(reading.totals.steps) if self.length and reading.metering else None
        if length is None:
            return None
        here = _Mark(reading.host, reading.totals.steps, length.rounds)
        if self._start is None:
            self._start = here
            return None
        self._unknown = length.unknown
        start = self._start = self._beginning(self._start, here)
        pace = _pace(start, here)
        left = None if pace is None else time_left(pace, length)
        if pace is None or left is None or left[1] > _LONGEST:
            return None
        found = _forecast(reading, left, now, length, missing=_is_missing(start, here, length))
        if found.steps > found.step:  # or it is no news any more
            self.first = self.first or found
        return found

    def tell(self, reading: Reading) -> None:
        """Print, once, the first forecast if it is news, or why there can be none."""
        if self._said or not (self.first or self._unknown):
            return
        self._said = True
        if self.first is None or self.first.is_news:
            self._print(reading)

    def logged(self, seconds: float) -> None:
        """Take what a logging step went on to take after `look`: the first one's is taken once."""
        if self._start is not None and self._start.once is None:
            self._start.once = seconds

    def against(self, reading: Reading, *, ended: bool) -> Projection | None:
        """Set the first forecast beside what became of the run; None where there was none."""
        first = self.first
        if first is None:
            return None
        seconds, flops = (reading.host.wall, reading.run_flops) if ended else (None, None)
        as_far = first.timed or reading.totals.steps == first.steps
        return Projection(
            step=first.step,
            steps=first.steps,
            real_steps=reading.totals.steps if ended else None,
            seconds=first.wall_seconds,
            real_seconds=seconds,
            seconds_error=_error(first.wall_seconds, seconds) if as_far else None,
            run_flops=first.run_flops,
            real_run_flops=flops,
            flops_error=_error(first.run_flops, flops) if as_far else None,
            rounds_missing=first.rounds_missing,
        )

    def _beginning(self, start: _Mark, here: _Mark) -> _Mark:
        """Return where to measure from: the first logging step; of two rounds, after the first.

        The first validation takes longer than the others, and so may the first epoch.
        """
        warm = self._warm
        if warm is None:
            self._warm = replace(here, once=0.0) if here.rounds_since(start) else None
            return start
        return warm if here.rounds_since(warm) and here.is_enough_after(warm) else start

    @same_random_numbers()
    def _print(self, reading: Reading) -> None:
        from computemeter.table import print_line
        from computemeter.wording import expected

        line = f"the time left is not known: {self._unknown}"
        if self.first is not None:
            devices = f"{reading.device_count} x {reading.known_device.name}"
            line = expected(self.first, devices, carried=bool(reading.carried.run_flops))
        print_line(line, bar_is_open=self.bar_is_open())


def _pace(start: _Mark, here: _Mark) -> Pace | None:
    if not here.is_enough_after(start):
        return None
    steps, rounds = here.steps - start.steps, here.rounds_since(start)
    return pace_of(here.host.since(start.host), steps, rounds, start.once or 0.0)


def _is_missing(start: _Mark, here: _Mark, length: Length) -> bool:
    """Say whether something comes back of which nothing has been seen."""
    seen = here.host.since(start.host)
    between = seen.validation + (0.0 if length.validates else seen.checkpoint)
    to_come = length.validates if length.rounds is None else length.rounds > 0
    return to_come and not between


def _forecast(
    reading: Reading,
    left: tuple[int, float, str],
    now: float,
    length: Length,
    *,
    missing: bool,
) -> Forecast:
    steps_left, seconds, limit = left
    done, flops = reading.totals.steps, reading.run_flops
    return Forecast(
        step=done,
        steps=done + steps_left,
        seconds_left=seconds,
        wall_seconds=reading.host.wall + seconds,
        ends_at=now + seconds,
        # In whole numbers: past 2**53 a float has not every one.
        run_flops=None if flops is None else flops + reading.model_flops * steps_left // done,
        limit=limit,
        timed=limit == length.time_limit,
        # A limit of time holds, whatever comes within it.
        rounds_missing=missing and limit != length.time_limit,
        may_stop=length.may_stop,
    )


def _error(projected: float | None, real: float | None) -> float | None:
    return None if projected is None or not real else projected / real - 1
