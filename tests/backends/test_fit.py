"""A real Keras fit, metered: its hooks, one fit after another, and what else happens in it."""

import time

import keras
import numpy as np
import pytest
from keras.src.utils import is_default
from keras_fits import (
    BACKEND,
    PER_EXAMPLE,
    ROWS,
    X,
    Y,
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

from computemeter.keras import ComputeMeter

# The meter's hooks.


def test_no_batch_hook_is_overridden():
    """With one, Keras would wait for every step on JAX and PyTorch."""
    kinds = ("", "train_", "test_", "predict_")
    names = [f"on_{kind}batch_{end}" for kind in kinds for end in ("begin", "end")]
    assert all(is_default(getattr(meter(), name)) for name in names)
    callbacks = keras.callbacks.CallbackList([meter()], model=net())
    # TensorFlow waits for every step in any case.
    assert callbacks._async_train == callbacks._async_test == (BACKEND != "tensorflow")


@pytest.mark.skipif(BACKEND != "jax", reason="reading it costs a synchronisation on JAX alone")
def test_the_model_is_not_read_from_the_property_in_a_batch(shared):
    class Strict(ComputeMeter):
        reads = 0

        @property
        def model(self):
            type(self).reads += 1
            return self._model

    watching = Strict(ledger=None, trackers=None, verbose=0, log_freq="batch")
    fit(shared, callbacks=[watching], epochs=2)
    assert_counted(watching.summary(), 2 * ROWS * PER_EXAMPLE, 6)
    assert Strict.reads == 0


def test_the_model_is_left_as_it_was_found():
    model = net()
    fit(model)
    train_function, attributes = model.train_function, set(vars(model))
    watching = meter()
    seen = []
    look = at("on_train_batch_begin", 1, lambda: seen.append(model.train_function))
    fit(model, callbacks=[watching, look])
    assert seen != [train_function]
    assert_as_found(model, train_function)
    assert set(vars(model)) == attributes


# One fit after another.


def test_a_second_fit_of_the_model_goes_on():
    model, watching = net(), meter()
    fit(model, callbacks=[watching])
    fit(model, callbacks=[watching], epochs=2)
    summary = watching.summary()
    assert_counted(summary, 2 * ROWS * PER_EXAMPLE, 6, 2 * ROWS)
    assert summary.run_flops == summary.spent_flops == 3 * ROWS * PER_EXAMPLE


def test_a_fit_of_another_model_begins_anew():
    model, other, watching = net(), net(), meter()
    fit(model, callbacks=[watching])
    fit(other, callbacks=[watching])
    summary = watching.summary()
    assert_counted(summary, ROWS * PER_EXAMPLE, 3)
    assert summary.run_flops == ROWS * PER_EXAMPLE


def test_another_meter_knows_nothing_of_earlier_fits(shared):
    fit(shared, callbacks=[meter()])
    summary = metered(shared)
    assert_counted(summary, ROWS * PER_EXAMPLE, 3)
    assert summary.run_flops == ROWS * PER_EXAMPLE


@pytest.mark.parametrize(
    "compiled", [{}, pytest.param({"steps_per_execution": 3}, marks=not_on_torch)]
)
def test_two_meters_at_once(compiled):
    model = net(**compiled)
    fit(model)
    train_function, meters = model.train_function, [meter(), meter()]
    for epochs in (1, 2):
        fit(model, callbacks=meters, epochs=epochs)
        for each in meters:
            assert_counted(each.summary(), epochs * ROWS * PER_EXAMPLE, epochs * 3)
        assert_as_found(model, train_function)


def test_compiled_again_between_fits():
    model, watching = net(), meter()
    fit(model, callbacks=[watching])
    model.compile("adam", "mae")
    fit(model, callbacks=[watching])
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 3)
    assert watching.summary().run_flops == 2 * ROWS * PER_EXAMPLE


def test_saving_in_a_fit_is_no_training_and_saves_the_model(tmp_path, shared):
    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            model.save(tmp_path / "model.keras")
            model.save_weights(tmp_path / "model.weights.h5")

    model = shared
    assert_counted(metered(model, callbacks=[Save()]), ROWS * PER_EXAMPLE, 3)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for saved, weights in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, weights)
    assert_counted(metered(loaded), ROWS * PER_EXAMPLE, 3)


