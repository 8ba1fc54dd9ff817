"""Counting a TensorFlow step from its graph, against numbers derived by hand.

Keras must run on TensorFlow: KERAS_BACKEND=tensorflow.
"""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

from keras import layers  # noqa: E402 - only where Keras runs on TensorFlow

from computemeter.counters import tf_formulas, tf_values  # noqa: E402
from computemeter.counters.tf_flops import count_graph  # noqa: E402
from computemeter.counters.tf_ops import classify  # noqa: E402

raw = tf.raw_ops
PREDICTED = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def f(*shape, dtype="float32"):
    return tf.TensorSpec(shape, dtype)


def count(function, *specs, **options):
    return count_graph(tf.function(function).get_concrete_function(*specs).graph, **options)


def flops(function, *specs):
    counted = count(function, *specs)
    assert not counted.uncounted_ops
    assert sum(counted.by_op.values()) == sum(counted.by_dtype.values()) == counted.model_flops
    return counted.model_flops


def gradients(function):
    """Return the gradients of a function with respect to all of its arguments."""

    def both(*args):
        with tf.GradientTape() as tape:
            tape.watch(args)
            result = function(*args)
        return tape.gradient(result, args)

    return both


def trace_step(model, shape, batch=32):
    model.compile("adam", PREDICTED)
    model.optimizer.build(model.trainable_variables)
    data = tf.zeros((batch, *shape)), tf.zeros((batch,), tf.int32)
    step = tf.function(model.train_step, autograph=False)
    return step.get_concrete_function(data).graph


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack, layers.Dense(10)]), shape


def conv(filters, **kwargs):
    return layers.Conv2D(filters, 3, **kwargs)


def attention():
    tokens = keras.Input((16, 64))
    mixed = layers.MultiHeadAttention(4, 16)(tokens, tokens)
    pooled = layers.GlobalAveragePooling1D()(mixed)
    return keras.Model(tokens, layers.Dense(10)(pooled)), (16, 64)


# Whole steps. A layer costs three products, the first one two: nobody asks for the gradient of
# the data. With B = 32, a Dense 10 on n features costs 3 * 2*32*n*10.

STEPS = {
    # 2*32 * (2 * 784*256 + 3 * 256*256 + 3 * 256*10)
    "MLP": (
        lambda: sequential((784,), layers.Dense(256, "relu"), layers.Dense(256, "relu")),
        38_764_544,
    ),
    # 2*32 * (2 * 32*32 * 3*3*3*16 + 3 * 16*16 * 3*3*16*32 + 3 * 32*10)
    "CNN same": (
        lambda: sequential(
            (32, 32, 3),
            conv(16, padding="same"),
            conv(32, padding="same", strides=2),
            layers.GlobalAveragePooling2D(),
        ),
        283_176_960,
    ),
    # 2*32 * (2 * 30*30 * 3*3*3*16 + 3 * 28*28 * 3*3*16*32 + 3 * 32*10)
    "CNN valid": (
        lambda: sequential((32, 32, 3), conv(16), conv(32), layers.GlobalAveragePooling2D()),
        743_460_864,
    ),
    # 2*32 * (1024 * (2 * 3*3*8*16 + 3 * 3*3*16 + 3 * 3*3*4*32 + 3 * 3*3*32*16) + 3 * 16*10): the
    # transposed convolution has 32x32 positions, those of its input
    "mix": (
        lambda: sequential(
            (32, 32, 8),
            conv(16, padding="same"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, padding="same"),
            conv(32, padding="same", groups=4),
            layers.Conv2DTranspose(16, 3, strides=2, padding="same"),
            layers.GlobalAveragePooling2D(),
        ),
        1_311_799_296,
    ),
    # 2*32 * (20 * 4*32 * (2*16 + 3*32) + 3 * 32*10): the input's gradient at no time step
    "LSTM": (lambda: sequential((20, 16), layers.LSTM(32)), 21_032_960),
    # 2*32 * (q, k, v: 3 * 2 * 16*64*64 + out: 3 * 16*64*64 + scores and values: 3 * 2*4*16*16*16
    # + 3 * 64*10)
    "MHA": (attention, 44_163_072),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_a_keras_model(name):
    build, expected = STEPS[name]
    counted = count_graph(trace_step(*build()))
    assert counted.model_flops == counted.hardware_flops == expected
    assert counted.by_dtype == {"float32": expected}
    assert not counted.uncounted_ops
    assert all(op.startswith("tf::") for op in counted.by_op)


def test_tracing_a_step_leaves_the_model_as_it_was():
    model, shape = sequential(
        (8,), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)
    )
    trace_step(model, shape)
    model.fit(np.ones((64, 8)), np.zeros(64), batch_size=16, verbose=0)
    before, function = everything(model), model.train_function
    tf.random.set_seed(7)
    expected = tf.random.uniform((3,))
    tf.random.set_seed(7)
    step = tf.function(model.train_step, autograph=False)
    step.get_concrete_function((tf.zeros((4, 8)), tf.zeros((4,), tf.int32)))
    assert np.array_equal(tf.random.uniform((3,)), expected)
    assert model.train_function is function
    after = everything(model)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path]) for path in before)


