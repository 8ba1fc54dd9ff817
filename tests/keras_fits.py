"""A small Keras fit, metered, and what must be true of it.

Most tests train 3 -> 4 -> 2. Per example and with 2 FLOPs a multiply-add, that is
    forward             2 * (3*4 + 4*2) = 40
    weight gradients                      40
    input gradients     2 * 4*2         = 16, of the second layer alone
"""

import keras
import numpy as np
import pytest
from keras import layers

from computemeter.keras import ComputeMeter

BACKEND = keras.backend.backend()
PER_EXAMPLE = 40 + 40 + 16
ROWS, BATCH = 10, 4  # batches of 4, 4 and 2
X = np.random.default_rng(0).random((ROWS, 3), dtype="float32")
Y = np.eye(2, dtype="float32")[[0, 1] * 5]
not_on_torch = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs one step at a time")


def net(base=keras.Sequential, **compiled):
    stack = [keras.Input((3,)), layers.Dense(4, "relu"), layers.Dense(2)]
    model = base(stack) if base is keras.Sequential else base(stack[0], _apply(stack))
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    return model


def _apply(stack):
    tensor, *rest = stack
    for layer in rest:
        tensor = layer(tensor)
    return tensor


def meter(**options):
    return ComputeMeter(**{"ledger": None, "trackers": None, "verbose": 0, **options})


def fit(model, *data, **how):
    data = data or (X, Y)
    how = {"batch_size": BATCH, "verbose": 0, **how}
    return model.fit(*data, **how)


def metered(model, *data, callbacks=(), **how):
    watching = meter()
    fit(model, *data, **how, callbacks=[*callbacks, watching])
    return watching.summary()


def assert_counted(summary, flops, steps, samples=None):
    assert summary.warnings == ()
    assert summary.uncounted_ops == {}
    assert (summary.model_flops, summary.hardware_flops) == (flops, flops)
    assert (summary.steps, summary.estimated_steps) == (steps, 0)
    assert samples is None or summary.samples == samples


def assert_as_found(model, train_function):
    assert model.train_function is train_function
    wrapped = {"save", "save_weights", "evaluate", "predict", "make_train_function"}
    assert not wrapped & vars(model).keys()


def batches(*sizes):
    for size in sizes:
        yield X[:size], Y[:size]


def at(hook, when, action):
    """Return a callback that does something at one batch or epoch."""
    callback = keras.callbacks.Callback()
    setattr(callback, hook, lambda step, logs=None: action() if step == when else None)
    return callback
