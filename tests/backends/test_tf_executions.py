"""TensorFlow: the meter traces nothing of the user's again, and sees into several steps at once."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.distribute.values import PerReplicaSpec

from computemeter.keras import ComputeMeter
from computemeter_keras._executions import Executions, Sizes
from computemeter_keras._tensorflow import _sized

if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

# 3 -> 4 -> 2, per example: forward 2 * (3*4 + 4*2) = 40, weight gradients 40, input gradients of
# the second layer 2 * 4*2 = 16.
PER_EXAMPLE = 40 + 40 + 16
ROWS, BATCH = 10, 4
X, Y = np.ones((ROWS, 3), "float32"), np.ones((ROWS, 2), "float32")


class Traced(keras.Model):
    """Notes the static shape of the data each time its step is traced."""

    shapes = ()

    def train_step(self, data):
        self.shapes = (*self.shapes, tuple(data[0].shape))
        return super().train_step(data)


def net(base=keras.Model, **compiled):
    inputs = keras.Input((3,))
    outputs = layers.Dense(2)(layers.Dense(4, "relu")(inputs))
    model = base(inputs, outputs)
    model.compile("sgd", "mse", **compiled)
    return model


def meter():
    return ComputeMeter(ledger=None, trackers=None, verbose=0)


def fit(model, *data, **how):
    model.fit(*(data or (X, Y)), **{"batch_size": BATCH, "verbose": 0, **how})


def assert_counted(watching, examples, steps):
    summary = watching.summary()
    assert summary.warnings == ()
    assert (summary.model_flops, summary.steps) == (examples * PER_EXAMPLE, steps)
    assert (summary.samples, summary.estimated_steps) == (examples, 0)


@pytest.mark.parametrize("meters", [1, 2])
def test_the_step_is_traced_as_without_the_meter(meters):
    """Keras traces for batches of any size; the meter's own traces know the size."""
    plain, watched, watching = net(Traced), net(Traced), [meter() for _ in range(meters)]
    fit(plain, epochs=2)
    fit(watched, epochs=2, callbacks=watching)
    assert set(plain.shapes) == {(None, 3)}
    # Batches of 4 and of 2 are counted, once by each meter.
    own = [shape for shape in watched.shapes if shape[0] is not None]
    assert sorted(own) == sorted([(4, 3), (2, 3)] * meters)
    assert len(watched.shapes) - len(own) == len(plain.shapes)

    before = watched.shapes
    fit(watched)
    fit(watched, callbacks=watching[:1])
    # A fit of its own has a meter of its own, which counts anew; nothing else is traced.
    assert watched.shapes[len(before) :] == ((4, 3), (2, 3))


def test_several_steps_are_traced_once_more_for_the_model_and_not_for_each_fit():
    model, watching = net(Traced, steps_per_execution=3), meter()
    for _ in range(3):
        fit(model, callbacks=[watching])
    unknown = [shape for shape in model.shapes if shape[0] is None]
    plain = net(Traced, steps_per_execution=3)
    fit(plain)
    assert len(unknown) == len(plain.shapes)


@pytest.mark.parametrize(
    ("rows", "batch", "steps"),
    [
        (10, 4, 3),  # one execution, with a batch that is not full
        (13, 3, 5),  # a full one, and one of 3 and 1
        (9, 3, 3),
        (2, 4, 1),
    ],
)
def test_executions_of_three_steps(rows, batch, steps):
    model, watching = net(steps_per_execution=3), meter()
    data = np.ones((rows, 3), "float32"), np.ones((rows, 2), "float32")
    for epochs in (2, 1):
        fit(model, *data, batch_size=batch, epochs=epochs, callbacks=[watching])
        assert_counted(watching, epochs * rows, epochs * steps)


def test_steps_run_eagerly():
    model, watching = net(steps_per_execution=3, run_eagerly=True), meter()
    fit(model, callbacks=[watching], epochs=2)
    assert_counted(watching, 2 * ROWS, 6)


def test_a_loop_over_train_on_batch():
    """It hands on a generator, and no iterator of TensorFlow's."""
    model, watching = net(steps_per_execution=3), meter()
    model.build((None, 3))
    with watching.training(model):
        for rows in (4, 4, 2):
            model.train_on_batch(X[:rows], Y[:rows])
    assert_counted(watching, 10, 3)


def test_an_execution_that_breaks_is_no_part_of_the_next_fit():
    """How many of its steps ran is not known."""
    model, watching = net(steps_per_execution=3), meter()
    fit(model, callbacks=[watching])

    def data():
        for rows in (4, 4, 2, 4):  # the fourth begins the second execution
            yield X[:rows], Y[:rows]
        raise OSError

    with pytest.raises(tf.errors.OpError):
        fit(model, data(), batch_size=None, callbacks=[watching])
    assert_counted(watching, 10, 3)
    train_function = model.train_function
    fit(model, callbacks=[watching], epochs=2)
    assert_counted(watching, 2 * ROWS, 6)
    assert model.train_function is train_function


def test_a_train_function_of_somebody_elses_is_not_replaced():
    model, watching, calls = net(steps_per_execution=3), meter(), []
    model.make_train_function()
    usual = model.train_function

    @functools.wraps(usual)
    def own(iterator):
        calls.append(iterator)
        return usual(iterator)

    model.train_function = own
    fit(model, callbacks=[watching])
    assert len(calls) == 1
    assert model.train_function is own
    (warning,) = watching.summary().warnings
    assert "this model has another" in warning
    assert watching.summary().model_flops is None