def everything(model):
    """Copy the weights, the state of dropout, of the optimizer and of the metrics."""
    variables = model.variables + model.optimizer.variables + model.metrics_variables
    return {variable.path: variable.numpy().copy() for variable in variables}


# Single operations.


def einsum(equation, *specs):
    return (lambda *xs: raw.Einsum(inputs=xs, equation=equation)), *specs


def conv2d(strides=1, padding="VALID", **kwargs):
    return lambda x, w: tf.nn.conv2d(x, w, strides, padding, **kwargs)


def xla():
    from tensorflow.compiler.tf2xla.python import xla

    return xla


def dot_general(left, right, precision=None):
    """Multiply (batch, i, j) by (k, batch, j)."""
    numbers = xla().xla_data_pb2.DotDimensionNumbers()
    numbers.lhs_batch_dimensions.append(0)
    numbers.rhs_batch_dimensions.append(1)
    numbers.lhs_contracting_dimensions.append(2)
    numbers.rhs_contracting_dimensions.append(2)
    return xla().dot_general(left, right, numbers, precision)


def xla_conv(lhs_dilation=(1, 1)):
    numbers = xla().xla_data_pb2.ConvolutionDimensionNumbers(
        input_batch_dimension=0,
        input_feature_dimension=3,
        input_spatial_dimensions=[1, 2],
        kernel_input_feature_dimension=2,
        kernel_output_feature_dimension=3,
        kernel_spatial_dimensions=[0, 1],
        output_batch_dimension=0,
        output_feature_dimension=3,
        output_spatial_dimensions=[1, 2],
    )
    valid = (0, 0), (0, 0)
    return lambda x, w: xla().conv(x, w, (1, 1), valid, lhs_dilation, (1, 1), numbers, use_v2=True)


def cudnn(**kwargs):
    def layer(x, h, c):
        return raw.CudnnRNNV3(
            input=x,
            input_h=h,
            input_c=c,
            params=tf.zeros((9,)),
            sequence_lengths=tf.zeros((2,), tf.int32),
            **kwargs,
        )

    return layer


