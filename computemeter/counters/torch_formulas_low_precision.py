"""Quantised and packed weights of PyTorch: what they multiply, not how it is stored.

A packed weight does not show its shape, the activations and the result do: a linear layer is one
sum over the activations' last size for each element of its result. Scaling and zero points are
pointwise.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from computemeter import formulas
from computemeter.counters.torch_flops import Arguments, formula, outer, product

_LINEAR_INPUTS = ("X", "qx", "x", "inp", "input", "self")

_QUANTIZED_LINEAR = (
    "linear",
    "linear_relu",
    "linear_leaky_relu",
    "linear_tanh",
    "linear_dynamic",
    "linear_relu_dynamic",
    "linear_dynamic_fp16",
    "linear_relu_dynamic_fp16",
    "linear_dynamic_fp16_unpacked_weight",
    "linear_with_input_q_dq_qweight_dq_output_fp32",
    "linear_with_input_q_dq_qweight_dq_relu_output_fp32",
    "int4mm_packed_weight_cpu",
)


@formula(
    "aten::_weight_int4pack_mm",
    "aten::_weight_int4pack_mm_for_cpu",
    "aten::_weight_int4pack_mm_with_scales_and_zeros",
    "aten::_weight_int8pack_mm",
    "aten::_mixed_dtypes_linear",
    "aten::_dyn_quant_matmul_4bit",
    "onednn::qlinear_pointwise",
    "onednn::linear_dynamic_fp16",
    "onednn::linear_relu_dynamic_fp16",
    "_quantized::linear",
    "_quantized::linear_dynamic",
    "_quantized::_wrapped_quantized_linear_prepacked",
    "_quantized::wrapped_fbgemm_linear_fp16_weight",
    "_quantized::wrapped_quantized_linear",
    *(f"quantized::{name}" for name in _QUANTIZED_LINEAR),
)
def _linear(a: Arguments, out: Any) -> int:
    inputs: Tensor = next(a[name] for name in _LINEAR_INPUTS if name in a)
    return outer(out.numel(), inputs.shape[-1], inputs)


@formula("quantized::matmul")
def _matmul(a: Arguments, _out: Any) -> int:
    return product(a["qa"], a["qb"])


@formula(
    "onednn::qconv_pointwise",
    "onednn::qconv1d_pointwise",
    "onednn::qconv2d_pointwise",
    "onednn::qconv3d_pointwise",
)
def _onednn_convolution(a: Arguments, out: Any) -> int:
    return formulas.convolution(a["qx"].shape[0], out.shape[2:], a["qw"].shape)


_CONVOLUTIONS = (
    *(f"conv{d}d{kind}" for d in (1, 2, 3) for kind in ("", "_relu", "_dynamic")),
    "conv2d_add",
    "conv2d_add_relu",
)
_TRANSPOSED = tuple(f"conv_transpose{d}d{kind}" for d in (1, 2, 3) for kind in ("", "_dynamic"))


@formula(*(f"{own}quantized::{name}" for own in ("", "_") for name in _CONVOLUTIONS))
def _convolution(a: Arguments, out: Any) -> int:
    return formulas.convolution(a["qx"].shape[0], out.shape[2:], _weight_shape(a))


@formula(*(f"{own}quantized::{name}" for own in ("", "_") for name in _TRANSPOSED))
def _transposed_convolution(a: Arguments, _out: Any) -> int:
    return formulas.convolution(a["qx"].shape[0], a["qx"].shape[2:], _weight_shape(a))


def _weight_shape(a: Arguments) -> tuple[int, ...]:
    # Neither side shows the kernel's size or the groups: the weight has to be unpacked.
    packed = a["packed_weight"] if "packed_weight" in a else a["weight"]
    weight: Tensor = packed.unpack()[0]
    return tuple(weight.shape)
