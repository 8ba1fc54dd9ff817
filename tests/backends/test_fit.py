"""A real Keras fit, metered: what it survives, and that it counts exactly.

Most tests train 3 -> 4 -> 2. Per example and with 2 FLOPs a multiply-add, that is
    forward             2 * (3*4 + 4*2) = 40
    weight gradients                      40
    input gradients     2 * 4*2         = 16, of the second layer alone
"""

import functools
import gc
import shutil
import time

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.utils import is_default

from computemeter.keras import ComputeMeter
from computemeter.ledger import read_ledger

BACKEND = keras.backend.backend()
PER_EXAMPLE = 40 + 40 + 16
ROWS, BATCH = 10, 4  # batches of 4, 4 and 2
X = np.random.default_rng(0).random((ROWS, 3), dtype="float32")
Y = np.eye(2, dtype="float32")[[0, 1] * 5]

not_on_jax = pytest.mark.skipif(
    BACKEND == "jax", reason="Keras loses the model's state there, with a meter and without"
)
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


@pytest.fixture(scope="module")
def shared():
    """A model for tests that do not care which: it is compiled once."""
    return net()


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


# The meter's hooks. -------------------------------------------------------------------------


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


# One fit after another. ---------------------------------------------------------------------


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


# Ways to run a step. ------------------------------------------------------------------------

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


# Forms of data. -----------------------------------------------------------------------------


def batches(*sizes):
    for size in sizes:
        yield X[:size], Y[:size]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return X[rows], Y[rows]


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)


def loader():
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return torch.utils.data.DataLoader(rows, BATCH)


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (lambda: (X, Y), {"batch_size": BATCH}),
        (lambda: (batches(4, 4, 2),), {}),
        (lambda: (dataset(),), {}),
        (lambda: (Batches(),), {}),
        (lambda: (loader(),), {}),
        (lambda: (X, Y), {"batch_size": BATCH, "sample_weight": np.ones(ROWS)}),
        (lambda: (X, Y), {"batch_size": BATCH, "class_weight": {0: 1.0, 1: 2.0}}),
    ],
    ids=["arrays", "generator", "tf.data", "PyDataset", "DataLoader", "samples", "classes"],
)
def test_forms_of_data(shared, data, how):
    watching = meter()
    shared.fit(*data(), **how, callbacks=[watching], verbose=0)
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 3, ROWS)


def test_dictionaries_in_and_out():
    """Two first layers, 3 -> 4 and 5 -> 4, of two products; then 4 -> 2 and 4 -> 1 of three."""
    ends = {"a": keras.Input((3,)), "b": keras.Input((5,))}
    inner = layers.Dense(4)(ends["a"]) + layers.Dense(4)(ends["b"])
    heads = {"p": layers.Dense(2, name="p")(inner), "q": layers.Dense(1, name="q")(inner)}
    model = keras.Model(ends, heads)
    model.compile("sgd", {"p": "mse", "q": "mae"})
    x = {"a": X, "b": np.ones((ROWS, 5), "float32")}
    y = {"p": Y, "q": np.ones((ROWS, 1), "float32")}
    per_example = 2 * 2 * (3 * 4 + 5 * 4) + 3 * 2 * (4 * 2 + 4 * 1)
    assert_counted(metered(model, x, y, epochs=2), 2 * ROWS * per_example, 6, 2 * ROWS)


def test_batches_of_different_lengths():
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(7, 3),
            layers.Dense(4),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    model.compile("sgd", "mse")
    shapes = [(4, 5), (4, 6), (2, 5), (4, 5)]
    data = ((np.ones(shape, "int32"), np.ones((shape[0], 2), "float32")) for shape in shapes)
    # Looking up is no product; its gradient needs that of the Dense layer's input.
    flops = sum(3 * 2 * rows * (length * 3 * 4 + 4 * 2) for rows, length in shapes)
    assert_counted(metered(model, data, batch_size=None), flops, 4, 14)


# What else happens in a fit. ----------------------------------------------------------------


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


def test_steps_per_epoch(shared):
    data = batches(*[4, 3] * 3)
    summary = metered(shared, data, batch_size=None, epochs=2, steps_per_epoch=2)
    assert_counted(summary, 2 * (4 + 3) * PER_EXAMPLE, 4, 14)


def test_data_that_ends_early(shared):
    """Three batches, where the user promised four."""
    data = batches(4, 4, 2)
    with pytest.warns(UserWarning, match="ran out of data"):
        summary = metered(shared, data, batch_size=None, steps_per_epoch=4)
    assert_counted(summary, ROWS * PER_EXAMPLE, 3, ROWS)


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
    assert watching.summary().model_flops == ROWS * PER_EXAMPLE + 1000
    with pytest.raises(ValueError, match="flops=-1"):
        watching.add_flops(-1)


# Exceptions. --------------------------------------------------------------------------------


class UsersError(Exception):
    """What a user's code raises, which is all the user wants to hear of."""


class Breakable(keras.Model):
    """Breaks in its step when told to; steps run eagerly, so that each of them looks."""

    breaks = None

    def train_step(self, *args):
        if self.breaks is not None:
            raise self.breaks
        return super().train_step(*args)


