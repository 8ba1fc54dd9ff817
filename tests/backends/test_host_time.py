"""Where the wall time of a real fit goes: parts that were slept away come back in the summary."""

import time

import keras
import numpy as np
import pytest

from computemeter.keras import ComputeMeter

PAUSE = 0.15


class Slow(keras.utils.PyDataset):
    """Four batches, each of which has to be waited for."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        time.sleep(PAUSE)
        return np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")


class Sleeps(keras.callbacks.Callback):
    def on_test_batch_begin(self, batch, logs=None):
        time.sleep(PAUSE)


def test_where_the_wall_time_of_a_fit_goes(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    save = model.save_weights
    vars(model)["save_weights"] = lambda *args, **kwargs: (
        time.sleep(3 * PAUSE),
        save(*args, **kwargs),
    )
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    held_out = np.ones((16, 4), "float32"), np.zeros((16, 2), "float32")
    model.fit(
        Slow(),
        validation_data=held_out,
        validation_batch_size=8,
        epochs=2,
        callbacks=[meter, checkpoint, Sleeps()],
        verbose=0,
    )
    summary = meter.summary()
    parts = summary.host_seconds
    assert sum(parts.values()) == pytest.approx(summary.wall_seconds)
    # Two epochs of two batches to validate and of one checkpoint; they may take longer than that.
    assert parts["validation"] >= 2 * 2 * PAUSE
    assert parts["checkpoint"] >= 2 * 3 * PAUSE
    # Four batches an epoch, of which Keras may have drawn some before it began.
    assert parts["stall"] >= 4 * PAUSE
    assert summary.training_seconds == pytest.approx(
        summary.wall_seconds - parts["validation"] - parts["checkpoint"], abs=2.0
    )
    assert summary.steps == 8


class Slowly(keras.layers.Layer):
    """Takes its time in evaluation and prediction."""

    def call(self, x, training=False):
        if not training:
            time.sleep(PAUSE)
        return x


class Looks(keras.callbacks.Callback):
    """Evaluates and predicts, and tells the meter nothing."""

    def on_epoch_end(self, epoch, logs=None):
        x, y = np.ones((8, 4), "float32"), np.zeros((8, 2), "float32")
        self.model.evaluate(x, y, batch_size=8, verbose=0)
        self.model.predict(x, batch_size=8, verbose=0)


def test_a_callback_that_evaluates_and_predicts_does_not_train():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Slowly()(keras.layers.Dense(2)(inputs)))
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = np.ones((16, 4), "float32"), np.zeros((16, 2), "float32")
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    began = time.perf_counter()
    model.fit(x, y, batch_size=8, epochs=3, callbacks=[meter, Looks()], verbose=0)
    spent = time.perf_counter() - began
    summary = meter.summary()
    # Each epoch evaluates one batch and predicts one.
    assert summary.host_seconds["validation"] >= 3 * 2 * PAUSE
    assert summary.training_seconds <= spent - 3 * 2 * PAUSE
    # Two batches an epoch; per example, Dense 4 -> 2 does 2 * 4*2 forward, and for its gradient.
    assert (summary.steps, summary.model_flops) == (3 * 2, 3 * 16 * 2 * 2 * 4 * 2)
