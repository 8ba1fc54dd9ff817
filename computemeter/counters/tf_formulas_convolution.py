"""Convolutions of TensorFlow and their gradients.

Each of the three products costs the same: every element of the weight once per example and
position of the forward convolution's result. A transposed convolution is the input gradient of
the convolution whose result it takes.
"""

from __future__ import annotations

from math import prod
from typing import Any

from computemeter import formulas
from computemeter.counters.tf_shapes import (
    NoFormulaError,
    arithmetic,
    constant,
    formula,
    sizes,
    tensorflow,
)

_RELUS = ("", "AndRelu", "AndReluAndRequantize", "AndRequantize")
_BIAS = ("", "SumAndRelu", "SumAndReluAndRequantize", "SignedSumAndReluAndRequantize")
_QUANTIZED = (
    *(f"QuantizedConv2D{kind}" for kind in (*_RELUS, "PerChannel")),
    *(f"QuantizedConv2DWithBias{kind}" for kind in {*_RELUS, *_BIAS}),
    *(f"QuantizedDepthwiseConv2D{kind}" for kind in ("", "WithBias", "WithBiasAndRelu")),
    "QuantizedDepthwiseConv2DWithBiasAndReluAndRequantize",
)


@formula(
    "Conv2D",
    "Conv3D",
    "DepthwiseConv2dNative",
    "_FusedConv2D",
    "_FusedConv3D",
    "_FusedDepthwiseConv2dNative",
    *_QUANTIZED,
)
def _forward(op: Any) -> int:
    return _convolve(op, op.outputs[0], sizes(op.inputs[1]))


@formula("FusedPadConv2D")
def _padded(op: Any) -> int:
    return _convolve(op, op.outputs[0], sizes(op.inputs[2]))


@formula("FusedResizeAndPadConv2D")
def _resized(op: Any) -> int:
    return _convolve(op, op.outputs[0], sizes(op.inputs[3]))


@formula(
    "Conv2DBackpropInput",
    "Conv2DBackpropInputV2",
    "Conv3DBackpropInput",
    "Conv3DBackpropInputV2",
    "DepthwiseConv2dNativeBackpropInput",
)
def _input_gradient(op: Any) -> int:
    return _convolve(op, op.inputs[2], sizes(op.inputs[1]))


@formula(
    "Conv2DBackpropFilter",
    "Conv3DBackpropFilterV2",
    "DepthwiseConv2dNativeBackpropFilter",
)
def _weight_gradient(op: Any) -> int:
    return _convolve(op, op.inputs[2], _sizes_or_operand(op.outputs[0], op.inputs[1]))


@formula("Conv2DBackpropFilterV2", "Conv3DBackpropFilter")
def _weight_gradient_of_weight(op: Any) -> int:
    # These take the weight itself where the others take its sizes.
    return _convolve(op, op.inputs[2], sizes(op.inputs[1]))


@formula("Conv")
def _general(op: Any) -> int:
    batch_dims = op.get_attr("batch_dims")
    result = sizes(op.outputs[0])
    channels_first = op.get_attr("data_format") == b"CHANNELS_FIRST"
    positions = result[batch_dims + 1 :] if channels_first else result[batch_dims:-1]
    flops = formulas.convolution(prod(result[:batch_dims]), positions, sizes(op.inputs[1]))
    return flops * arithmetic(op.inputs[0])


@formula("XlaConv", "XlaConvV2")
def _xla(op: Any) -> int:
    """FLOPs of XLA's general convolution, of which a gradient, too, is a case.

    A dilated side is mostly zeros, and which of them a gradient's kernel skips is not in the
    operation; counting them would come to several times what the other forms cost.
    """
    strides, padding, *dilations, groups = (constant(each) for each in list(op.inputs)[2:7])
    if any((dilation != 1).any() for dilation in dilations) or groups < 1:
        raise NoFormulaError("a dilated convolution may be a gradient")
    if "batch_group_count" in op.node_def.attr and op.get_attr("batch_group_count") > 1:
        raise NoFormulaError("a convolution of groups of examples is a gradient")
    xla = tensorflow(".compiler.xla.xla_data_pb2")
    numbers = xla.ConvolutionDimensionNumbers.FromString(op.get_attr("dimension_numbers"))
    shape, weight = sizes(op.inputs[0]), sizes(op.inputs[1])
    # The shape of the result is only known to XLA.
    padded = [
        shape[each] + int(both)
        for each, both in zip(numbers.input_spatial_dimensions, padding.sum(axis=1), strict=True)
    ]
    kernel = [weight[each] for each in numbers.kernel_spatial_dimensions]
    positions = [
        (size - taps) // int(stride) + 1
        for size, taps, stride in zip(padded, kernel, strides, strict=True)
    ]
    batch = shape[numbers.input_batch_dimension]
    return formulas.convolution(batch, positions, weight) * arithmetic(op.inputs[0])


def _convolve(op: Any, positions: Any, weight: tuple[int, ...]) -> int:
    """FLOPs over the positions of a tensor in the operation's data format."""
    shape = sizes(positions)
    spatial = [
        size for size, letter in zip(shape, _layout(op, shape), strict=True) if letter in "DHW"
    ]
    return formulas.convolution(shape[0], spatial, weight) * arithmetic(op.inputs[0])


def _layout(op: Any, shape: tuple[int, ...]) -> str:
    if "data_format" in op.node_def.attr:
        layout: str = op.get_attr("data_format").decode()
        return layout
    return "NHWC" if len(shape) == 4 else "NDHWC"


def _sizes_or_operand(result: Any, operand: Any) -> tuple[int, ...]:
    """Return a result's sizes, which may be known only to the operand that asks for them."""
    try:
        return sizes(result)
    except NoFormulaError:
        return tuple(int(size) for size in constant(operand))
