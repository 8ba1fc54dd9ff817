"""Bad options fail at once; after that, nothing that goes wrong in the meter reaches the fit."""

import inspect
import logging
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import pytest
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS

from computemeter.keras import ComputeMeter
from computemeter.meter import Meter

BACKEND = keras.backend.backend()
FLOPS = BATCH * FLOPS_PER_EXAMPLE
"""Of one step; an epoch has 4."""


def net(kind=keras.Model, library=keras, **compiled):
    library.utils.set_random_seed(0)
    layers = library.layers
    inputs = layers.Input((INPUTS,))
    hidden = layers.Dense(HIDDEN, "relu")(inputs)
    model = kind(inputs, layers.Dense(CLASSES)(hidden))
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, **compiled)
    return model


def data():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(4 * BATCH, INPUTS)).astype("float32")
    return inputs, random.integers(0, CLASSES, 4 * BATCH)


def fit(model, callbacks, epochs=2):
    """Fit and return the losses and the weights."""
    history = model.fit(
        *data(), batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )
    return list(history.history["loss"]), [array.tolist() for array in model.get_weights()]


def quiet_meter(**options):
    return ComputeMeter(**{"ledger": None, "trackers": None, "verbose": 0, **options})


@pytest.fixture
def warnings(caplog):
    """Return what the meter has warned of so far."""
    caplog.set_level(logging.WARNING, "computemeter")
    return lambda: [each.message for each in caplog.records if each.name == "computemeter"]


# Options.


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "step", None, float("nan"), float("inf"), []])
def test_a_bad_logging_frequency_is_refused_with_what_is_accepted(value):
    with pytest.raises(ValueError, match="log_freq=") as caught:
        ComputeMeter(log_freq=value)
    assert str(caught.value) == (
        f'log_freq={value!r}: accepted are "epoch", "batch" and a whole number of batches from 1 on'
    )


@pytest.mark.parametrize("value", ["epoch", "batch", 1, 7, 2.0, np.int64(3)])
def test_a_good_logging_frequency_is_taken(value):
    assert ComputeMeter(log_freq=value).summary().steps == 0


@pytest.mark.parametrize(
    ("name", "meant"),
    [("log_frequency", "log_freq"), ("log_history", "log_to_history"), ("peak_flop", "peak_flops")],
)
def test_an_unknown_option_is_refused_with_a_hint(name, meant):
    with pytest.raises(TypeError, match=f"unknown option '{name}'.*did you mean '{meant}'"):
        ComputeMeter(**{name: 1})


def test_a_bad_value_of_the_cores_options_is_refused_too():
    with pytest.raises(ValueError, match="peak_flops=-1: accepted is"):
        ComputeMeter(peak_flops=-1)
    with pytest.raises(ValueError, match="log_to_history='yes': accepted are True and False"):
        ComputeMeter(log_to_history="yes")


def test_options_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        ComputeMeter("epoch")


# Models.


class Unreadable(keras.Model):
    """Reads the loss in each step, which a program that is only traced cannot."""

    def train_step(self, *args):
        result = super().train_step(*args)
        logs = result[0] if isinstance(result, tuple) else result  # on JAX with the state
        loss = logs["loss"]
        self.seen.append(float(loss.numpy() if BACKEND == "tensorflow" else loss))
        return result


@pytest.mark.skipif(BACKEND == "torch", reason="steps on PyTorch are not traced")
@pytest.mark.filterwarnings("ignore")
def test_a_step_that_cannot_be_traced_is_unknown_and_goes_on(warnings):
    def trained(callbacks):
        model = net(Unreadable, run_eagerly=True)
        vars(model)["seen"] = []
        return fit(model, callbacks), vars(model)["seen"]

    meter = quiet_meter(peak_flops=1e12)
    metered = trained([meter])
    assert metered == trained([])
    assert len(metered[1]) >= 8
    (warning,) = [each for each in warnings() if "cannot be traced" in each]
    assert warning == warnings()[0]
    assert "Error: " in warning
    summary = meter.summary()
    assert summary.steps == 8
    assert (summary.model_flops, summary.pfs_days, summary.ratio) == (None, None, None)
    assert summary.verdict == "unknown"
    # The time that method 2 goes by is known all the same.
    assert summary.device_seconds == summary.training_seconds > 0
    assert [each for each in summary.warnings if "cannot be traced" in each]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras 2 knows TensorFlow only")
