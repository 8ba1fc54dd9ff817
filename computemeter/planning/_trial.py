"""Times training steps for several batch sizes; what does so, in whichever process it runs."""

from __future__ import annotations

import errno
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from computemeter.planning.step_time import StepTime
from computemeter.records import Count
from computemeter.sinks import describe

_TOGETHER = 5
"""Groups that steps are timed in where the device works behind the host; one wait for each."""
SMALL = 1e-8
"""Stands for zero in what a new optimizer keeps: see `computemeter.planning._torch_probe.age`."""
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "ResourceExhaustedError")
_OUT_OF_MEMORY_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "resource_exhausted",
    "bad_alloc",
    "unable to allocate",
    "could not create a memory",
)


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained, as the user gave it."""

    model: Any
    batch: Any
    loss: Any = None
    optimizer: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What is to be measured.

    Attributes:
        batch_sizes: smallest first.
        count_at: the batch size whose step is counted.
        steps: timed of each, at most.
        warmup: steps before them.
        seconds: that all may take.
        device: of the framework's name; None for the model's own.
    """

    batch_sizes: tuple[int, ...]
    count_at: int
    steps: int
    warmup: int
    seconds: float
    device: str | None = None


class Trial(Protocol):
    """A copy of a model that is trained for a few steps; an adapter of a framework makes it.

    Attributes:
        device_name: as the framework reports it.
        asynchronous: whether the device works behind the host.
        notes: what a reader must know of how it is trained.
    """

    device_name: str
    asynchronous: bool
    notes: list[str]

    def run(self, size: int, pace: Pace) -> None:
        """Train steps of a batch size for as long as `pace.going()`."""

    def wait(self) -> None:
        """Wait until the device has done all that it was given."""

    def count(self, size: int) -> Count | None:
        """Count a step; None where that cannot be done."""


class Adapter(Protocol):
    """What knows a framework; a module.

    `save` and `load` take the job to a process of its own, `copied` to this one's trial.
    """

    def environment(self) -> dict[str, str]:
        """Return what another process must find in its environment."""

    def save(self, job: Job, path: str) -> None:
        """Write the job."""

    def load(self, path: str) -> Job:
        """Read what `save` wrote."""

    def copied(self, job: Job) -> Job:
        """Return a copy that shares nothing with the user's."""

    def trial(self, job: Job, device: str | None) -> Trial:
        """Make ready to train a job that is a copy already."""

    def device_kind(self, job: Job, device: str | None) -> str:
        """Return "cpu" or what accelerator the steps would run on."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is there, on this device."""

    device_name: str