def test_lengths_that_are_not_known_are_said_to_be_uncounted():
    """Of a step within an execution the meter knows how many examples it had, and no more."""
    tokens = keras.Input((None,), dtype="int32")
    inner = layers.Dense(4)(layers.Embedding(7, 3)(tokens))
    model = keras.Model(tokens, layers.Dense(2)(layers.GlobalAveragePooling1D()(inner)))
    model.compile("sgd", "mse", steps_per_execution=2)
    shapes, watching = [(4, 5), (4, 6), (2, 5)], meter()
    data = ((np.ones(shape, "int32"), np.ones((shape[0], 2), "float32")) for shape in shapes)
    fit(model, data, batch_size=None, callbacks=[watching])
    summary = watching.summary()
    assert (summary.steps, summary.samples) == (3, 10)
    # The first Dense layer's three products in each of the steps; the second's are counted.
    assert summary.uncounted_ops == {"tf::MatMul": 3 * 3}
    assert summary.model_flops == 10 * 3 * 2 * 4 * 2


class Kinds(keras.Model):
    """Takes data with a number before the first tensor that has examples."""

    def train_step(self, data):
        return super().train_step(data["z"])


def test_data_that_begins_with_something_else():
    model, watching = net(Kinds, steps_per_execution=2), meter()
    rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    data = rows.map(lambda x, y: {"a": tf.constant(1), "z": (x, y)})
    fit(model, data, batch_size=None, callbacks=[watching])
    assert_counted(watching, ROWS, 3)


class Mixed(keras.Model):
    """Multiplies each example by a matrix that comes with the batch."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)

    def call(self, inputs):
        return self.dense(tf.matmul(inputs["x"], inputs["a"]))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_first_dimension_that_is_not_the_batch(steps):
    """Rows of 5 times a matrix of 5 rows and 7 columns, and on to 4 numbers."""
    rows = tf.data.Dataset.from_tensor_slices(np.ones((11, 5), "float32")).batch(4)
    data = rows.map(lambda x: ({"x": x, "a": tf.ones((5, 7))}, tf.ones((tf.shape(x)[0], 4))))
    model, watching = Mixed(), meter()
    model.compile("sgd", "mse", steps_per_execution=steps)
    fit(model, data, batch_size=None, callbacks=[watching])
    summary = watching.summary()
    assert (summary.warnings, summary.uncounted_ops) == ((), {})
    # The product of the data has no gradient; the Dense layer's has that of its weights.
    assert summary.model_flops == 11 * (2 * 5 * 7 + 2 * 2 * 7 * 4)
    assert (summary.steps, summary.samples) == (3, 11)


def test_only_unknown_first_dimensions_are_filled_in():
    unknown, matrix = tf.TensorSpec([None, 5]), tf.TensorSpec([5, 7])
    assert _sized(unknown, [3]) == tf.TensorSpec([3, 5])
    assert _sized(matrix, [3]) == matrix
    assert _sized(PerReplicaSpec(unknown, unknown), [3, 2]) == PerReplicaSpec(
        tf.TensorSpec([3, 5]), tf.TensorSpec([2, 5])
    )
    assert _sized(PerReplicaSpec(matrix, matrix), [3, 2]) == PerReplicaSpec(matrix, matrix)


def test_batches_of_a_known_size():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH, drop_remainder=True)
    model, watching = net(steps_per_execution=2), meter()
    fit(model, data, batch_size=None, epochs=2, callbacks=[watching])
    assert_counted(watching, 2 * 2 * BATCH, 2 * 2)


class Sparse(keras.Model):
    """Takes sparse data alone, of which the meter cannot tell how many examples it has."""

    def train_step(self, data):
        return super().train_step((tf.sparse.to_dense(data), tf.zeros((4, 2))))


def test_executions_of_unknown_size_are_not_reported_as_none():
    model, watching = net(Sparse, steps_per_execution=2), meter()
    rows = tf.data.Dataset.from_tensors(tf.sparse.from_dense(np.ones((4, 3), "float32")))
    fit(model, rows.repeat(4), batch_size=None, callbacks=[watching])
    summary = watching.summary()
    assert any("the size of a batch is not known" in warning for warning in summary.warnings)
    assert summary.model_flops is None
    # The executions have taken their time all the same.
    assert summary.training_seconds > 0


class Sums:
    """Executions that are told their totals."""

    def __init__(self):
        self.steps, self.examples = 7, 70  # of an earlier fit

    def run(self, *batches):
        self.steps += len(batches)
        self.examples += sum(batches)

    def total(self):
        return self.steps, self.examples


@pytest.mark.parametrize(
    "executions",
    [
        [[4, 4, 4], [4, 2]],
        [[4], [4], [2], [4], [4], [2]],
        [[3, 3], [3, 1], [3, 3], [3, 1]],
        [[], [5]],
    ],
)
def test_sizes_are_told_from_their_sum(executions):
    """A batch that is not full comes last in its execution."""
    sums = Sums()
    sizes = Sizes(sums)
    for batches in executions:
        sums.run(*batches)
        assert sizes.new() == batches


def test_sizes_that_cannot_be_told_have_the_right_sum():
    """In a first execution that has all batches; a net's FLOPs grow in step with the size."""
    sums = Sums()
    sizes = Sizes(sums)
    sums.run(4, 4, 2)
    assert sizes.new() == [4, 3, 3]
    sums.run(0)
    with pytest.raises(ValueError, match="no dense tensor"):
        sizes.new()


def test_executions_are_kept_with_the_train_function():
    model = net(steps_per_execution=2)
    model.make_train_function()
    usual = model.train_function
    first = Executions.of(model, usual)
    assert model.train_function is usual
    assert "train_step" not in vars(model)
    assert Executions.of(model, usual) is first
    model.compile("sgd", "mse", steps_per_execution=2)
    model.make_train_function()
    assert Executions.of(model, model.train_function) is not first
