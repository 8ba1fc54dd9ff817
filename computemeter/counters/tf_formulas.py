"""TensorFlow operations and their FLOPs: each adapts an operation's shapes to a shared formula.

Matrix products are here, the other families in the files named after them. Importing these
modules imports no framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from computemeter import formulas
from computemeter.counters import (  # noqa: F401 - each registers its formulas
    tf_formulas_convolution,
    tf_formulas_linalg,
    tf_formulas_recurrent,
)
from computemeter.counters.tf_shapes import (
    FORMULAS,
    NoFormulaError,
    arithmetic,
    formula,
    sizes,
    tensorflow,
)

__all__ = ["FORMULAS", "NoFormulaError", "formula"]

_QUANTIZED = (
    "QuantizedMatMul",
    "_QuantizedMatMul",
    *(f"QuantizedMatMulWithBias{kind}" for kind in ("", "AndDequantize", "AndRelu")),
    *(f"QuantizedMatMulWithBias{kind}AndRequantize" for kind in ("", "AndRelu")),
)


@formula("MatMul", "_FusedMatMul", *_QUANTIZED)
def _matmul(op: Any) -> int:
    return _product(op, op.get_attr("transpose_a"), op.get_attr("transpose_b"))


@formula("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _batch_matmul(op: Any) -> int:
    return _product(op, op.get_attr("adj_x"), op.get_attr("adj_y"))


@formula("UniformQuantizedDot", "UniformQuantizedDotHybrid")
def _quantized_dot(op: Any) -> int:
    return _product(op, transpose_left=False, transpose_right=False)


def _product(op: Any, transpose_left: bool, transpose_right: bool) -> int:
    *left_batch, rows, inner = sizes(op.inputs[0])
    *right_batch, other, columns = sizes(op.inputs[1])
    if transpose_left:
        rows, inner = inner, rows
    if transpose_right:
        columns = other
    batch = prod(np.broadcast_shapes(tuple(left_batch), tuple(right_batch)))
    return formulas.matmul(rows, inner, columns, batch) * arithmetic(op.inputs[0])


@formula("Einsum", "XlaEinsum", "_MklEinsum")
def _einsum(op: Any) -> int:
    """FLOPs of an Einstein sum of two factors; one of one factor, or over nothing, has none.

    The operation sums first over what only one factor has (tensorflow/core/kernels/linalg/
    einsum_op_impl.h): that is a reduction, and no part of the product.
    """
    terms, _, result = op.get_attr("equation").decode().replace(" ", "").partition("->")
    factors = [
        _labels(term, sizes(tensor))
        for term, tensor in zip(terms.split(","), op.inputs, strict=True)
    ]
    if len(factors) == 1:
        return 0
    left, right = factors
    # TensorFlow refuses an ellipsis that is summed over.
    kept = {label for label in left | right if isinstance(label, int) or label in result}
    return _contract(left, right, kept) * arithmetic(op.inputs[0])


_Label = str | int


def _labels(term: str, shape: Sequence[int]) -> dict[_Label, int]:
    """Return a factor's sizes by label; an ellipsis' dimensions are numbered from the right."""
    before, dots, after = term.partition("...")
    hidden = len(shape) - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise NoFormulaError(f"{term} is no term for {shape}")
    labels: list[_Label] = [*before, *range(-hidden, 0), *after]
    return dict(zip(labels, shape, strict=True))


def _contract(left: dict[_Label, int], right: dict[_Label, int], kept: set[_Label]) -> int:
    # A hidden dimension of size 1 is broadcast: it is as if the factor did not have it.
    left, right = _without_broadcast(left, right), _without_broadcast(right, left)
    both = left.keys() & right.keys()
    inner = [left[label] for label in both - kept]
    if not inner:
        return 0
    return formulas.matmul(
        prod(size for label, size in left.items() if label in kept - both),
        prod(inner),
        prod(size for label, size in right.items() if label in kept - both),
        prod(left[label] for label in both & kept),
    )


def _without_broadcast(own: dict[_Label, int], other: dict[_Label, int]) -> dict[_Label, int]:
    return {
        label: size for label, size in own.items() if size == other.get(label, size) or size != 1
    }


@formula("XlaDot", "XlaDotV2")
def _xla_dot(op: Any) -> int:
    """FLOPs of XLA's general product: each element of the result is one sum."""
    xla = tensorflow(".compiler.xla.xla_data_pb2")
    numbers = xla.DotDimensionNumbers.FromString(op.get_attr("dimension_numbers"))
    left, right = sizes(op.inputs[0]), sizes(op.inputs[1])
    batch = prod(left[each] for each in numbers.lhs_batch_dimensions)
    inner = prod(left[each] for each in numbers.lhs_contracting_dimensions)
    if not batch * inner:
        return 0
    rows, columns = (prod(shape) // (batch * inner) for shape in (left, right))
    return formulas.matmul(rows, inner, columns, batch) * arithmetic(op.inputs[0])