SINGLE = {
    "MatMul": (tf.matmul, f(32, 784), f(784, 256), 12_845_056),  # 2 * 32*784*256
    "transpose_a": (lambda a, b: tf.matmul(a, b, transpose_a=True), f(3, 2), f(3, 5), 60),
    "transpose_b": (lambda a, b: tf.matmul(a, b, transpose_b=True), f(2, 3), f(5, 3), 60),
    "complex": (tf.matmul, f(2, 3, dtype="complex64"), f(3, 5, dtype="complex64"), 240),  # 4 * 60
    # 2*5 matrices, broadcast: 2 * 10 * 3*4*6
    "broadcast": (tf.matmul, f(2, 1, 3, 4), f(5, 4, 6), 1_440),
    # 2 * 2 * 3*4*6
    "adjoint": (
        lambda a, b: tf.matmul(a, b, adjoint_a=True, adjoint_b=True),
        f(2, 4, 3),
        f(2, 6, 4),
        288,
    ),
    "Einsum, ellipsis": (*einsum("...ij,jk->...ik", f(2, 3, 4, 5), f(5, 6)), 1_440),  # 2*6 * 4*5*6
    "Einsum, broadcast": (*einsum("...ij,...jk->...ik", f(2, 1, 3, 4), f(5, 4, 6)), 1_440),
    # `a` and `b` are summed over first: 2 * 4*5
    "Einsum, of one factor": (*einsum("abc,cd->d", f(2, 3, 4), f(4, 5)), 40),
    "Einsum, diagonal": (*einsum("ii,ij->j", f(3, 3), f(3, 4)), 24),  # 2 * 3*4
    "Einsum, no sum": (*einsum("ij,ij->ij", f(3, 4), f(3, 4)), 0),
    "Einsum, transposition": (*einsum("ij->ji", f(3, 4)), 0),
    "Einsum, sum": (*einsum("ij->", f(3, 4)), 0),
    "XlaDotV2": (dot_general, f(2, 3, 4), f(5, 2, 4), 240),  # 2 * 2 * 3*4*5
    # 8 positions, weight 3*3*5: 2 * 2*8*45
    "Conv1D": (lambda x, w: tf.nn.conv1d(x, w, 1, "VALID"), f(2, 10, 3), f(3, 3, 5), 1_440),
    # two groups: 4x4 positions, weight 3*3*2*6 = 108: 2 * 2*16*108
    "Conv2D, groups": (conv2d(2, "SAME"), f(2, 8, 8, 4), f(3, 3, 2, 6), 6_912),
    "Conv2D, NCHW": (
        conv2d(2, "SAME", data_format="NCHW"),
        f(2, 4, 8, 8),
        f(3, 3, 4, 3),
        6_912,
    ),
    # 3 taps 2 apart are 5 wide: 4x4 positions, weight 3*3*4*6 = 216: 2 * 2*16*216
    "Conv2D, dilated": (conv2d(dilations=2), f(2, 8, 8, 4), f(3, 3, 4, 6), 13_824),
    # 3x3x3 positions, weight 2*2*2*2*3 = 48: 2 * 27*48
    "Conv3D": (
        lambda x, w: tf.nn.conv3d(x, w, [1] * 5, "VALID"),
        f(1, 4, 4, 4, 2),
        f(2, 2, 2, 2, 3),
        2_592,
    ),
    # the generic one, with two batch dimensions: 6x6 positions: 2 * 2*3*36*216
    "Conv": (
        lambda x, w: raw.Conv(
            input=x, filter=w, strides=[1] * 4, padding="VALID", batch_dims=2, dilations=[1] * 4
        ),
        f(2, 3, 8, 8, 4),
        f(3, 3, 4, 6),
        93_312,
    ),
    # 8x8 positions, weight 3*3*4*2 = 72: 2 * 2*64*72
    "DepthwiseConv2dNative": (
        lambda x, w: tf.nn.depthwise_conv2d(x, w, [1] * 4, "SAME"),
        f(2, 8, 8, 4),
        f(3, 3, 4, 2),
        18_432,
    ),
    # 4x4 positions of the input, weight 3*3*5*6 = 270: 2 * 2*16*270
    "transposed convolution": (
        lambda x, w: tf.nn.conv2d_transpose(x, w, (2, 8, 8, 5), 2),
        f(2, 4, 4, 6),
        f(3, 3, 5, 6),
        17_280,
    ),
    "XlaConvV2": (xla_conv(), f(2, 8, 8, 4), f(3, 3, 4, 6), 31_104),  # 2 * 2*36*216
    "Cholesky": (tf.linalg.cholesky, f(5, 6, 6), 360),  # 5 * 6^3 / 3
    "Lu": (tf.linalg.lu, f(6, 6), 144),  # 2 * 6^3 / 3
    "MatrixInverse": (tf.linalg.inv, f(6, 6), 432),  # 2 * 6^3
    "MatrixDeterminant": (tf.linalg.det, f(6, 6), 144),
    "MatrixSolve": (tf.linalg.solve, f(6, 6), f(6, 2), 288),  # 144 + 2 * 6^2 * 2
    # the matrix is broadcast: 3 * 6^2 * 2
    "MatrixTriangularSolve": (tf.linalg.triangular_solve, f(6, 6), f(3, 6, 2), 216),
    "Qr": (tf.linalg.qr, f(9, 6), 1_008),  # 504 for R (see the formula), and as many for Q
    # Q of 9 columns takes (12 * 9*9*6 - 6 * 18*36 + 4 * 6^3) / 3 = 936
    "Qr, complete": (lambda a: tf.linalg.qr(a, full_matrices=True), f(9, 6), 1_440),
    "FFT": (tf.signal.fft, f(2, 8, dtype="complex64"), 240),  # 2 * 5*8*3
    "IFFT2D": (tf.signal.ifft2d, f(3, 4, 2, dtype="complex64"), 360),  # 3 * 5*8*3
    "RFFT": (tf.signal.rfft, f(2, 8), 120),  # half of a complex one
    "IRFFT": (tf.signal.irfft, f(2, 5, dtype="complex64"), 120),  # 5 numbers stand for 8
    "RFFTND": (
        lambda x: raw.RFFTND(input=x, fft_length=[8], axes=[0], Tcomplex=tf.complex64),
        f(8, 2),
        120,
    ),
    # T*B = 10, one layer of 4 gates: 2*10 * 4*6 * (3 + 6)
    "CudnnRNNV3": (cudnn(), f(5, 2, 3), f(1, 2, 6), f(1, 2, 6), 4_320),
    # both directions, and the next layer reads both: 2 * 2*10 * 3*6 * (3 + 6 + 12 + 6)
    "CudnnRNNV3, GRU, two layers": (
        cudnn(rnn_mode="gru", direction="bidirectional"),
        f(5, 2, 3),
        f(4, 2, 6),
        f(4, 2, 6),
        19_440,
    ),
    # 6 units projected to 2: 2*10 * (4*6 * (3 + 2) + 6*2)
    "CudnnRNNV3, projected": (cudnn(num_proj=2), f(5, 2, 3), f(1, 2, 2), f(1, 2, 6), 2_640),
    # no matrix for the input: 2*10 * 6*6
    "CudnnRNNV3, skip": (
        cudnn(rnn_mode="rnn_relu", input_mode="skip_input"),
        f(5, 2, 6),
        f(1, 2, 6),
        f(1, 2, 6),
        720,
    ),
    "pointwise": (lambda a, b: tf.nn.softmax(a * b) + tf.reduce_sum(a), f(3, 4), f(3, 4), 0),
    "lookup": (lambda i, w: tf.gather(w, i), f(3, dtype="int32"), f(9, 4), 0),
    "dataset": (lambda x: tf.data.Dataset.from_tensors(x)._variant_tensor, f(3), 0),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_operation(name):
    function, *specs, expected = SINGLE[name]
    assert flops(function, *specs) == expected


@pytest.mark.parametrize(
    "name", ["MatMul", "broadcast", "Einsum, ellipsis", "Conv1D", "Conv2D, groups",
             "Conv2D, dilated", "Conv3D", "DepthwiseConv2dNative", "transposed convolution"]
)  # fmt: skip
def test_each_gradient_costs_as_much_as_the_forward_pass(name):
    function, *specs, forward = SINGLE[name]
    # The gradient alone runs no forward pass of a product: it reads the arguments only.
    assert flops(gradients(function), *specs) == 2 * forward


def test_gradients_of_cudnn_layers():
    # A forward pass, which keeps what the gradient needs, 4,320; the gradients twice that.
    assert flops(gradients(lambda *x: cudnn()(*x)[0]), f(5, 2, 3), f(1, 2, 6), f(1, 2, 6)) == 12_960


def test_precision_is_that_of_the_factors():
    sizes_first = gradients(conv2d())
    counted = count(sizes_first, f(1, 4, 4, 2, dtype="bfloat16"), f(3, 3, 2, 5, dtype="bfloat16"))
    assert counted.by_dtype == {"bfloat16": 2 * 2 * 4 * 90}  # 2x2 positions, weight 3*3*2*5
    assert set(counted.by_op) == {"tf::Conv2DBackpropInput", "tf::Conv2DBackpropFilter"}


ON_TENSOR_UNITS = [
    "MatMul", "broadcast", "Einsum, ellipsis", "Conv2D, groups", "Conv3D", "DepthwiseConv2dNative",
    "XlaConvV2", "CudnnRNNV3",
]  # fmt: skip


@pytest.mark.parametrize("name", ON_TENSOR_UNITS)
def test_precision_of_float32_products_is_tf32_where_allowed(name):
    function, *specs, forward = SINGLE[name]
    assert count(function, *specs).by_dtype == {"float32": forward}
    assert count(function, *specs, tf32=True).by_dtype == {"tf32": forward}
    if not name.startswith("Xla"):
        first = (lambda *x: cudnn()(*x)[0]) if name == "CudnnRNNV3" else function
        backward = count(gradients(first), *specs, tf32=True)
        assert backward.by_dtype == {"tf32": backward.model_flops}


@pytest.mark.parametrize("name", ["complex", "Cholesky", "MatrixSolve", "RFFT"])
def test_precision_of_other_work_is_what_it_was(name):
    function, *specs, _flops = SINGLE[name]
    assert count(function, *specs, tf32=True) == count(function, *specs)


def test_precision_of_fewer_bits_is_what_it_was():
    narrow = f(4, 4, dtype="bfloat16")
    assert count(tf.matmul, narrow, narrow, tf32=True).by_dtype == {"bfloat16": 128}  # 2 * 4*4*4


@pytest.mark.parametrize(("level", "computed_in"), [(0, "tf32"), (1, "tf32"), (2, "float32")])
def test_precision_of_xla_products(level, computed_in):
    def multiply(left, right):
        config = xla().xla_data_pb2.PrecisionConfig(operand_precision=[0, level])
        return dot_general(left, right, config)

    counted = count(multiply, f(2, 3, 4), f(5, 2, 4), tf32=True)
    assert counted.by_dtype == {computed_in: 240}  # 2 * 2*3*4*5


def test_precision_reaches_inner_functions():
    repeat = loop(0, lambda i, _: i < 7, lambda i: i + 1)
    inner = tf.function(repeat)
    assert count(lambda x: inner(x + 1), SQUARE, tf32=True).by_dtype == {"tf32": 7 * 54}


# What runs.


def test_what_nobody_needs_is_not_counted():
    def function(a, b):
        tf.matmul(a, b)
        return a

    assert flops(function, f(2, 3), f(3, 5)) == 0


def test_what_a_side_effect_needs_is_counted():
    def function(a, b):
        tf.print(tf.matmul(a, b))
        return a

    assert flops(function, f(2, 3), f(3, 5)) == 60


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}])
def test_functions_and_what_is_used_of_them(options):
    @tf.function(**options)
    def inner(a, b):
        return tf.matmul(a, b), tf.matmul(b, a)

    assert flops(lambda a, b: inner(a, b)[0], f(2, 5), f(5, 2)) == 40  # 2 * 2*5*2
    assert flops(inner, f(2, 5), f(5, 2)) == 140  # and 2 * 5*2*5


