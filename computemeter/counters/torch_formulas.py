"""PyTorch operators and their FLOPs: each adapts an operator's arguments to a shared formula.

Operators are known by their schema's name ("aten::mm"), so that one that this build of PyTorch
does not have costs nothing. Arguments are read by the schema's argument names.

Matrix products are here, the other families in the files named after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from computemeter import formulas
from computemeter.counters import (  # noqa: F401 - each registers its formulas
    torch_formulas_attention,
    torch_formulas_convolution,
    torch_formulas_linalg,
    torch_formulas_low_precision,
    torch_formulas_recurrent,
    torch_formulas_sparse,
)
from computemeter.counters.torch_flops import (
    FORMULAS,
    Arguments,
    Flops,
    Formula,
    NoFormulaError,
    elements,
    formula,
    outer,
    product,
)

__all__ = ["FORMULAS", "Arguments", "Flops", "Formula", "NoFormulaError", "formula"]


@formula("aten::mm", "aten::_int_mm", "aten::_scaled_mm", "aten::_scaled_mm_v2", "aten::bmm")
def _mm(a: Arguments, _out: Any) -> int:
    return product(a["self"], a["mat2"])


@formula("aten::addmm", "aten::_addmm_activation", "aten::_sparse_addmm")
def _addmm(a: Arguments, _out: Any) -> int:
    return product(a["mat1"], a["mat2"])


@formula("aten::baddbmm", "aten::addbmm")
def _baddbmm(a: Arguments, _out: Any) -> int:
    return product(a["batch1"], a["batch2"])


@formula("aten::mv")
def _mv(a: Arguments, _out: Any) -> int:
    return product(a["self"], a["vec"])


@formula("aten::addmv")
def _addmv(a: Arguments, _out: Any) -> int:
    return product(a["mat"], a["vec"])


@formula("aten::dot", "aten::vdot")
def _dot(a: Arguments, _out: Any) -> int:
    return outer(a["self"].numel(), 1, a["self"])


@formula("aten::addr")
def _addr(a: Arguments, _out: Any) -> int:
    return outer(a["vec1"].numel(), a["vec2"].numel(), a["vec1"])


@formula("aten::linear")
def _linear(a: Arguments, _out: Any) -> int:
    inputs, weight = a["input"], a["weight"]
    return outer(inputs.numel() // weight.shape[1], elements(weight), inputs)


@formula("aten::matmul")
def _matmul(a: Arguments, out: Any) -> int:
    if a["self"].layout is not torch.strided or a["other"].layout is not torch.strided:
        return product(a["self"], a["other"])
    # Either side may be broadcast: each element of the result is one sum over the inner size.
    return outer(out.numel(), a["self"].shape[-1], out)


@formula("aten::matmul_backward")
def _matmul_backward(a: Arguments, _out: Any) -> int:
    # Each gradient is a product with the other factor, over the same three sizes.
    if a["grad"].is_nested:
        raise NoFormulaError("matrices of several sizes have no shape")
    products: int = sum(a["mask"])
    return products * outer(a["grad"].numel(), a["self"].shape[-1], a["grad"])


@formula("aten::linear_backward", "aten::mkldnn_linear_backward")
def _linear_backward(a: Arguments, _out: Any) -> int:
    products: int = sum(a["output_mask"][:2])
    return products * _rows_by_weight(a["grad_output"], a["weight"])


@formula("aten::mkldnn_linear_backward_input", "aten::mkldnn_linear_backward_weights")
def _mkldnn_linear_gradient(a: Arguments, _out: Any) -> int:
    return _rows_by_weight(a["grad_output"], a["weight"])


def _rows_by_weight(gradient: Tensor, weight: Tensor) -> int:
    """FLOPs of one gradient of a linear layer; ragged batches have a number of elements, too."""
    return outer(gradient.numel() // weight.shape[0], weight.numel(), gradient)


@formula("aten::_foreach_mm", "_native::_foreach_mm_native_0")
def _foreach_mm(a: Arguments, _out: Any) -> int:
    return sum(map(product, a["self"], a["mat2"]))


@formula("inductor::_mm_plus_mm")
def _mm_plus_mm(a: Arguments, _out: Any) -> int:
    return product(a["a"], a["b"]) + product(a["c"], a["d"])


@formula("aten::_grouped_mm", "aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2")
def _grouped_mm(a: Arguments, _out: Any) -> int:
    left, right = a["self"], a["mat2"]
    if left.dim() == 3 and right.dim() == 2:
        # Each group has all rows of its own matrix and some of the columns of the other.
        return outer(elements(left[0]), right.shape[-1], left)
    # Groups are slices of one size that only one matrix of each pair has whole, so the shapes say
    # it all and `offs` stays on the device. Rows after the last offset, if any, count as padding.
    return product(left, right)


@formula("aten::_trilinear")
def _trilinear(a: Arguments, _out: Any) -> int:
    """FLOPs of sum(i1 * i2 * i3) as the operator does it: two products of pairs.

    Each is a contraction at 2 FLOPs per term, or, where it sums over nothing, pointwise. Of
    `Bilinear` that is 2*B*O*I*J for x1 by the weight and 2*B*O*J for the result by x2.
    """
    unrolled = a.get("unroll_dim", 1)
    factors = (a["i1"], a["expand1"]), (a["i2"], a["expand2"]), (a["i3"], a["expand3"])
    first, second, third = (_sizes(*factor) for factor in factors)
    summed = set(a["sumdim"]) - {unrolled}
    pair = first | second
    rest = {d: size for d, size in pair.items() if d not in summed or d in third} | third
    flops = outer(prod(pair.values()), 1, a["i1"]) if summed - set(third) else 0
    return flops + (outer(prod(rest.values()), 1, a["i1"]) if summed & set(third) else 0)


def _sizes(tensor: Tensor, expanded: Sequence[int]) -> dict[int, int]:
    """Sizes by dimension of the result, where the expanded ones are not the tensor's own."""
    dimensions = range(tensor.dim() + len(expanded))
    own = [dimension for dimension in dimensions if dimension not in expanded]
    return dict(zip(own, tensor.shape, strict=True))


