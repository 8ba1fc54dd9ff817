"""The ways in which Keras runs a step: each is counted exactly."""

import functools
import shutil

import keras
import pytest
from keras_fits import (
    BACKEND,
    PER_EXAMPLE,
    ROWS,
    assert_as_found,
    assert_counted,
    at,
    batches,
    fit,
    meter,
    metered,
    net,
    not_on_torch,
)

needs_compiler = pytest.mark.skipif(
    BACKEND == "torch" and shutil.which("g++") is None, reason="inductor compiles with g++"
)


@pytest.mark.parametrize(
    "compiled",
    [
        {"run_eagerly": True},
        {"jit_compile": False},
        pytest.param(
            {"jit_compile": True},
            # Inductor takes 20 s.
            marks=[needs_compiler, *([pytest.mark.slow] if BACKEND == "torch" else [])],
        ),
    ],
    ids=str,
)
def test_modes_of_execution(compiled):
    model, watching = net(**compiled), meter()
    for fits in (1, 2):
        fit(model, callbacks=[watching], epochs=2)
        assert_counted(watching.summary(), 2 * ROWS * PER_EXAMPLE, 6, 2 * ROWS)
        assert watching.summary().run_flops == fits * 2 * ROWS * PER_EXAMPLE


def test_accumulated_gradients():
    model = net(optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2))
    assert_counted(metered(model, epochs=2), 2 * ROWS * PER_EXAMPLE, 6)


# Of the frozen layer no weight gradient; the first layer's input gradient nobody needs, and with it
# frozen, not the second's either: 40 + 16. The second frozen: 40 + 24 + 16.
@pytest.mark.parametrize(("frozen", "per_example"), [(0, 40 + 16), (1, 40 + 24 + 16)])
def test_a_frozen_layer(frozen, per_example):
    model = net()
    model.layers[frozen].trainable = False
    model.compile("sgd", "mse")
    summary = metered(model)
    assert_counted(summary, ROWS * per_example, 3)
    # Weights and biases: 3*4 + 4 and 4*2 + 2.
    assert (summary.parameters, summary.trainable_parameters) == (26, (10, 16)[frozen])


@pytest.mark.parametrize(
    "compiled", [{}, pytest.param({"steps_per_execution": 3}, marks=not_on_torch)]
)
@pytest.mark.parametrize("meters", [1, 2])
def test_layers_frozen_in_the_middle_of_a_fit(compiled, meters):
    """The train function is made anew, and its steps are another amount of work from then on."""
    model, watching = net(**compiled), [meter() for _ in range(meters)]
    # Keras on JAX cannot freeze in a fit, with a meter or without; it makes the function anew.
    frozen, made = BACKEND != "jax", []
    per_example = 40 + 16 if frozen else PER_EXAMPLE

    def freeze():
        model.layers[0].trainable = not frozen
        model.make_train_function(force=True)
        made.append(model.train_function)

    fit(model, callbacks=[*watching, at("on_epoch_end", 0, freeze)], epochs=3)
    for each in watching:
        flops = ROWS * PER_EXAMPLE + 2 * ROWS * per_example
        assert_counted(each.summary(), flops, 9, 3 * ROWS)
    assert_as_found(model, made[0].__wrapped__ if meters == 1 else made[0].__wrapped__.__wrapped__)
    fit(model, callbacks=[watching[0]])
    assert_counted(watching[0].summary(), ROWS * per_example, 3)


def test_a_train_function_that_is_wrapped_by_the_user_is_not_metered_twice():
    """Each `train_on_batch` asks for a train function, and keeps the one there is."""
    model, watching = net(), meter()
    fit(model)
    with watching.training(model):
        inner = model.train_function
        model.train_function = functools.partial(inner)
        for x, y in batches(4, 4, 2):
            model.train_on_batch(x, y)
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 3)


def test_a_train_function_made_anew_with_one_of_two_meters():
    """The other's fit has ended: it must not stay on the model."""
    model, meters, made = net(), [meter(), meter()], []

    def end_and_make():
        meters[0].on_train_end()
        model.make_train_function(force=True)
        made.append(model.train_function)

    fit(model, callbacks=[*meters, at("on_epoch_end", 0, end_and_make)], epochs=2)
    assert_counted(meters[0].summary(), ROWS * PER_EXAMPLE, 3)
    assert_counted(meters[1].summary(), 2 * ROWS * PER_EXAMPLE, 6)
    assert_as_found(model, made[0].__wrapped__)


class OnJax:
    def loss_and_updates(self, trainable, others, x, y):
        out, others = self.stateless_call(trainable, others, x, training=True)
        return keras.ops.mean((out - y) ** 4), others

    def train_step(self, state, data):
        import jax

        trainable, others, optimizer, metrics = state
        gradients = jax.value_and_grad(self.loss_and_updates, has_aux=True)
        (loss, others), grads = gradients(trainable, others, *data[:2])
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, grads, trainable)
        return {"own": loss}, (trainable, others, optimizer, metrics)


class OnTensorflow:
    def train_step(self, data):
        import tensorflow as tf

        x, y = data[:2]
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 4)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"own": loss}


class OnTorch:
    def train_step(self, data):
        import torch

        x, y = data[:2]
        self.zero_grad()
        loss = keras.ops.mean((self(x, training=True) - y) ** 4)
        loss.backward()
        weights = self.trainable_weights
        with torch.no_grad():
            self.optimizer.apply([weight.value.grad for weight in weights], weights)
        return {"own": loss}


class Own({"jax": OnJax, "tensorflow": OnTensorflow, "torch": OnTorch}[BACKEND], keras.Model):
    """A model with a step and a loss of its own."""


def test_a_train_step_of_the_users():
    model, watching = net(Own), meter()
    history = fit(model, callbacks=[watching], epochs=2).history
    assert list(history) == ["own"]
    assert_counted(watching.summary(), 2 * ROWS * PER_EXAMPLE, 6)


@not_on_torch
def test_several_steps_to_an_execution():
    """Ten rows in batches of 3: executions of 3 steps and of 1, the last batch has one row."""
    model, watching = net(steps_per_execution=3), meter()
    for fits in (1, 2):
        fit(model, callbacks=[watching], epochs=3, batch_size=3)
        assert_counted(watching.summary(), 3 * ROWS * PER_EXAMPLE, 3 * 4, 3 * ROWS)
        assert watching.summary().run_flops == fits * 3 * ROWS * PER_EXAMPLE
