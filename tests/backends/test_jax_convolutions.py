"""FLOPs of JAX's convolutions, forward and of both gradients, by hand."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from jax_programs import count, flops, shape


def pullback(function, operand):
    """The gradient of one operand; the forward pass is dead code."""

    def gradient(x, w):
        out, pull = jax.vjp(function, x, w)
        return pull(jnp.ones_like(out))[operand]

    return gradient


def assert_each_costs(expected, function, image, kernel):
    parts = function, pullback(function, 0), pullback(function, 1)
    assert [flops(part, image, kernel) for part in parts] == [expected] * 3


LAYOUTS = {
    1: ("NWC", "WIO", "NWC"),
    2: ("NCHW", "OIHW", "NCHW"),
    3: ("NDHWC", "DHWIO", "NDHWC"),
}


def operands(dimensions, side, kernel, channels, *, out, inner):
    if LAYOUTS[dimensions][0][1] == "C":
        return (
            shape(2, channels, *[side] * dimensions),
            shape(out, inner, *[kernel] * dimensions),
        )
    return shape(2, *[side] * dimensions, channels), shape(*[kernel] * dimensions, inner, out)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("window", [(3, 1, 1), (3, 2, 1), (4, 3, 1), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_convolution(dimensions, window, groups, padding):
    kernel, stride, dilation = window

    def convolve(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            (stride,) * dimensions,
            [(padding, padding)] * dimensions,
            rhs_dilation=(dilation,) * dimensions,
            dimension_numbers=LAYOUTS[dimensions],
            feature_group_count=groups,
        )

    span = (kernel - 1) * dilation + 1
    positions = ((6 + 2 * padding - span) // stride + 1) ** dimensions
    image, weight = operands(dimensions, 6, kernel, 4, out=8, inner=4 // groups)
    expected = 2 * 2 * positions * (kernel**dimensions * (4 // groups) * 8)
    assert_each_costs(expected, convolve, image, weight)


def test_kernel_larger_than_the_image():
    def convolve(x, w):
        return lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    # One position, whose other taps are padding.
    image, weight = shape(2, 2, 2, 3), shape(7, 7, 3, 5)
    assert_each_costs(2 * 2 * (7 * 7 * 3 * 5), convolve, image, weight)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(("side", "kernel"), [(1, 2), (4, 3), (2, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_transposed_convolution(dimensions, side, kernel, stride, padding):
    def convolve(x, w):
        return lax.conv_transpose(
            x,
            w,
            (stride,) * dimensions,
            padding,
            dimension_numbers=LAYOUTS[dimensions],
            transpose_kernel=True,
        )

    # The kernel is that of the convolution from 6 channels to 4 that this one transposes.
    image, weight = operands(dimensions, side, kernel, 4, out=4, inner=6)
    expected = 2 * 2 * side**dimensions * (kernel**dimensions * 4 * 6)
    assert_each_costs(expected, convolve, image, weight)


def test_transposed_convolution_with_an_unflipped_kernel():
    def convolve(x, w):
        return lax.conv_transpose(x, w, (2,), "VALID", dimension_numbers=LAYOUTS[1])

    assert_each_costs(2 * 2 * 5 * (3 * 4 * 6), convolve, shape(2, 5, 4), shape(3, 4, 6))


def test_batch_groups():
    def convolve(x, w):
        return lax.conv_general_dilated(x, w, (1,), "VALID", batch_group_count=2)

    # 4 examples in 2 groups: of each half of the 6 output features, 2 examples.
    image, weight = shape(4, 3, 9), shape(6, 3, 3)
    assert_each_costs(2 * 2 * 7 * (6 * 3 * 3), convolve, image, weight)


def test_convolutions_of_many_kernels_at_once():
    def convolve(x, w):
        return lax.conv(x, w, (2, 2), "SAME")

    many = jax.vmap(convolve)
    image, weight = shape(5, 2, 3, 8, 8), shape(5, 4, 3, 3, 3)
    assert_each_costs(5 * 2 * 2 * (4 * 4) * (4 * 3 * 3 * 3), many, image, weight)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_convolution_of_signals(mode):
    # 3 taps at each position of the result; beyond the signal's ends there is nothing to multiply.
    positions = {"full": 20, "same": 20, "valid": 18}[mode]
    convolve = lambda x, w: jnp.convolve(x, w, mode=mode)  # noqa: E731
    assert flops(convolve, shape(20), shape(3)) == 2 * 3 * positions


def test_flipped_kernel_across_calls():
    inner = jax.jit(lambda x, w: lax.conv(x, w.astype("float32"), (1, 1), "VALID"))

    @jax.jit
    def gradient_of_input(g, w):
        flipped = jnp.flip(w, (2, 3)).astype("float16").swapaxes(0, 1)
        return inner(jnp.pad(g, [(0, 0), (0, 0), (2, 2), (2, 2)]), flipped)

    # 4x4 positions, padded here by hand to 8x8, of which 6x6 come out.
    assert flops(gradient_of_input, shape(1, 5, 4, 4), shape(5, 3, 3, 3)) == 2 * 36 * (5 * 3 * 9)

    def step(x, w):
        return inner(jnp.sin(x), w).sum()

    both = jax.value_and_grad(step, argnums=(0, 1))
    assert flops(both, shape(1, 3, 6, 6), shape(5, 3, 3, 3)) == 3 * (2 * 16 * (5 * 3 * 9))


def test_resampling_by_a_fraction_is_uncounted():
    def resample(x, w):
        return lax.conv_general_dilated(x, w, (2,), [(1, 1)], lhs_dilation=(3,))

    result = count(resample, shape(1, 1, 9), shape(1, 1, 3))
    assert result.uncounted_ops == {"jax::conv_general_dilated": 1}
    assert result.model_flops == 0