@dataclass(frozen=True, slots=True)
class Trying:
    """The next steps are of this batch size: what happens now is its doing."""

    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A batch size that was not measured.

    Attributes:
        batch_size: examples in a step.
        reason: why, in words.
        too_large: whether it did not fit in memory; neither will a larger one.
        failed: whether an error kept it from being measured, and not want of time or memory.
    """

    batch_size: int
    reason: str
    too_large: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Counted:
    """Model FLOPs of a step, per example."""

    flops_per_example: int


@dataclass(frozen=True, slots=True)
class Note:
    """What a reader must know."""

    text: str


Message = Ready | Trying | StepTime | Dropped | Counted | Note


class Pace:
    """Decides how many steps are run, and times them.

    >>> pace = Pace(warmup=1, steps=2, until=time.perf_counter() + 60, wait=lambda: None)
    >>> sum(1 for _ in iter(pace.going, False))
    3
    >>> len(pace.times)
    2

    Args:
        warmup: steps that are run first and not timed; fewer, but one, if time is short.
        steps: timed, at most; at least one is.
        until: `time.perf_counter()` after which no other step is begun.
        wait: for the device.
        together: steps timed as one.

    Attributes:
        times: seconds of a step, one for each group.
        timed: steps in them.
    """

    def __init__(
        self,
        *,
        warmup: int,
        steps: int,
        until: float,
        wait: Callable[[], object],
        together: int = 1,
    ) -> None:
        self._warmup, self._steps, self._until = warmup, steps, until
        self._wait, self._together = wait, together
        self.restart()

    def restart(self) -> None:
        """Begin again: what ran so far did not work."""
        self._begun, self._since = 0, 0.0
        self.times: list[float] = []

    @property
    def timed(self) -> int:
        return len(self.times) * self._together

    def going(self) -> bool:
        """Say whether to run another step; called before each, and after the last."""
        before, self._begun = self._begun, self._begun + 1
        if 0 < before < self._warmup and time.perf_counter() > self._until:
            self._warmup = before
        timed = before - self._warmup
        if timed < 0 or timed % self._together:
            return True
        self._wait()
        now = time.perf_counter()
        if timed:
            self.times.append((now - self._since) / self._together)
        self._since = now
        return timed < self._steps and (not timed or now < self._until)


def measure(trial: Trial, orders: Orders) -> Iterator[Message]:
    """Time steps of each batch size, and count one."""
    yield Ready(trial.device_name)
    end, last = time.perf_counter() + orders.seconds, 0.0
    sizes = list(orders.batch_sizes)
    while sizes:
        size = sizes.pop(0)
        left = end - time.perf_counter()
        if left <= 2 * last:
            yield Dropped(batch_size=size, reason=f"no time left of {orders.seconds:g} s")
            continue
        yield Trying(size)
        until = time.perf_counter() + left / (len(sizes) + 1)
        try:
            found = _steps_of(trial, size, orders, until)
            last = found.seconds
            yield found
            if size == orders.count_at:
                yield from _counted(trial, size)
        except Exception as error:  # noqa: BLE001 - the step is the user's code
            yield from _given_up(error, size, sizes)
    yield from map(Note, trial.notes)


def _steps_of(trial: Trial, size: int, orders: Orders, until: float) -> StepTime:
    pace = Pace(
        warmup=orders.warmup,
        steps=orders.steps,
        until=until,
        wait=trial.wait,
        together=max(1, orders.steps // _TOGETHER) if trial.asynchronous else 1,
    )
    trial.run(size, pace)
    if not pace.times:
        raise RuntimeError("training ended before a step could be timed")
    return StepTime(
        batch_size=size,
        seconds=statistics.median(pace.times),
        spread=_half_range(pace.times),
        steps=pace.timed,
    )


def _half_range(times: Sequence[float]) -> float | None:
    if len(times) < 2:
        return None
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / 2


def _counted(trial: Trial, size: int) -> Iterator[Message]:
    try:
        count = trial.count(size)
    except Exception as error:  # noqa: BLE001 - a time without a count is worth having
        yield Note(f"The operations were not counted ({describe(error)}).")
        return
    if count is None or not (count.model_flops or count.uncounted_ops):
        yield Note("No operation of the step could be counted.")
    elif count.uncounted_ops:
        names = ", ".join(sorted(count.uncounted_ops))
        yield Note(f"The operations are not known: there is no formula for {names}.")
    else:
        yield Counted(round(count.model_flops / size))


def _given_up(error: Exception, size: int, sizes: list[int]) -> Iterator[Message]:
    if not is_out_of_memory(error):
        yield Dropped(batch_size=size, reason=describe(error), failed=True)
        return
    yield from not_fitting(size, sizes)
    sizes.clear()


def not_fitting(size: int, larger: Sequence[int]) -> Iterator[Dropped]:
    """Drop a batch size for want of memory, and with it all larger ones."""
    yield Dropped(batch_size=size, reason="does not fit in memory", too_large=True)
    for each in larger:
        reason = f"not tried: {size} does not fit in memory"
        yield Dropped(batch_size=each, reason=reason, too_large=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether it is want of memory that any of the frameworks reports."""
    if any(cls.__name__ in _OUT_OF_MEMORY for cls in type(error).__mro__):
        return True
    return getattr(error, "errno", None) == errno.ENOMEM or says_out_of_memory(str(error))


def says_out_of_memory(text: str) -> bool:
    """Say whether a text speaks of want of memory."""
    return any(part in text.lower() for part in _OUT_OF_MEMORY_TEXTS)