# What else happens in a fit.


def test_validation_is_outside(shared):
    class Slow(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            began = time.perf_counter()
            time.sleep(0.05)
            slept.append(time.perf_counter() - began)

    slept, began = [], time.perf_counter()
    how = {"validation_data": (X, Y), "validation_freq": 2, "validation_batch_size": 5}
    summary = metered(shared, epochs=4, callbacks=[Slow()], **how)
    spent = time.perf_counter() - began
    assert len(slept) == 2 * 2
    assert_counted(summary, 4 * ROWS * PER_EXAMPLE, 12, 4 * ROWS)
    assert 0 < summary.training_seconds <= spent - sum(slept)


class StopAt(keras.callbacks.Callback):
    """Stops the training after its second batch."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 1


@pytest.mark.parametrize(
    ("how", "steps", "examples"),
    [
        ({"epochs": 5, "initial_epoch": 3}, 2 * 3, 2 * 10),
        # The second epoch is no improvement by 100.
        (
            {
                "epochs": 5,
                "callbacks": [keras.callbacks.EarlyStopping(monitor="loss", min_delta=100)],
            },
            2 * 3,
            2 * 10,
        ),
        ({"epochs": 5, "callbacks": [StopAt()]}, 2, 8),
    ],
    ids=["initial_epoch", "EarlyStopping", "stop_training"],
)
def test_fewer_epochs(shared, how, steps, examples):
    assert_counted(metered(shared, **how), examples * PER_EXAMPLE, steps, examples)


def test_no_epochs_at_all(shared):
    summary = metered(shared, epochs=0)
    assert_counted(summary, 0, 0)
    assert summary.samples is None
    assert summary.verdict == "unknown"


def test_a_loop_over_train_on_batch(shared):
    watching = meter()
    fit(shared)
    train_function = shared.train_function
    for rounds in (1, 2):
        with watching.training(shared):
            for x, y in batches(4, 4, 2):
                shared.train_on_batch(x, y)
            shared.test_on_batch(X, Y)
        assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 3, ROWS)
        assert watching.summary().run_flops == rounds * ROWS * PER_EXAMPLE
        assert_as_found(shared, train_function)


def test_flops_that_the_user_adds(shared):
    watching = meter()
    with watching.training(shared):
        shared.train_on_batch(X, Y)
        watching.add_flops(1000)
        with pytest.raises(ValueError, match="flops=-1"):
            watching.add_flops(-1)
    assert watching.summary().model_flops == ROWS * PER_EXAMPLE + 1000
    fit(shared, callbacks=[watching, at("on_epoch_end", 0, lambda: watching.add_flops(1000))])
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE + 1000, 3, ROWS)


def test_flops_that_are_added_outside_of_a_fit_are_in_no_total(shared):
    def wrong():
        with pytest.raises(ValueError, match="flops=-1"):
            watching.add_flops(-1)

    said = "add_flops while no fit is metered: these FLOPs are in no total"
    watching = meter()
    wrong()
    watching.add_flops(5)
    fit(shared, callbacks=[watching])
    assert watching.summary().warnings == (said,)
    wrong()
    watching.add_flops(7)
    assert watching.summary().warnings == (f"{said} (2 times)",)
    assert watching.summary().model_flops == ROWS * PER_EXAMPLE
    assert watching.state_dict()["run_flops"] == ROWS * PER_EXAMPLE


@pytest.mark.parametrize(("first", "counted"), [("user", "end"), ("meter", "begin")])
def test_a_callback_that_adds_flops_around_the_training(shared, first, counted):
    """The meter's fit begins and ends at its place in the list; the other call is warned of."""
    adding, watching = keras.callbacks.Callback(), meter()
    adding.on_train_begin = lambda logs=None: watching.add_flops(1000)
    adding.on_train_end = lambda logs=None: watching.add_flops(70)
    fit(shared, callbacks=[adding, watching] if first == "user" else [watching, adding])
    summary = watching.summary()
    assert summary.model_flops == ROWS * PER_EXAMPLE + {"begin": 1000, "end": 70}[counted]
    assert [each for each in summary.warnings if "in no total" not in each] == []
    assert len(summary.warnings) == 1