@pytest.fixture
def breakable():
    return net(Breakable, run_eagerly=True)


def at(hook, when, action):
    """Return a callback that does something at one batch or epoch."""
    callback = keras.callbacks.Callback()
    setattr(callback, hook, lambda step, logs=None: action() if step == when else None)
    return callback


def raise_(error):
    raise error


def break_in_step(model, error, callbacks, step=2):
    try:
        setter = at("on_train_batch_begin", step, lambda: setattr(model, "breaks", error))
        fit(model, callbacks=[*callbacks, setter])
    finally:
        model.breaks = None


def break_in_first_step(model, error, callbacks):
    break_in_step(model, error, callbacks, step=0)


def break_in_batch_end(model, error, callbacks):
    fit(model, callbacks=[*callbacks, at("on_train_batch_end", 1, lambda: raise_(error))])


def break_in_epoch_end(model, error, callbacks):
    fit(model, callbacks=[at("on_epoch_end", 0, lambda: raise_(error)), *callbacks])


def break_in_data(model, error, callbacks):
    def data():
        yield from batches(4, 4)
        raise error

    fit(model, data(), batch_size=None, callbacks=callbacks)


def caught(breaks, *args):
    try:
        breaks(*args)
    except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt is among them
        return error
    return None


def ledgers(folder):
    return [read_ledger(path) for path in sorted(folder.glob("*.jsonl"))]


IN_A_STEP = [
    (break_in_step, UsersError("of the user"), 2),
    (break_in_step, KeyboardInterrupt(), 2),
    pytest.param(break_in_first_step, UsersError("of the user"), 0, marks=not_on_jax),
]
ELSEWHERE = [
    (break_in_batch_end, UsersError("of the user"), 2),
    (break_in_epoch_end, UsersError("of the user"), 3),
    (break_in_data, UsersError("of the user"), 2),
]


def assert_recovers(model, watching, train_function, steps):
    """Fit without the meter, which is not metered, and with it, which is."""
    examples = min(steps * BATCH, ROWS)
    fit(model)
    assert_as_found(model, train_function)
    assert_counted(watching.summary(), examples * PER_EXAMPLE, steps)
    fit(model, callbacks=[watching])
    assert_as_found(model, train_function)
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 3)
    assert watching.summary().run_flops == (examples + ROWS) * PER_EXAMPLE


@pytest.mark.parametrize(("breaks", "error", "steps"), IN_A_STEP + ELSEWHERE)
def test_a_fit_that_raises(breakable, tmp_path, breaks, error, steps):
    """The failed fit's frames live on with its traceback, and its callbacks with them."""
    watching = meter(ledger=tmp_path)
    fit(breakable)
    train_function = breakable.train_function
    plain = caught(breaks, breakable, error, [])
    seen = caught(breaks, breakable, error, [watching])
    assert type(seen) is type(plain)
    if BACKEND == "tensorflow" and breaks is break_in_data:
        assert "UsersError: of the user" in str(seen)  # tf.data's own error, with the user's in it
    else:
        assert seen is error
    fit(breakable)  # by now the meter knows of the end wherever it came from
    (ledger,) = ledgers(tmp_path)
    assert ledger.status == ("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
    assert ledger.summary["steps"] == steps
    assert_recovers(breakable, watching, train_function, steps)


@pytest.mark.parametrize(("breaks", "error", "steps"), ELSEWHERE)
def test_a_fit_that_raises_outside_of_its_steps_ends_when_it_is_let_go(
    breakable, tmp_path, breaks, error, steps
):
    watching = meter(ledger=tmp_path)
    fit(breakable)
    train_function = breakable.train_function
    seen = caught(breaks, breakable, error, [watching])
    assert isinstance(seen, Exception)
    del seen
    error.__traceback__ = error.__context__ = None
    gc.collect()
    (ledger,) = ledgers(tmp_path)
    assert ledger.status == "failed"
    assert ledger.summary["steps"] == steps
    assert_as_found(breakable, train_function)
    assert_recovers(breakable, watching, train_function, steps)


def test_a_metered_fit_right_after_one_that_raised(breakable, tmp_path):
    """The stale wrapper must not count the new fit's steps a second time."""
    watching = meter(ledger=tmp_path)
    error = caught(break_in_epoch_end, breakable, UsersError(), [watching])
    for each in (watching, meter(ledger=tmp_path)):
        fit(breakable, callbacks=[each])
        assert_counted(each.summary(), ROWS * PER_EXAMPLE, 3)
    assert isinstance(error, UsersError)
    assert [ledger.status for ledger in ledgers(tmp_path)] == ["failed", "finished", "finished"]


def test_a_loop_that_raises(breakable, tmp_path):
    watching = meter(ledger=tmp_path)

    def loop():
        with watching.training(breakable):
            breakable.train_on_batch(X, Y)
            raise KeyboardInterrupt

    assert isinstance(caught(loop), KeyboardInterrupt)
    assert [ledger.status for ledger in ledgers(tmp_path)] == ["interrupted"]
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 1)
