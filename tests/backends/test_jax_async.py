"""JAX runs steps behind the host: the meter lets it, and still knows how long the device worked."""

import threading

import jax
import keras
import numpy as np
import pytest
from keras import layers

from computemeter.jax_clock import JaxClock
from computemeter.keras import ComputeMeter

if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

COMPILING = "/jax/core/compile/some_part_of_it"


class Clock:
    """A clock that stands still until it is set."""

    time = 0.0

    def __call__(self):
        return self.time


class Result:
    """A step's result; waiting for it takes until a given time."""

    def __init__(self, clock, done, error=None):
        self.clock, self.done, self.error = clock, done, error

    def block_until_ready(self):
        self.clock.time = self.done
        if self.error is not None:
            raise self.error
        return self


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    watch = JaxClock(clock)
    yield watch
    watch.close()


def compiled(clock, until, seconds, event=COMPILING):
    clock.time = until
    jax.monitoring.record_event_duration_secs(event, seconds)


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "computemeter"]


def test_the_device_is_busy_from_a_dispatch_or_the_step_before_until_the_result(clock, watch):
    for at, done in [(1.0, 5.0), (2.0, 7.0), (10.0, 11.0)]:
        watch.dispatched(at, Result(clock, done))
    watch.close()
    assert watch.busy_seconds(0.0) == (5 - 1) + (7 - 5) + (11 - 10)


def test_a_step_that_fails_ends_when_that_is_known(clock, watch):
    watch.dispatched(1.0, Result(clock, 3.0, RuntimeError("of the device")))
    watch.dispatched(4.0, {"loss": Result(clock, 6.0)})
    watch.close()
    assert watch.busy_seconds(0.0) == (3 - 1) + (6 - 4)


def test_the_device_waits_while_a_step_is_compiled(clock, watch):
    compiled(clock, until=9.0, seconds=8.0)
    watch.dispatched(1.0, Result(clock, 12.0))
    watch.close()
    assert watch.busy_seconds(0.0) == 12 - 9
    assert watch.compile_seconds() == 8


def test_parts_of_compiling_within_each_other_count_once(clock, watch):
    compiled(clock, until=10.0, seconds=3.0)  # 7 to 10...
    compiled(clock, until=11.0, seconds=5.0)  # ...within 6 to 11
    compiled(clock, until=20.0, seconds=1.0)  # 19 to 20...
    compiled(clock, until=23.0, seconds=2.0)  # ...and after it 21 to 23...
    compiled(clock, until=24.0, seconds=6.0)  # ...both within 18 to 24
    compiled(clock, until=26.0, seconds=2.0)
    compiled(clock, until=30.0, seconds=4.0, event="/jax/of/another/kind")
    assert watch.compile_seconds() == 5 + 6 + 2


def test_what_the_meter_traces_and_what_is_no_training_is_left_out(clock, watch):
    with watch.own_trace():
        compiled(clock, until=10.0, seconds=3.0)
    watch.pause(True)
    compiled(clock, until=20.0, seconds=3.0)
    watch.pause(False)
    assert watch.compile_seconds() == 0
    compiled(clock, until=30.0, seconds=2.0)
    assert watch.compile_seconds() == 2


def test_nothing_watches_after_the_end(clock):
    before = len(watchers())
    watch = JaxClock(clock)
    watch.dispatched(1.0, Result(clock, 5.0))
    assert len(watchers()) == before + 1
    watch.close()
    assert len(watchers()) == before
    compiled(clock, until=10.0, seconds=3.0)
    assert watch.compile_seconds() == 0
    assert watch.busy_seconds(0.0) == 4
    watch.close()  # again


# A real fit. --------------------------------------------------------------------------------

STEPS, SIZE = 12, 512


class Slow(layers.Layer):
    """Keeps the device busy: products of large matrices, one after another."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(SIZE, SIZE))

    def call(self, x):
        for _ in range(8):
            x = keras.ops.tanh(x @ self.kernel)
        return x


@pytest.fixture(scope="module")
def slow():
    model = keras.Sequential([keras.Input((SIZE,)), Slow(), layers.Dense(1)])
    model.compile("sgd", "mse")
    fit(model, steps=1)  # compiles
    return model


def fit(model, steps=STEPS, callbacks=()):
    x, y = np.ones((SIZE * steps, SIZE), "float32"), np.ones((SIZE * steps, 1), "float32")
    model.fit(x, y, batch_size=SIZE, callbacks=list(callbacks), shuffle=False, verbose=0)


def steps_in_flight(model, callbacks=()):
    """Return how many steps wait for the device after each dispatch, on average."""
    usual, losses, waiting = model.train_function, [], []

    def train_function(state, iterator):
        logs, state = usual(state, iterator)
        losses.append(logs["loss"])
        waiting.append(sum(not loss.is_ready() for loss in losses))
        return logs, state

    model.train_function = train_function
    try:
        fit(model, callbacks=callbacks)
    finally:
        model.train_function = usual
    # The step after the last finds no more data.
    assert len(losses) == STEPS
    return sum(waiting) / STEPS


def test_as_many_steps_are_in_flight_as_without_the_meter(slow):
    plain = steps_in_flight(slow)
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    metered = steps_in_flight(slow, [meter])
    assert plain > 2, "the device was never behind, so this test says nothing"
    assert metered > plain / 2
    assert meter.summary().steps == STEPS


def test_a_hook_after_each_batch_is_what_would_keep_the_host_waiting(slow):
    """The test above would notice."""

    class Waits(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])

    assert steps_in_flight(slow, [Waits()]) <= 2


def test_the_times_of_a_fit(slow):
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    before = len(watchers())
    fit(slow, callbacks=[meter])
    summary = meter.summary()
    assert len(watchers()) == before
    assert 0 < summary.busy_seconds <= summary.training_seconds
    assert summary.compile_seconds == 0  # it was before, and the meter's own trace is none
    # 8 products of two matrices and, per product, two in its backward; the first input is data. Its
    # gradient nobody needs; then the Dense layer's 1 column.
    layer = 2 * SIZE * SIZE * SIZE
    assert summary.model_flops == STEPS * ((3 * 8 - 1) * layer + 3 * 2 * SIZE * SIZE)


def test_of_many_short_steps_a_few_are_watched_and_stand_for_all(monkeypatch):
    clock, watched = JaxClock(), []
    monkeypatch.setattr(clock, "_watch", watched.append)
    for step in range(1_000):
        clock.dispatched(step * 0.0005, None)
    # 64 one by one; then two in a row of each 4 ms, which are 7 or 8 steps.
    assert 64 + 2 * (1_000 - 64) / 8 <= len(watched) <= 66 + 2 * (1_000 - 64) / 7
    assert sum(each.stands_for for each in watched) == pytest.approx(1_000, abs=8)


def test_long_steps_are_all_watched(monkeypatch):
    clock, watched = JaxClock(), []
    monkeypatch.setattr(clock, "_watch", watched.append)
    for step in range(200):
        clock.dispatched(step * 0.01, None)
    assert [each.stands_for for each in watched] == [1] * 200
