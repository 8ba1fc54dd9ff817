"""With and without the meter: the same losses, weights and random states, bit for bit."""

import random
import shutil

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.random.seed_generator import global_seed_generator

from computemeter.keras import ComputeMeter

BACKEND = keras.backend.backend()
ROWS, BATCH, EPOCHS = 11, 4, 2  # the last batch has three rows
needs_compiler = pytest.mark.skipif(
    BACKEND == "torch" and shutil.which("g++") is None, reason="inductor compiles with g++"
)
# Inductor takes 20 s.
slow_on_torch = [pytest.mark.slow] if BACKEND == "torch" else []


def mlp():
    return (20,), [layers.Dense(16, "relu"), layers.Dropout(0.5)]


class Attends(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 4, dropout=0.2)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x, training=None):
        return x + self.attention(x, x, training=training)


def mixed():
    """Convolution, normalisation, attention and recurrence."""
    return (8, 3), [
        layers.Conv1D(8, 3, strides=2, padding="same"),
        layers.BatchNormalization(),
        Attends(),
        layers.LSTM(6),
    ]


def random_states():
    """Return the random states that a fit, or what runs in it, could move."""
    states = [
        np.array(random.getstate()[1]),
        np.random.get_state()[1],  # noqa: NPY002 - the global state is what must not change
        keras.ops.convert_to_numpy(global_seed_generator().state.value),
    ]
    if BACKEND == "torch":
        import torch

        states.append(torch.get_rng_state().numpy())
    if BACKEND == "tensorflow":
        import tensorflow as tf

        # There is no reading the state without drawing from it.
        states.append(tf.random.uniform((3,)).numpy())
    return states


def forget_compiled_models():
    """Let Dynamo compile the next model as it did the first.

    It compiles one function of Keras's for a handful of models and no more; later ones run eagerly,
    and draw other numbers for their dropout.
    """
    if BACKEND == "torch":
        import torch

        torch.compiler.reset()


def train(build, compiled, callbacks):
    """Train, and return everything that must not change."""
    forget_compiled_models()
    keras.utils.set_random_seed(3)
    shape, inner = build()
    model = keras.Sequential([keras.Input(shape), *inner, layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, **compiled)
    data = np.random.default_rng(0)
    x, y = data.random((ROWS, *shape), dtype="float32"), data.integers(0, 3, ROWS)
    how = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    if build is mlp:
        how["validation_data"] = x, y
    history = model.fit(x, y, callbacks=callbacks, **how).history
    weights = [*model.get_weights(), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]
    return history, weights, random_states()


@pytest.mark.parametrize(
    ("build", "compiled"),
    [
        (mlp, {}),
        (mixed, {}),
        (mlp, {"run_eagerly": True}),
        (mlp, {"jit_compile": False}),
        pytest.param(mlp, {"jit_compile": True}, marks=[needs_compiler, *slow_on_torch]),
        pytest.param(
            mlp,
            {"steps_per_execution": 2},
            marks=pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs one step at a time"),
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_the_meter_changes_nothing(build, compiled, tmp_path):
    meter = ComputeMeter(ledger=tmp_path, trackers=None, verbose=0, log_freq="batch")
    plain = train(build, compiled, [])
    metered = train(build, compiled, [meter])
    summary = meter.summary()
    assert summary.warnings == ()
    assert summary.model_flops > 0
    assert (summary.steps, summary.samples) == (EPOCHS * 3, EPOCHS * ROWS)
    assert plain[0] == metered[0]
    for one, other in zip(plain[1] + plain[2], metered[1] + metered[2], strict=True):
        np.testing.assert_array_equal(one, other)
