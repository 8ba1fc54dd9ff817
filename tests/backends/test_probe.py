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


class Watched(keras.optimizers.Adam):
    """Tells of each step how many of the numbers kept for an embedding are zero before it."""

    zeros: list = []  # noqa: RUF012 - Keras makes the optimizer again for the copy

    def apply(self, grads, trainable_variables=None):
        kept = [each for each in self.variables if tuple(each.shape) == (10, 4)]
        Watched.zeros.append(sum(int(keras.ops.sum(each == 0)) for each in kept))
        return super().apply(grads, trainable_variables)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only PyTorch is slow with zeros")
def test_what_a_new_optimizer_keeps_has_no_zeros_as_after_a_long_run():
    Watched.zeros.clear()
    layers = [keras.layers.Embedding(10, 4), keras.layers.GlobalAveragePooling1D()]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile(Watched(), "mse")
    batch = np.zeros((3, 2), dtype="int32"), np.zeros((3, 1))
    model(batch[0])
    probe(model, batch, batch_sizes=[3], steps=2, warmup=1, in_process=True)
    # Two moments of 10 rows of 4 are zero before the first step, then none.
    assert Watched.zeros[0] == 80
    assert set(Watched.zeros[1:]) == {0}


def own_metric(target, logits):
    return keras.ops.mean(logits) + 0 * keras.ops.mean(target)


class OwnMetric(keras.metrics.SparseCategoricalCrossentropy):
    """A class that Keras does not know."""


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Another."""

    def __call__(self, step):
        return 0.1

    def get_config(self):
        return {}


def twice(x):
    return 2 * x


unnamed_loss = lambda target, logits: own_loss(target, logits)  # noqa: E731, PLW0108
unnamed_metric = lambda target, logits: own_metric(target, logits)  # noqa: E731, PLW0108


def outfits():
    yield {"loss": own_loss, "metrics": [own_metric, OwnMetric(from_logits=True)]}
    yield {"loss": [own_loss], "metrics": [unnamed_metric]}
    yield {"loss": unnamed_loss}
    yield {"loss": own_loss, "optimizer": keras.optimizers.SGD(OwnSchedule())}


def dressed(outfit):
    model = model_of(keras.layers.Activation(twice), loss=None)
    model.compile(**outfit)
    return model


@pytest.mark.parametrize("which", range(4))
def test_a_model_may_be_compiled_with_parts_of_the_user_s_own(which):
    model = dressed(list(outfits())[which])
    result = probe(model, data(), batch_sizes=[BATCH], in_process=True)
    assert result.flops_per_example == FLOPS_PER_EXAMPLE


def test_in_another_process_too_and_on_the_same_backend(monkeypatch):
    pytest.importorskip("cloudpickle")
    backend = keras.backend.backend()
    monkeypatch.delenv("KERAS_BACKEND", raising=False)

    def loss(target, logits):
        assert keras.backend.backend() == backend
        return own_loss(target, logits)

    model = dressed({"loss": loss, "metrics": [unnamed_metric]})
    assert len(probe(model, data(), batch_sizes=[BATCH], in_process=False).measured) == 1


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