SQUARE = f(3, 3)  # a product is 2 * 3*3*3 = 54


def loop(start, condition, step, **kwargs):
    def function(x):
        return tf.while_loop(
            lambda i, _: condition(i, x), lambda i, y: (step(i), y @ x), (start, x), **kwargs
        )[1]

    return function


LOOPS = {
    "up": (loop(0, lambda i, _: i < 7, lambda i: i + 1), 7),
    "down by 3": (loop(10, lambda i, _: i > 0, lambda i: i - 3), 4),
    "doubling": (loop(1.0, lambda i, _: i <= 64, lambda i: i * 2), 7),
    "maximum": (loop(0, lambda *_: True, lambda i: i, maximum_iterations=5), 5),
    "both": (loop(0, lambda i, _: i < 7, lambda i: i + 1, maximum_iterations=5), 5),
    "as many as rows": (loop(0, lambda i, x: i < tf.shape(x)[0], lambda i: i + 1), 3),
    "never": (loop(5, lambda i, _: i < 5, lambda i: i + 1), 0),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_counts_for_each_trip(name):
    function, trips = LOOPS[name]
    assert flops(function, SQUARE) == trips * 54
    # For the gradient the loop runs forward and back, with two products a step.
    assert flops(gradients(function), SQUARE) == trips * 54 * 3


def test_loops_written_in_python():
    def function(x):
        for step in tf.range(2, 14, 3):  # 2, 5, 8, 11
            x = x @ x @ x if step > 100 else x @ x
        return x

    assert flops(function, SQUARE) == 4 * 108  # the branch that takes more


def test_nested_loops_multiply_and_so_do_their_gradients():
    inner = loop(0, lambda i, _: i < 2, lambda i: i + 1)

    def function(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, inner(y)), (0, x))[1]

    assert flops(function, SQUARE) == 3 * 2 * 54
    counted = count(gradients(function), SQUARE)
    assert not counted.uncounted_ops
    assert counted.model_flops == 3 * 2 * 54 * 3


