"""FLOPs of TensorFlow's operations and of their gradients, by hand; in which precision they run."""

import pytest
import tensorflow as tf
from tf_graphs import (
    SQUARE,
    conv2d,
    count,
    cudnn,
    dot_general,
    f,
    flops,
    gradients,
    loop,
    raw,
    xla,
    xla_conv,
)


def einsum(equation, *specs):
    return (lambda *xs: raw.Einsum(inputs=xs, equation=equation)), *specs


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
