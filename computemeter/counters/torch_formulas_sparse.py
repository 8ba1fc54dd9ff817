"""Sparse products of PyTorch: what is stored multiplies, what is not stored costs nothing.

Semi-structured (2:4) factors store half of their elements. That half counts, as it does in every
other sparse layout, and not the dense product it stands for: the peaks that the count is held
against are dense ones, too.
"""

from __future__ import annotations

from typing import Any

from computemeter.counters.torch_flops import Arguments, elements, formula, outer, product


@formula("aten::hspmm", "aten::sspaddmm")
def _hybrid_mm(a: Arguments, _out: Any) -> int:
    return product(a["mat1"], a["mat2"])


@formula("aten::_sparse_sparse_matmul", "aten::_sparse_mm_reduce_impl")
def _sparse_mm(a: Arguments, _out: Any) -> int:
    return product(a["self"], a["other"])


@formula("aten::_sparse_mm_reduce_impl_backward")
def _sparse_mm_reduce_backward(a: Arguments, _out: Any) -> int:
    # Both gradients go over the stored elements and the columns of the dense factor.
    return sum(a["output_mask"]) * product(a["self"], a["grad_out"])


@formula("aten::sparse_sampled_addmm")
def _sampled_addmm(a: Arguments, _out: Any) -> int:
    # Only where `self` stores an element is the product computed.
    return outer(elements(a["self"]), a["mat1"].shape[-1], a["mat1"])


@formula("aten::_sparse_semi_structured_mm", "aten::_sparse_semi_structured_addmm")
def _semi_structured_mm(a: Arguments, _out: Any) -> int:
    return outer(a["mat1"].numel(), a["mat2"].shape[-1], a["mat1"])


@formula("aten::_sparse_semi_structured_linear")
def _semi_structured_linear(a: Arguments, _out: Any) -> int:
    inputs = a["input"]
    return outer(inputs.numel() // inputs.shape[-1], a["weight"].numel(), inputs)


@formula("aten::_cslt_sparse_mm")
def _cslt_mm(a: Arguments, out: Any) -> int:
    # The compressed factor also holds its pattern; the other one has the inner size.
    return outer(out.numel(), a["dense_B"].shape[0], out) // 2