def test_loops_that_data_ends_are_listed():
    until = loop(0, lambda i, x: tf.cast(i, x.dtype) < x[0, 0], lambda i: i + 1)
    assert count(until, SQUARE).uncounted_ops == {"tf::While": 1}
    bounded = loop(
        0, lambda i, x: tf.cast(i, x.dtype) < x[0, 0], lambda i: i + 1, maximum_iterations=9
    )
    assert count(bounded, SQUARE).uncounted_ops == {"tf::While": 1}


def test_loops_too_long_to_follow_are_listed(monkeypatch):
    monkeypatch.setattr(tf_values, "MOST_TRIPS", 6)
    counted = count(loop(0, lambda i, _: i < 7, lambda i: i + 1), SQUARE)
    assert (counted.model_flops, counted.uncounted_ops) == (0, {"tf::While": 1})


def test_loops_whose_counter_cannot_be_followed_are_listed(monkeypatch):
    def fail(*_args):
        raise ZeroDivisionError

    monkeypatch.setitem(tf_values._FOLDED, "Less", fail)
    counted = count(LOOPS["up"][0], SQUARE)
    assert (counted.model_flops, counted.uncounted_ops) == (0, {"tf::While": 1})


def test_loops_without_products_are_not_listed():
    def function(x):
        return tf.while_loop(lambda y: y < x, lambda y: y * 2, (tf.constant(1.0),))

    assert flops(function, f()) == 0


