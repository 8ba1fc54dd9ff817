"""Graphs of TensorFlow for the tests that count them, and what is asked of every count."""

import tensorflow as tf

from computemeter.counters.tf_flops import count_graph

raw = tf.raw_ops


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


SQUARE = f(3, 3)  # a product is 2 * 3*3*3 = 54


def loop(start, condition, step, **kwargs):
    def function(x):
        return tf.while_loop(
            lambda i, _: condition(i, x), lambda i, y: (step(i), y @ x), (start, x), **kwargs
        )[1]

    return function
