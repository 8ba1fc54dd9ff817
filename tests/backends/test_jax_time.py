"""What JAX's device is said to have worked, where the host waits for data or runs ahead of it."""

import time

import keras
import numpy as np

from computemeter.jax_clock import JaxClock
from computemeter.keras import ComputeMeter

BATCH = 256


def net(width):
    hidden = [keras.layers.Dense(width, "relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((16,)), *hidden, keras.layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def batch(batches=1):
    return np.ones((batches * BATCH, 16), "float32"), np.zeros(batches * BATCH, "int32")


def test_a_step_begins_when_its_batch_is_there(monkeypatch):
    drawn, begun = [], []
    dispatched = JaxClock.dispatched

    def noted(clock, at, results):
        begun.append(at)
        dispatched(clock, at, results)

    def data():
        while True:
            one = batch()
            drawn.append(time.perf_counter())
            yield one

    monkeypatch.setattr(JaxClock, "dispatched", noted)
    meter = ComputeMeter(verbose=0, ledger=None, trackers=None)
    net(4).fit(data(), steps_per_epoch=3, epochs=1, verbose=0, callbacks=[meter])

    # Keras may draw ahead: then there are more, and they were there even sooner.
    assert len(begun) == 3
    assert all(at >= there for at, there in zip(begun, drawn[:3], strict=True))


def test_steps_still_in_flight_when_validation_begins_are_training():
    meter = ComputeMeter(verbose=0, ledger=None, trackers=None)
    x, y = batch(30)
    model = net(1024)
    model.fit(x, y, batch_size=BATCH, verbose=0)  # compiled: the host is then far ahead
    fit = {"batch_size": BATCH, "epochs": 3, "verbose": 0, "callbacks": [meter]}
    model.fit(x, y, validation_data=batch(), **fit)

    # Of 30 steps nearly all are in flight when the host has dispatched the last: with their time
    # booked as validation, the device would have worked several times as long as was trained.
    busy = meter._meter._device_clock.busy_seconds(0.0)
    assert busy < 1.5 * meter.summary().training_seconds