def test_loops_keep_what_is_listed_inside():
    def function(x):
        return tf.while_loop(
            lambda i, _: i < 4, lambda i, y: (i + 1, tf.linalg.svd(y @ y)[1]), (0, x)
        )[1]

    counted = count(function, SQUARE)
    assert counted.model_flops == 4 * 54
    assert counted.uncounted_ops == {"tf::Svd": 4}


def test_conditionals_count_the_branch_that_takes_most():
    def either(a, b):
        return tf.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b @ a @ b)

    def one_of(a, b):
        branches = [lambda: a, lambda: a @ b @ b, lambda: a @ b]
        return tf.switch_case(tf.cast(a[0, 0], tf.int32), branches)

    assert flops(either, SQUARE, SQUARE) == 3 * 54
    assert flops(one_of, SQUARE, SQUARE) == 2 * 54


def test_recomputation_is_hardware_flops_only():
    model = keras.Sequential([keras.Input((16,)), Block(), Block(), layers.Dense(10)])
    counted = count_graph(trace_step(model, (16,), batch=8))
    # Dense products of 16*32, 32*32 three times, 32*10: three each, two of the first.
    products = 16 * 32 + 3 * 32 * 32
    assert counted.model_flops == 2 * 8 * (3 * (products + 32 * 10) - 16 * 32)
    assert counted.hardware_flops - counted.model_flops == 2 * 8 * products
    assert counted.by_op == {"tf::MatMul": counted.model_flops}


