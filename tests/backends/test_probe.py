"""A probe of Keras models, on every backend."""

import random

import keras
import numpy as np
import pytest
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS

from computemeter.planning.probe import ProbeError, probe


class Doubled(keras.layers.Layer):
    """A layer of the user's own, that no other process knows."""

    def call(self, x):
        return 2 * x


def own_loss(target, logits):
    return keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)


def model_of(*more, loss=own_loss, optimizer="adam"):
    model = keras.Sequential(
        [
            keras.Input((INPUTS,)),
            keras.layers.Dense(HIDDEN, "relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(CLASSES),
            *more,
        ]
    )
    if loss:
        model.compile(optimizer, loss)
    return model


def data():
    chance = np.random.default_rng(1)
    x = chance.normal(size=(BATCH, INPUTS)).astype("float32")
    return x, chance.integers(CLASSES, size=BATCH)


def state(model):
    return [
        np.asarray(keras.ops.convert_to_numpy(each))
        for each in [*model.variables, *model.optimizer.variables]
    ]


def as_usual(result, model):
    assert [step.batch_size for step in result.measured] == [BATCH, 2 * BATCH]
    assert all(step.seconds > 0 for step in result.measured)
    assert result.flops_per_example == FLOPS_PER_EXAMPLE
    assert result.device_name
    # The model goes on as if nothing had been: it trains.
    assert np.isfinite(model.train_on_batch(*data()))


@pytest.mark.parametrize("trained", [True, False])
def test_steps_are_measured_on_a_copy(trained):
    model = model_of()
    if trained:
        model.train_on_batch(*data())
    before, generators = state(model), (random.getstate(), str(np.random.get_state()))  # noqa: NPY002
    result = probe(model, data(), batch_sizes=[BATCH, 2 * BATCH], in_process=True)
    after = state(model)
    assert len(before) == len(after)
    assert all(np.array_equal(*both) for both in zip(before, after, strict=True))
    assert (random.getstate(), str(np.random.get_state())) == generators  # noqa: NPY002
    as_usual(result, model)
    assert result.notes == ()


def test_in_a_process_of_its_own_with_parts_that_only_this_one_knows():
    pytest.importorskip("cloudpickle")
    model = model_of(Doubled())
    result = probe(model, data(), batch_sizes=[BATCH, 2 * BATCH])
    as_usual(result, model)


def test_bad_input_is_said_in_one_line():
    with pytest.raises(ProbeError, match=r"not compiled: call model\.compile"):
        probe(model_of(loss=None), data())
    with pytest.raises(ProbeError, match="brings its own loss and optimizer"):
        probe(model_of(), data(), loss=own_loss)
    with pytest.raises(ValueError, match="device='cpu': a Keras model is probed where"):
        probe(model_of(), data(), device="cpu")
