"""Which steps of a trial are timed, how many there are, and what ends it, on a clock of its own."""

import pytest
import torch

from computemeter.planning import _trial
from computemeter.planning._trial import Orders, Pace, measure
from computemeter.planning.probe import (
    Dropped,
    StepTime,
)


class Clock:
    """Passes a second with every step of a batch of one."""

    def __init__(self):
        self.now, self.waits = 100.0, 0

    def perf_counter(self):
        return self.now

    def wait(self):
        self.waits += 1


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_trial, "time", clock)
    return clock


class Stub:
    """Takes seconds a step for a batch size, or raises."""

    device_name, asynchronous = "a device", False

    def __init__(self, clock, seconds):
        self._clock, self._seconds, self.notes = clock, seconds, ["a note"]
        self.wait = clock.wait

    def run(self, size, pace):
        while pace.going():
            took = self._seconds[size]
            if isinstance(took, Exception):
                raise took
            self._clock.now += took

    def count(self, size):
        raise RuntimeError("no graph")


def found(clock, took, *, seconds=1000.0, warmup=2, count_at=0):
    orders = Orders(
        batch_sizes=tuple(took), count_at=count_at, steps=4, warmup=warmup, seconds=seconds
    )
    messages = list(measure(Stub(clock, took), orders))
    return [each for each in messages if isinstance(each, StepTime | Dropped)], messages


def test_warm_up_is_left_out_and_the_rest_is_timed(clock):
    (step,), _ = found(clock, {8: 2.0})
    assert step == StepTime(batch_size=8, seconds=2.0, spread=0.0, steps=4)
    assert clock.now == 100 + (2 + 4) * 2.0


def test_short_of_time_fewer_steps_are_run_but_one(clock):
    # 10 s for two sizes: 5 for the first, in which a step of warm-up and four timed ones begin...
    small, large = found(clock, {8: 1.0, 16: 2.0}, seconds=10.0, warmup=1)[0]
    assert (small.steps, large.steps) == (4, 2)  # 5 s are left: 2 + 2 + 2 ends past them
    # ...and a size for which not even two steps are to be expected is not begun.
    _, late = found(clock, {8: 6.0, 16: 1.0}, seconds=20.0)[0]
    assert late == Dropped(batch_size=16, reason="no time left of 20 s")


def test_a_slow_warm_up_is_cut_short(clock):
    (step,), _ = found(clock, {8: 30.0}, seconds=20.0, warmup=5)
    assert step.steps == 1
    assert clock.now == 100 + 30 + 30


def test_want_of_memory_ends_it_and_other_errors_do_not(clock):
    took = {1: ValueError("more than 1"), 2: 1.0, 4: MemoryError(), 8: 1.0}
    error, step, large, larger = found(clock, took)[0]
    assert error == Dropped(batch_size=1, reason="ValueError: more than 1", failed=True)
    assert step.batch_size == 2
    assert (large.too_large, larger.too_large) == (True, True)


def test_a_count_that_fails_costs_no_time(clock):
    (step,), messages = found(clock, {8: 1.0}, count_at=8)
    assert step.seconds == 1.0
    texts = [each.text for each in messages if hasattr(each, "text")]
    assert texts == ["The operations were not counted (RuntimeError: no graph).", "a note"]


def test_behind_an_asynchronous_device_steps_are_timed_in_groups(clock):
    pace = Pace(warmup=1, steps=4, until=1000.0, wait=clock.wait, together=2)
    while pace.going():
        clock.now += 3.0
    assert (pace.times, pace.timed, clock.waits) == ([3.0, 3.0], 4, 3)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
        ImportError("libx.so: cannot allocate memory in static TLS block"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"),
    ],
)
def test_want_of_memory_is_known_by_what_the_frameworks_say(error):
    assert _trial.is_out_of_memory(error)
    assert not _trial.is_out_of_memory(ValueError("a memory of things past"))