@formula("aten::_euclidean_dist")
def _euclidean_dist(a: Arguments, out: Any) -> int:
    # |x|^2 - 2xy + |y|^2 as one product: two columns more, for the squares and for ones.
    return outer(out.numel(), a["x1"].shape[-1] + 2, out)


_CDIST_ROWS = 25  # from more rows on, `compute_mode` None or 0 takes the product
_ALWAYS, _NEVER = 1, 2


@formula("aten::_cdist_forward")
def _cdist(a: Arguments, out: Any) -> int:
    mode = a.get("compute_mode") or 0
    rows = max(a["x1"].shape[-2], a["x2"].shape[-2])
    if a["p"] == 2 and mode != _NEVER and (mode == _ALWAYS or rows > _CDIST_ROWS):
        return _euclidean_dist(a, out)
    raise NoFormulaError("differences to a power are no contraction")


@formula("mkldnn::_linear_pointwise", "aten::mkldnn_linear")
def _mkldnn_linear(a: Arguments, _out: Any) -> int:
    inputs, weight = (a["X"], a["W"]) if "X" in a else (a["self"], a["weight"])
    return formulas.matmul(inputs.numel() // inputs.shape[-1], inputs.shape[-1], weight.shape[0])


@formula("mkl::_mkl_linear")
def _mkl_linear(a: Arguments, _out: Any) -> int:
    weight = a["ORI_W"]
    return formulas.matmul(a["X"].numel() // weight.shape[1], weight.shape[1], weight.shape[0])


@formula(
    "symm_mem::fused_matmul_reduce_scatter",
    "symm_mem::fused_scaled_matmul_reduce_scatter",
    "symm_mem::_async_input_mm",
)
def _matmul_then_scatter(a: Arguments, _out: Any) -> int:
    left, right = (a["A"], a["B"]) if "A" in a else (a["a"], a["b"])
    return product(left, right)


@formula("symm_mem::fused_all_gather_matmul", "symm_mem::fused_all_gather_scaled_matmul")
def _gather_then_matmul(a: Arguments, out: Any) -> int:
    # Every rank multiplies the whole gathered matrix.
    pairs = zip(out[1], a["Bs"], strict=True)
    return sum(outer(result.numel(), right.shape[0], right) for result, right in pairs)