def test_a_model_of_keras_2_trains_on_unmetered(warnings):
    tf_keras = pytest.importorskip("tf_keras")
    meter = quiet_meter()

    def trained(callbacks):
        return fit(net(tf_keras.Model, tf_keras), callbacks)

    assert trained([meter]) == trained([])
    (warning,) = warnings()
    assert "this model is tf_keras's and not Keras 3's" in warning
    assert "unmetered" in warning
    summary = meter.summary()
    assert summary.steps == 0
    assert summary.model_flops is None  # not a zero
    assert summary.warnings == (warning.split(": ", 1)[1].removesuffix(" (training goes on)"),)


def test_a_model_that_is_not_compiled_gets_keras_own_message(warnings):
    model = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(CLASSES)])
    messages = []
    for callbacks in ([], [quiet_meter()]):
        with pytest.raises(ValueError, match="compile") as caught:
            fit(model, callbacks)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert warnings() == []


def test_a_loop_over_a_model_that_is_not_compiled_gets_keras_own_message(warnings):
    model = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(CLASSES)])
    inputs, labels = data()
    with pytest.raises(ValueError, match="compile"), quiet_meter().training(model):
        model.train_on_batch(inputs[:BATCH], labels[:BATCH])


def test_a_model_without_an_optimizer_fails_as_it_does_without_the_meter():
    messages = []
    for callbacks in ([], [quiet_meter()]):
        model = net()
        model.optimizer = None
        with pytest.raises(Exception, match="NoneType") as caught:
            fit(model, callbacks)
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]


def test_a_model_that_trains_without_an_optimizer_is_metered(warnings):
    """Its own `train_step` may have no use for one; there is nothing to count in it, either."""

    class Still(keras.Model):
        def train_step(self, *args):
            if BACKEND == "jax":
                state, _data = args
                return {"loss": keras.ops.ones(())}, state
            return {"loss": keras.ops.ones(())}

    model, meter = net(Still), quiet_meter()
    model.optimizer = None
    plain = net(Still)
    plain.optimizer = None
    try:
        expected = fit(plain, [])
    except AttributeError:
        pytest.skip("Keras itself cannot train it")
    assert fit(model, [meter]) == expected
    assert meter.summary().steps == 8


# Callbacks.


def test_a_list_of_callbacks_made_by_the_user_is_as_good():
    model, meter = net(), quiet_meter()
    callbacks = keras.callbacks.CallbackList([meter], add_history=True, model=model, epochs=2)
    metered = fit(model, callbacks)
    assert meter.summary().model_flops == 8 * FLOPS
    # The same list serves another fit.
    fit(model, callbacks, epochs=1)
    assert meter.summary().model_flops == 4 * FLOPS
    assert meter.summary().run_flops == 12 * FLOPS
    assert metered == fit(net(), [])
    assert meter.summary().warnings == ()


def test_two_meters_in_one_fit_count_the_same():
    meters = [quiet_meter(), quiet_meter(log_freq="batch")]
    metered = fit(net(), meters)
    assert [meter.summary().model_flops for meter in meters] == [8 * FLOPS, 8 * FLOPS]
    assert metered == fit(net(), [])


