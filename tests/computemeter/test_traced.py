"""A counter that traces a step: once for each kind, and never again once it has failed."""

import gc
import logging
from weakref import ref

import pytest

from computemeter.book import StepBook
from computemeter.clock import TrainingClock
from computemeter.counters.traced import TracedCounter
from computemeter.journal import Place
from computemeter.meter import Meter
from computemeter.records import Count, Device

DEVICE = Device(name="stub", kind="gpu", peaks={"fp32": 1e12})


class Batch:
    """Something with a shape, as a framework's array has."""

    dtype = "float32"

    def __init__(self, examples):
        self.shape = (examples, 3)

    def __len__(self):
        return self.shape[0]


class Trace:
    """Counts 100 FLOPs for an example, or fails."""

    def __init__(self, error=None):
        self.seen, self.error = [], error

    def __call__(self, batch):
        self.seen.append(batch.shape[0])
        if self.error:
            raise self.error("no\nsecond line")
        flops = 100 * batch.shape[0]
        return Count(flops, flops, {"dot": flops}, {"float32": flops})


class DeviceClock:
    """Notes what it is told."""

    def __init__(self):
        self.steps, self.pauses, self.closed = [], [], 0

    def begin_step(self):
        pass

    def end_step(self, seconds, *, first):
        self.steps.append(first)

    def pause(self, paused):
        self.pauses.append(paused)

    def busy_seconds(self, step_seconds):
        return None

    def compile_seconds_outside(self):
        return 0.0

    def compile_seconds(self):
        return None

    def close(self):
        self.closed += 1


def counter_of(trace, warnings=None):
    warn = (lambda _message: None) if warnings is None else warnings.append
    return TracedCounter(trace, lambda: DEVICE, lambda: (5, 4), warn)


def metered(trace, warnings=None):
    """Return a meter that counts by a trace, and its device clock."""
    meter, clock = Meter(ledger=None, trackers=None, verbose=0), DeviceClock()
    meter.attach(counter_of(trace, warnings), Place(), device_clock=clock)
    return meter, clock


def step(meter, batch):
    meter.start_step(batch)
    meter.end_step()


def test_a_step_is_counted_after_it_has_run():
    trace = Trace()
    counter, batch = counter_of(trace), Batch(8)
    counter.start(batch)
    assert trace.seen == []
    assert counter.stop().model_flops == 800
    assert trace.seen == [8]


def test_nothing_is_counted_that_was_not_started():
    trace = Trace()
    counter = counter_of(trace)
    assert counter.stop() is None
    counter.start(Batch(8))
    counter.stop()
    assert counter.stop() is None
    assert trace.seen == [8]


def test_a_step_that_was_broken_off_is_not_traced():
    trace = Trace()
    counter = counter_of(trace)
    counter.start(Batch(8))
    counter.off()
    assert counter.stop() is None
    assert trace.seen == []


def test_a_trace_that_fails_is_one_warning_and_the_last():
    trace, warnings = Trace(ValueError), []
    counter = counter_of(trace, warnings)
    for _ in range(3):
        counter.start(Batch(8))
        assert counter.stop() is None
    assert trace.seen == [8]
    (warning,) = warnings
    assert "cannot be traced" in warning
    assert "(ValueError: no second line)" in warning


@pytest.mark.parametrize("error", [None, ValueError])
def test_the_batch_is_let_go_of(error):
    counter, batch = counter_of(Trace(error)), Batch(8)
    gone = ref(batch)
    counter.start(batch)
    counter.stop()
    del batch
    gc.collect()
    assert gone() is None


def test_steps_are_told_apart_by_shape_and_facts():
    counter = counter_of(Trace())
    assert counter.key(Batch(8), ()) == counter.key(Batch(8), ())
    assert counter.key(Batch(8), ()) != counter.key(Batch(7), ())
    assert counter.key(Batch(8), ()) != counter.key(Batch(8), ("eager",))
    key = counter.key(Batch(8), ())
    assert counter.complete(key) is key


def test_it_says_what_it_was_given():
    counter = counter_of(Trace())
    assert counter.device() is DEVICE
    assert counter.parameter_counts() == (5, 4)
    assert counter.breakdown() == {}


# In a meter.


def test_each_kind_of_step_is_traced_once_and_never_again():
    trace = Trace()
    meter, clock = metered(trace)
    for _ in range(200):
        step(meter, Batch(8))
    step(meter, Batch(3))
    step(meter, Batch(8))
    summary = meter.summary()
    assert trace.seen == [8, 3]
    # 201 steps of 8 examples and one of 3, 100 FLOPs each
    assert summary.model_flops == (201 * 8 + 3) * 100
    assert (summary.steps, summary.counted_steps, summary.estimated_steps) == (202, 2, 0)
    assert (summary.parameters, summary.trainable_parameters) == (5, 4)
    assert clock.steps == [True, *[False] * 199, True, False]


