"""What a formula of a PyTorch operator is made of: its registry and the arithmetic of factors.

The formulas are in `torch_formulas*`, one file a family; they all register here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of one call.

    Attributes:
        model: what the computation needs.
        recomputed: what a fused kernel computes once more, in hardware.
        causal: the part of `model` that a causal mask could skip, where the call says it has one.
    """

    model: int
    recomputed: int = 0
    causal: int = 0


class NoFormulaError(Exception):
    """A formula says that this call is beyond it: the call goes on the list."""


Arguments = Mapping[str, Any]
Formula = Callable[[Arguments, Any], Flops]

FORMULAS: dict[str, Formula] = {}
"""Formula by schema name; takes the call's arguments by name and its result."""


F = TypeVar("F", bound=Callable[[Arguments, Any], int | Flops])


def formula(*operators: str) -> Callable[[F], F]:
    """Register a function as the formula of these operators."""

    def register(function: F) -> F:
        def wrapped(arguments: Arguments, out: Any) -> Flops:
            flops = function(arguments, out)
            return flops if isinstance(flops, Flops) else Flops(flops)

        FORMULAS.update(dict.fromkeys(operators, wrapped))
        return function

    return register


def product(left: Tensor, right: Tensor) -> int:
    """FLOPs of (..., m, k) times (..., k, n), or times a vector (k); complex and sparse too."""
    if right.layout is not torch.strided:
        if left.layout is not torch.strided:
            return outer(_meetings(left, right), 1, left)
        # Every row of the left factor meets every element that the right one stores.
        return outer(left.numel() // left.shape[-1], elements(right), left)
    columns = right.shape[-1] if right.dim() > 1 else 1
    return outer(elements(left), columns, left)


def elements(tensor: Tensor) -> int:
    """Elements that take part in a product: of a sparse factor only those stored."""
    if tensor.layout is torch.sparse_coo:
        return tensor._values().numel()  # `values` asks for a coalesced one
    if tensor.layout in _COMPRESSED:
        return tensor.values().numel()
    # Two 4-bit numbers share a byte.
    return tensor.numel() * (2 if tensor.dtype is torch.float4_e2m1fn_x2 else 1)


def outer(left: int, right: int, like: Tensor) -> int:
    """FLOPs of as many multiply-adds as there are pairs, in the arithmetic of `like`."""
    return multiply_add(like) * left * right


def multiply_add(tensor: Tensor) -> int:
    """FLOPs of one multiply-add; of complex numbers, 4 multiplications and 4 additions."""
    return 8 if tensor.is_complex() else 2


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def _meetings(left: Tensor, right: Tensor) -> int:
    """Count the pairs of stored elements that meet: columns of one against rows of the other."""
    inner = left.shape[-1]
    columns, rows = _stored(left, dimension=1), _stored(right, dimension=0)
    pairs = torch.bincount(columns, minlength=inner) * torch.bincount(rows, minlength=inner)
    # This reads from the device; a counted step can afford it.
    return int(pairs.sum())


def _stored(matrix: Tensor, *, dimension: int) -> Tensor:
    if matrix.layout is torch.sparse_coo and matrix.sparse_dim() == matrix.dim() == 2:
        return matrix._indices()[dimension]
    if matrix.layout is torch.sparse_csr and matrix.dim() == 2:
        if dimension == 1:
            return matrix.col_indices()
        rows = matrix.crow_indices().diff()
        return torch.repeat_interleave(torch.arange(len(rows), device=rows.device), rows)
    raise NoFormulaError(f"no pattern is read from two factors of {matrix.layout}")