def test_a_callback_that_raises_is_heard_and_ends_the_segment():
    class Fails(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise LookupError("the user's own")

    model, meter = net(), quiet_meter()
    with pytest.raises(LookupError, match="the user's own"):
        fit(model, [meter, Fails()])
    # Fitted again without the meter, the model tells it nothing any more.
    fit(model, [])
    assert meter.summary().steps == 4
    assert vars(model).get("save_weights") is None


# The meter's own failures.

CALLED = [
    "__init__",
    "_exchange",
    "_open",
    "_read",
    "_record",
    "attach",
    "break_off",
    "close",
    "end_execution",
    "end_step",
    "end_waiting",
    "leave_out",
    "log",
    "print_summary",
    "settle",
    "start_execution",
    "start_step",
    "start_waiting",
    "state_dict",
    "summary",
    "take_back",
]


def metered_fit(callbacks, folder, **compiled):
    """Train, validate and save with everything that makes the callback call its meter."""
    model, inputs_and_labels = net(**compiled), data()
    saving = keras.callbacks.ModelCheckpoint(folder / "model.weights.h5", save_weights_only=True)
    history = model.fit(
        *inputs_and_labels,
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=inputs_and_labels,
        callbacks=[*callbacks, saving],
    )
    return history.history, [array.tolist() for array in model.get_weights()]


@cache
def plain_fit(steps_per_execution):
    with TemporaryDirectory() as folder:
        return metered_fit([], Path(folder), steps_per_execution=steps_per_execution)


# On TensorFlow several steps in one execution are metered another way, by these.
IN_EXECUTIONS = ["end_execution", "start_execution"] if BACKEND == "tensorflow" else []


@pytest.mark.parametrize(
    ("name", "executions"), [(name, 1) for name in CALLED] + [(name, 2) for name in IN_EXECUTIONS]
)
def test_a_meter_that_raises_harms_nothing_and_says_so_once(
    name, executions, monkeypatch, tmp_path, warnings
):
    expected = plain_fit(executions)
    calls, meter = [], quiet_meter(log_freq=3, log_to_history=True, ledger=tmp_path)

    def broken(*_args, **_kwargs):
        calls.append(name)
        raise RuntimeError(f"{name} is broken")

    monkeypatch.setattr(Meter, name, broken)
    history, weights = metered_fit([meter], tmp_path, steps_per_execution=executions)
    ours = {key for key in history if key.startswith("compute/")}
    assert {key: history[key] for key in history if key not in ours} == expected[0]
    assert weights == expected[1]
    assert calls or name not in IN_EXECUTIONS or executions == 1
    said = [each for each in warnings() if f"{name} is broken" in each]
    assert len(set(said)) == len(said)
    assert bool(said) == bool(calls)


@pytest.mark.parametrize(
    "name", ["complete", "device", "key", "off", "parameter_counts", "pause", "start", "stop"]
)
def test_a_counter_that_raises_harms_nothing(name, monkeypatch, tmp_path):
    from computemeter_keras._backends import backend_of

    calls, meter = [], quiet_meter(log_freq=3)

    def broken(*_args, **_kwargs):
        calls.append(name)
        raise RuntimeError(f"{name} is broken")

    counter = type(backend_of(net(), print).counter)
    if hasattr(counter, name):
        monkeypatch.setattr(counter, name, broken)
    else:  # set by the class in each object
        made = counter.__init__
        monkeypatch.setattr(
            counter,
            "__init__",
            lambda self, *args: (made(self, *args), setattr(self, name, broken))[0],
        )
    assert metered_fit([meter], tmp_path) == plain_fit(1)
    assert any(f"{name} is broken" in each for each in meter.failures.messages) == bool(calls)


def test_every_method_of_the_meter_that_the_callback_uses_is_broken_above():
    from computemeter_keras import _callback, _fit

    source = inspect.getsource(_callback) + inspect.getsource(_fit)
    used = set(re.findall(r"_meter\.(\w+)", source)) & set(dir(Meter))
    # The user calls `add_flops` and `breakdown` and is told; `steps` is a number; `ensure_off`
    # catches by itself; `drop_execution` is called where something else has failed already.
    told = {"add_flops", "breakdown"}
    assert used - told - {"steps", "ensure_off", "drop_execution"} <= set(CALLED)


# Without Keras.

_BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from computemeter.keras import ComputeMeter
"""


def import_without(module):
    return subprocess.run(
        [sys.executable, "-c", _BLOCKED, module],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=60,
    )


def test_a_missing_keras_is_said_with_the_cure():
    result = import_without("keras")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: ComputeMeter needs Keras 3 and one of its backends: "
        "pip install 'computemeter[keras]'"
    )
    assert "During handling" not in result.stderr


def test_a_missing_backend_is_one_line_with_the_command():
    result = import_without(BACKEND)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        f"ModuleNotFoundError: Keras is set to run on {BACKEND}, which is not installed: "
        f"pip install {BACKEND}, or set KERAS_BACKEND"
    )
