"""Convolutions of JAX: which of them it is, and so what it costs.

JAX writes a convolution, its transpose and the gradients of both as one primitive,
`conv_general_dilated`, and does not say which of its operands is what. By convention each of them
takes a multiply-add for every element of the kernel at every position of the convolution: of its
output, or of the input where it is transposed. Padding taps count, the zeros that dilate the input
of a transposed convolution (or of a gradient) do not. So of the three sizes of a dimension, L of
the left operand, R of the right one and O of the output, two are to be multiplied. With input I,
kernel K and output Y of the forward convolution they are:

    ===============  ==============  ========  ===============  ========
    what             convolution     K * Y is  transposed       K * I is
    ===============  ==============  ========  ===============  ========
    forward          L=I, R=K, O=Y   R * O     L=I, R=K, O=Y    R * L
    input gradient   L=Y, R=K, O=I   R * L     L=Y, R=K, O=I    R * O
    weight gradient  L=I, R=Y, O=K   O * R     L=I, R=Y, O=K    O * L
    ===============  ==============  ========  ===============  ========

Which line and column it is:

- JAX swaps batch and features of the left operand for a weight gradient.
- A dilated left operand is that of a strided convolution's input gradient or of a strided
  transposed convolution and its weight gradient; strides are the other's.
- Without stride the kernel's flips decide, as each input gradient adds one, and a transposed
  convolution another.
"""

from __future__ import annotations

from math import prod
from typing import Any

from computemeter.counters.jax_formulas import Call, NoFormulaError, formula, multiply_add


@formula("conv_general_dilated")
def _convolution(call: Call) -> int:
    left, right = call.inputs[:2]
    numbers = call.params["dimension_numbers"]
    batch, features, *_ = (call.outputs[0].shape[axis] for axis in numbers.out_spec)
    # Groups are in the right operand's shape already, of batches as of features.
    channels = right.shape[numbers.rhs_spec[1]]
    taps = prod(_taps(call, dimension) for dimension in range(len(numbers.lhs_spec) - 2))
    flops: int = multiply_add(left) * batch * features * channels * taps
    return flops


def _taps(call: Call, dimension: int) -> int:
    """Count the pairs of a kernel element and a position along one spatial dimension."""
    numbers, params = call.params["dimension_numbers"], call.params
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    arrays: list[Any] = [*call.inputs[:2], call.outputs[0]]
    sizes = [array.shape[spec[2 + dimension]] for array, spec in zip(arrays, specs, strict=True)]
    stride = params["window_strides"][dimension]
    dilated = params["lhs_dilation"][dimension] > 1
    of_weight = numbers.lhs_spec[0] != 0
    # The stride of the convolution is a dilation in the gradient of its weight.
    other_stride = params["rhs_dilation"][dimension] if of_weight else stride
    if dilated and other_stride > 1:
        raise NoFormulaError("resampling by a fraction is neither transposed nor not")
    if of_weight:
        return _weight_taps(call, *sizes, dilated=dilated)
    return _taps_by_kernel(call, *sizes, stride=stride, dilated=dilated)


def _weight_taps(call: Call, left: int, right: int, kernel: int, *, dilated: bool) -> int:
    if dilated:
        return kernel * left
    if right > left and call.result_is_flipped():
        return kernel * left  # transposed without stride: its output is the larger side
    return kernel * right


def _taps_by_kernel(
    call: Call, left: int, kernel: int, out: int, *, stride: int, dilated: bool
) -> int:
    if dilated:
        return kernel * left
    # One axis at a time (`conv_transpose`) or all at once (JAX's gradient).
    flips = call.reversed_axes // len(call.params["window_strides"])
    if stride > 1 or not flips:
        return kernel * out
    if flips % 2 and call.backward:
        return kernel * left
    # A kernel that the program flips itself: `conv_transpose`, the smaller side its input, or
    # `jnp.convolve`, the smaller side its output.
    return kernel * min(left, out)
