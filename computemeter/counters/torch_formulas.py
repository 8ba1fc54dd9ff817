"""PyTorch operators and their FLOPs: each adapts an operator's arguments to a shared formula.

Operators are known by their schema's name ("aten::mm"), so that one that this build of PyTorch
does not have costs nothing. Arguments are read by the schema's argument names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from computemeter import formulas


@dataclass(frozen=True, slots=True)
class Flops:
    """Model FLOPs of one call, and the recomputation a fused kernel adds in hardware."""

    model: int
    recomputed: int = 0


class NoFormulaError(Exception):
    """A formula says that this call is beyond it: the call goes on the list."""


Arguments = Mapping[str, Any]
Formula = Callable[[Arguments, Any], Flops]

FORMULAS: dict[str, Formula] = {}
"""Formula by schema name; takes the call's arguments by name and its result."""


def formula(*operators: str) -> Callable[[Callable[..., int | Flops]], Callable[..., int | Flops]]:
    """Register a function as the formula of these operators."""

    def register(function: Callable[..., int | Flops]) -> Callable[..., int | Flops]:
        def wrapped(arguments: Arguments, out: Any) -> Flops:
            flops = function(arguments, out)
            return flops if isinstance(flops, Flops) else Flops(flops)

        FORMULAS.update(dict.fromkeys(operators, wrapped))
        return function

    return register