class Block(layers.Layer):
    """Two layers and dropout, computed again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = (
            layers.Dense(32, "relu"),
            layers.Dropout(0.5),
            layers.Dense(32, "relu"),
        )

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 32))

    def call(self, x):
        return keras.remat(lambda x: self.last(self.drop(self.first(x), training=True)))(x)


def test_recomputed_loops():
    weights = tf.Variable(tf.zeros((3, 3)))
    repeat = loop(0, lambda i, _: i < 5, lambda i: i + 1)

    def function(x):
        with tf.GradientTape() as tape:
            result = tf.recompute_grad(lambda x: repeat(tf.nn.relu(x @ weights)))(x)
        return tape.gradient(result, weights)

    counted = count(function, SQUARE)
    # Forward: one product, which nothing needs of the first time; again: it and the loop's 5;
    # backward: 10 in the loop, one for the weights.
    assert counted.model_flops == 11 * 54
    assert counted.hardware_flops == (6 + 11) * 54


def test_work_that_waits_for_a_gradient_is_no_recomputation():
    def function(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = x @ w
        gradient = tape.gradient(loss, w)
        with tf.control_dependencies([gradient]):
            return tf.identity(x) @ w, gradient

    counted = count(function, SQUARE, SQUARE)
    assert counted.model_flops == counted.hardware_flops == 2 * 54


def test_every_replica_of_a_strategy_counts():
    script = """
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half, half])
        import keras
        from computemeter.counters.tf_flops import count_graph
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            dense = keras.layers.Dense
            model = keras.Sequential([keras.Input((6,)), dense(4), dense(3)])
            model.compile("adam", "mse")
            model.optimizer.build(model.trainable_variables)
        data = tf.zeros((8, 6)), tf.zeros((8, 3))
        step = tf.function(lambda z: strategy.run(model.train_step, (z,)), autograph=False)
        counted = count_graph(step.get_concrete_function(data).graph)
        print(counted.model_flops, dict(counted.uncounted_ops), flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    # Each of 2 replicas has 8 examples: 2*8 * (2 * 6*4 + 3 * 4*3)
    assert ran.stdout.split("\n")[0] == f"{2 * 1_344} {{}}", ran.stderr[-2000:]


# What cannot be counted.

LISTED = {
    "Svd": (tf.linalg.svd, f(3, 3)),
    "MatMul": (tf.matmul, tf.TensorSpec((None, 3)), f(3, 5)),
    "Conv2D": (conv2d(), tf.TensorSpec(None), f(3, 3, 2, 5)),
    "EagerPyFunc": (lambda x: tf.py_function(lambda y: y @ y, [x], tf.float32), f(3, 3)),
    "PyFunc": (lambda x: tf.numpy_function(lambda y: y @ y, [x], tf.float32), f(3, 3)),
    "SparseTensorDenseMatMul": (
        lambda x: tf.sparse.sparse_dense_matmul(tf.sparse.from_dense(x), x), f(3, 3),
    ),
    "RFFT": (lambda x, n: raw.RFFT(input=x, fft_length=n), f(8), f(1, dtype="int32")),
    "XlaConvV2": (xla_conv(lhs_dilation=(2, 2)), f(2, 8, 8, 4), f(3, 3, 4, 6)),
    "MapDataset": (
        lambda x: tf.data.Dataset.from_tensors(x).map(lambda y: y @ y)._variant_tensor, f(3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
def test_operations_without_a_number_are_listed(name):
    function, *specs = LISTED[name]
    counted = count(lambda *xs: (function(*xs), tf.ones((2, 2)) @ tf.ones((2, 2))), *specs)
    assert counted.uncounted_ops == {f"tf::{name}": 1}
    assert counted.model_flops == 16  # the rest is not lost


def test_a_formula_that_fails_costs_only_its_operation(monkeypatch):
    def fail(_op):
        raise ZeroDivisionError

    monkeypatch.setitem(tf_formulas.FORMULAS, "Cholesky", fail)
    counted = count(lambda x: tf.linalg.cholesky(x @ x), SQUARE)
    assert (counted.model_flops, counted.uncounted_ops) == (54, {"tf::Cholesky": 1})


def test_control_flow_without_functions_is_listed():
    def function(x, yes):
        no, does = raw.Switch(data=x, pred=yes)
        return raw.Merge(inputs=[no @ no, does])[0]

    counted = count(function, SQUARE, f(dtype="bool"))
    assert counted.uncounted_ops == {"tf::Switch": 1, "tf::Merge": 1}


# Besides the products with sparse tables that only a TPU has: XlaSparseDenseMatmul...
WITHOUT_FORMULA = set(
    """
    AudioSpectrogram BandedTriangularSolve BatchCholeskyGrad BatchFunction BatchMatrixSolveLs
    BatchSelfAdjointEig BatchSelfAdjointEigV2 BatchSvd CholeskyGrad EagerPyFunc Eig For
    KMC2ChainInitialization KmeansPlusPlusInitialization MapDefun MatrixExponential
    MatrixLogarithm MatrixSolveLs MatrixSquareRoot Merge Mfcc NearestNeighbors PyFunc
    PyFuncStateless RefMerge RefSwitch SdcaOptimizer SdcaOptimizerV2 SelfAdjointEig
    SelfAdjointEigV2 SparseMatMul SparseMatrixMatMul SparseMatrixSparseCholesky
    SparseMatrixSparseMatMul SparseTensorDenseMatMul Svd Switch SymbolicGradient
    TridiagonalMatMul TridiagonalSolve UniformQuantizedConvolution
    UniformQuantizedConvolutionHybrid
    """.split()  # noqa: SIM905 - reads as the list it is
)


def registered():
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session as session

    return op_def_pb2.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList())).op


def test_every_operation_of_tensorflow_is_known():
    kinds = {op.name: classify(op.name) for op in registered()}
    own = {name for name in kinds if hasattr(raw, name)}
    listed = {name for name in own if kinds[name] == "uncounted"}
    listed -= {name for name in listed if name.startswith("XlaSparseDenseMatmul")}
    assert len(own) > 1_400
    assert listed == WITHOUT_FORMULA


@pytest.mark.parametrize(
    "name", ["TensorListFlash", "FusedAttentionDataset", "Mystery", "MatMulV9"]
)
def test_operations_of_others_are_listed(name):
    assert classify(name) == "uncounted"


def test_versions_of_a_zero_are_zero():
    assert classify("SoftmaxV7") == classify("ReluGrad") == "zero"
