"""Convolutions of PyTorch and their gradients, one operator per backend."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from computemeter import formulas
from computemeter.counters.torch_flops import Arguments, formula, multiply_add, outer


@formula("aten::convolution", "aten::_convolution", "aten::convolution_overrideable")
def _convolution(a: Arguments, out: Any) -> int:
    positions = a["input"] if a["transposed"] else out
    return _convolve(a["input"].shape[0], positions, a["weight"])


@formula(
    "aten::cudnn_convolution",
    "aten::cudnn_convolution_relu",
    "aten::cudnn_convolution_add_relu",
    "aten::miopen_convolution",
    "aten::miopen_convolution_relu",
    "aten::miopen_convolution_add_relu",
    "aten::miopen_depthwise_convolution",
    "aten::mkldnn_convolution",
    "aten::_mps_convolution",
    "aten::_conv_depthwise2d",
    "aten::conv_depthwise3d",
    "aten::_slow_conv2d_forward",
    "aten::slow_conv3d_forward",
    "aten::slow_conv_dilated2d",
    "aten::slow_conv_dilated3d",
)
def _forward_convolution(a: Arguments, out: Any) -> int:
    return _convolve(a["self"].shape[0], out, a["weight"])


@formula("aten::_nnpack_spatial_convolution", "prim::mkldnn_convolution")
def _input_convolution(a: Arguments, out: Any) -> int:
    return _convolve(a["input"].shape[0], out, a["weight"])


@formula("aten::conv_tbc")
def _conv_tbc(a: Arguments, out: Any) -> int:
    # (time, batch, channels) by (kernel, in, out)
    steps, batch, _channels = out.shape
    return outer(steps * batch, a["weight"].numel(), out)


@formula(
    "aten::cudnn_convolution_transpose",
    "aten::miopen_convolution_transpose",
    "aten::_mps_convolution_transpose",
    "aten::slow_conv_transpose2d",
    "aten::slow_conv_transpose3d",
)
def _transposed_convolution(a: Arguments, _out: Any) -> int:
    return _convolve(a["self"].shape[0], a["self"], a["weight"])


@formula("mkldnn::_convolution_pointwise", "mkldnn::_convolution_pointwise_")
def _mkldnn_convolution(a: Arguments, out: Any) -> int:
    return _convolve(a["X"].shape[0], out, a["W"])


@formula("mkldnn::_convolution_transpose_pointwise")
def _mkldnn_transposed_convolution(a: Arguments, _out: Any) -> int:
    return _convolve(a["X"].shape[0], a["X"], a["W"])


@formula("aten::convolution_backward", "aten::convolution_backward_overrideable")
def _convolution_backward(a: Arguments, _out: Any) -> int:
    positions = a["input"] if a["transposed"] else a["grad_output"]
    products: int = sum(a["output_mask"][:2])
    return products * _convolve(a["input"].shape[0], positions, a["weight"])


@formula("aten::_slow_conv2d_backward", "aten::mps_convolution_backward")
def _backend_convolution_backward(a: Arguments, out: Any) -> int:
    # The `out` variant has no mask: it fills what it is given.
    wanted = a.get("output_mask") or [gradient is not None for gradient in out]
    products: int = sum(wanted[:2])
    return products * _convolve(a["self"].shape[0], a["grad_output"], a["weight"])


@formula("aten::mps_convolution_transpose_backward")
def _transposed_convolution_backward(a: Arguments, _out: Any) -> int:
    products: int = sum(a["output_mask"])
    return products * _convolve(a["self"].shape[0], a["self"], a["weight"])


def _convolve(batch: int, positions: Tensor, weight: Tensor) -> int:
    flops = formulas.convolution(batch, positions.shape[2:], weight.shape)
    return flops * multiply_add(weight) // 2