def _product(left: Tensor, right: Tensor) -> int:
    """FLOPs of (..., m, k) times (..., k, n), or times a vector (k); complex and sparse too."""
    if right.layout is not torch.strided:
        if left.layout is not torch.strided:
            raise NoFormulaError("which elements meet depends on both patterns")
        # Every row of the left factor meets every element that the right one stores.
        return _outer(left.numel() // left.shape[-1], _elements(right), left)
    columns = right.shape[-1] if right.dim() > 1 else 1
    return _outer(_elements(left), columns, left)


def _elements(tensor: Tensor) -> int:
    """Elements that take part in a product: of a sparse factor only those stored."""
    if tensor.layout is torch.strided:
        return tensor.numel()
    # `values` of a COO tensor asks for a coalesced one.
    stored = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
    return stored.numel()


def _outer(left: int, right: int, like: Tensor) -> int:
    return _multiply_add(like) * left * right


def _multiply_add(tensor: Tensor) -> int:
    """FLOPs of one multiply-add; of complex numbers, 4 multiplications and 4 additions."""
    return 8 if tensor.is_complex() else 2


@formula("aten::mm", "aten::_int_mm", "aten::_scaled_mm", "aten::_scaled_mm_v2", "aten::bmm")
def _mm(a: Arguments, _out: Any) -> int:
    return _product(a["self"], a["mat2"])


@formula("aten::addmm", "aten::_addmm_activation", "aten::_sparse_addmm")
def _addmm(a: Arguments, _out: Any) -> int:
    return _product(a["mat1"], a["mat2"])


@formula("aten::baddbmm", "aten::addbmm")
def _baddbmm(a: Arguments, _out: Any) -> int:
    return _product(a["batch1"], a["batch2"])


@formula("aten::mv")
def _mv(a: Arguments, _out: Any) -> int:
    return _product(a["self"], a["vec"])


@formula("aten::addmv")
def _addmv(a: Arguments, _out: Any) -> int:
    return _product(a["mat"], a["vec"])


@formula("aten::dot", "aten::vdot")
def _dot(a: Arguments, _out: Any) -> int:
    return _outer(a["self"].numel(), 1, a["self"])


@formula("aten::addr")
def _addr(a: Arguments, _out: Any) -> int:
    return _outer(a["vec1"].numel(), a["vec2"].numel(), a["vec1"])


@formula("aten::linear")
def _linear(a: Arguments, _out: Any) -> int:
    inputs, weight = a["input"], a["weight"]
    return _outer(inputs.numel() // weight.shape[1], _elements(weight), inputs)


@formula("aten::matmul")
def _matmul(a: Arguments, out: Any) -> int:
    if a["self"].layout is not torch.strided or a["other"].layout is not torch.strided:
        return _product(a["self"], a["other"])
    # Either side may be broadcast: each element of the result is one sum over the inner size.
    return _outer(out.numel(), a["self"].shape[-1], out)


@formula("aten::_euclidean_dist")
def _euclidean_dist(a: Arguments, out: Any) -> int:
    # |x|^2 - 2xy + |y|^2 as one product: two columns more, for the squares and for ones.
    return _outer(out.numel(), a["x1"].shape[-1] + 2, out)


@formula("mkldnn::_linear_pointwise")
def _mkldnn_linear(a: Arguments, _out: Any) -> int:
    return formulas.matmul(a["X"].numel() // a["X"].shape[-1], a["X"].shape[-1], a["W"].shape[0])


@formula("mkl::_mkl_linear")
def _mkl_linear(a: Arguments, _out: Any) -> int:
    weight = a["ORI_W"]
    return formulas.matmul(a["X"].numel() // weight.shape[1], weight.shape[1], weight.shape[0])


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


@formula("aten::convolution_backward", "aten::convolution_backward_overrideable")
def _convolution_backward(a: Arguments, _out: Any) -> int:
    positions = a["input"] if a["transposed"] else a["grad_output"]
    products: int = sum(a["output_mask"][:2])
    return products * _convolve(a["input"].shape[0], positions, a["weight"])


def _convolve(batch: int, positions: Tensor, weight: Tensor) -> int:
    flops = formulas.convolution(batch, positions.shape[2:], weight.shape)
    return flops * _multiply_add(weight) // 2


_ATTENTION = (
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
)


@formula(*_ATTENTION, "aten::_scaled_dot_product_attention_math_for_mps")
def _attention(a: Arguments, _out: Any) -> int:
    return formulas.attention(*_attention_shape(a), a["value"].shape[-1])


@formula(*(f"{name}_backward" for name in _ATTENTION))
def _attention_backward(a: Arguments, _out: Any) -> Flops:
    shape = _attention_shape(a)
    return Flops(
        formulas.attention_backward(*shape, a["value"].shape[-1]),
        # A fused backward does not keep the scores: it computes them once more.
        recomputed=formulas.attention_recompute(*shape),
    )


def _attention_shape(a: Arguments) -> tuple[int, int, int, int, int]:
    batch, heads, queries, head_dim = a["query"].shape
    return batch, heads, queries, a["key"].shape[2], head_dim


_CELLS = ("rnn", "rnn", "lstm", "gru")  # by cuDNN's number of the mode: relu, tanh, lstm, gru


@formula("aten::mkldnn_rnn_layer")
def _mkldnn_rnn(a: Arguments, _out: Any) -> int:
    return formulas.recurrent(*_mkldnn_rnn_shape(a))


@formula("aten::mkldnn_rnn_layer_backward")
def _mkldnn_rnn_backward(a: Arguments, _out: Any) -> int:
    return formulas.recurrent_backward(*_mkldnn_rnn_shape(a))


def _mkldnn_rnn_shape(a: Arguments) -> tuple[str, int, int, int]:
    *steps_times_batch, inputs = a["input"].shape
    return _CELLS[a["mode"]], prod(steps_times_batch), inputs, a["hidden_size"]


@formula("aten::_cudnn_rnn", "aten::miopen_rnn")
def _cudnn_rnn(a: Arguments, _out: Any) -> int:
    return sum(formulas.recurrent(*layer) for layer in _cudnn_layers(a))


@formula("aten::_cudnn_rnn_backward", "aten::miopen_rnn_backward")
def _cudnn_rnn_backward(a: Arguments, _out: Any) -> int:
    # The kernel for the data gradients always runs whole; the one for the weights on demand.
    products = 1 + bool(a["output_mask"][3])
    return products * sum(formulas.recurrent(*layer) for layer in _cudnn_layers(a))


def _cudnn_layers(a: Arguments) -> Sequence[tuple[str, int, int, int, int]]:
    """Describe each layer and direction; a packed input is (all steps of all examples, inputs)."""
    *steps_times_batch, inputs = a["input"].shape
    directions = 2 if a["bidirectional"] else 1
    projection = a.get("proj_size", 0)
    between = directions * (projection or a["hidden_size"])
    return [
        (
            _CELLS[a["mode"]],
            prod(steps_times_batch),
            inputs if layer == 0 else between,
            a["hidden_size"],
            projection,
        )
        for layer in range(a["num_layers"])
        for _direction in range(directions)
    ]