def test_a_trace_that_fails_leaves_the_work_unknown():
    trace, warnings = Trace(ValueError), []
    meter, _ = metered(trace, warnings)
    for examples in (8, 8, 3):
        step(meter, Batch(examples))
    summary = meter.summary()
    assert (summary.steps, summary.model_flops, summary.flops_per_step) == (3, None, None)
    assert trace.seen == [8]
    assert len(warnings) == 1


def test_an_execution_is_the_steps_that_it_ran():
    trace = Trace()
    meter, clock = metered(trace)
    meter.start_execution()
    meter.end_execution([Batch(8), Batch(8), Batch(3)])
    assert meter.steps == 3
    # The first of a kind is where the time of its execution went, whichever step that was.
    assert clock.steps == [True, True, True]
    meter.start_execution()
    meter.end_execution([Batch(8), Batch(8)])
    assert clock.steps == [True, True, True, False, False]
    summary = meter.summary()
    assert trace.seen == [8, 3]
    # 4 steps of 8 examples and one of 3
    assert summary.model_flops == (4 * 8 + 3) * 100
    assert (summary.steps, summary.counted_steps, summary.predicted_steps) == (5, 2, 3)
    assert summary.by_op == {"dot": 3500}


def test_an_execution_shares_its_time_among_its_steps():
    class Clock(DeviceClock):
        def end_step(self, seconds, *, first):
            self.steps.append(seconds)

    meter, clock, time = Meter(ledger=None, trackers=None, verbose=0), Clock(), [100.0]
    meter._clock = TrainingClock(now=lambda: time[0])
    meter.attach(counter_of(Trace()), Place(), device_clock=clock)
    meter.start_execution()
    time[0] += 12
    meter.end_execution([Batch(8)] * 4)
    assert clock.steps == [3.0] * 4  # 12 s among 4 steps
    assert meter.summary().training_seconds == 12.0


def test_an_execution_without_steps_is_none():
    meter, clock = metered(Trace())
    meter.start_execution()
    meter.end_execution([])
    assert (meter.steps, meter.summary().model_flops, clock.steps) == (0, 0, [])


def test_a_trace_that_fails_leaves_method_2_with_the_users_peak():
    meter, time = Meter(ledger=None, trackers=None, verbose=0, peak_flops=1e12), [100.0]
    meter._clock = TrainingClock(now=lambda: time[0])
    meter.attach(counter_of(Trace(ValueError)), Place(), device_clock=DeviceClock())
    meter.start_step(Batch(8))
    time[0] += 10
    meter.end_step()
    # 10 s at 1e12 FLOP/s, of which a GPU is taken to do 0.33; a pfs-day is 8.64e19 FLOP
    assert meter.summary().pfs_days_gpu_time == pytest.approx(10 * 1e12 * 0.33 / 8.64e19)


def test_a_trace_that_fails_is_one_warning_in_all(caplog):
    """The judgement that nothing was counted, and why, has been said by then."""
    meter = Meter(ledger=None, trackers=None, verbose=0)
    counter = TracedCounter(Trace(ValueError), lambda: DEVICE, lambda: None, meter.failures.warn)
    meter.attach(counter, Place())
    with caplog.at_level(logging.WARNING, "computemeter"):
        step(meter, Batch(8))
        meter.log(1)
        meter.close("finished")
    assert [each.message for each in caplog.records if "cannot be traced" not in each.message] == []
    assert len(caplog.records) == 1


def test_an_execution_whose_trace_fails_is_booked_all_the_same():
    meter, _ = metered(Trace(ValueError))
    meter.start_execution()
    meter.end_execution([Batch(8)] * 4)
    summary = meter.summary()
    assert (summary.steps, summary.model_flops) == (4, None)


def test_windows_and_the_end_are_told_to_the_device_clock():
    meter, clock = metered(Trace())
    with meter.pause(), meter.pause():
        pass
    meter.close("finished")
    assert clock.pauses == [True, True, True, False]  # one window in another is one
    assert clock.closed == 1


# The book.


# Every octave is counted once: 1, 2-3, 4-7, ..., 256-511, and 512-1023 if it was drawn by 1000.
@pytest.mark.parametrize(("recounts", "least", "most"), [(False, 1, 1), (True, 9, 10)])
def test_a_book_that_need_not_recount_never_does(recounts, least, most):
    book = StepBook(lambda: 3e7)  # a year has passed: every count can be afforded
    book.recounts = recounts
    count, chosen = Count(100, 100), []
    for number in range(1, 1001):
        if book.wants_count("a"):
            chosen.append(number)
        book.add("a", count if number in chosen else None, 0.01)
    assert book.totals().count.model_flops == 100_000
    assert least <= len(chosen) <= most
    assert chosen[0] == 1


def test_a_first_step_is_said_to_be_one():
    book = StepBook(lambda: 3e7)
    keys = ["a", "a", "b", "a", "b"]
    assert [book.add(key, None, 0.01) for key in keys] == [True, False, True, False, False]
