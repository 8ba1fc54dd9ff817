"""JAX primitives and their FLOPs: each adapts an equation to a shared formula.

Convolutions are in `jax_convolution`. As for PyTorch, factorisations count their leading terms;
what iterates until it converges has no formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, TypeVar

from computemeter import formulas
from computemeter.counters.jax_tally import Flops


@dataclass(frozen=True, slots=True)
class Call:
    """An equation as a formula sees it.

    Attributes:
        params: of the primitive.
        inputs: shapes and dtypes.
        outputs: shapes and dtypes.
        reversed_axes: how many axes of the second input were reversed on its way.
        backward: whether it belongs to a gradient.
        result_is_flipped: says whether the result goes on to be reversed.
    """

    params: Mapping[str, Any]
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    reversed_axes: int
    backward: bool
    result_is_flipped: Callable[[], bool]


class NoFormulaError(Exception):
    """A formula says that this equation is beyond it: it goes on the list."""


Formula = Callable[[Call], Flops]
F = TypeVar("F", bound=Callable[[Call], int | Flops])

FORMULAS: dict[str, Formula] = {}
"""Formula by name of the primitive."""


def formula(*primitives: str) -> Callable[[F], F]:
    """Register a function as the formula of these primitives."""

    def register(function: F) -> F:
        def wrapped(call: Call) -> Flops:
            flops = function(call)
            return flops if isinstance(flops, Flops) else Flops(flops)

        FORMULAS.update(dict.fromkeys(primitives, wrapped))
        return function

    return register


def multiply_add(array: Any) -> int:
    """FLOPs of one multiply-add; of complex numbers, 4 multiplications and 4 additions."""
    return 8 if array.dtype.kind == "c" else 2


@formula("dot_general", "scaled_dot")
def _dot(call: Call) -> int:
    contracted, batch = call.params["dimension_numbers"]
    return _contraction(call, contracted, batch)


@formula("ragged_dot_general")
def _ragged_dot(call: Call) -> int:
    # Every row meets the matrix of its own group: the groups are slices of one of the sizes.
    numbers = call.params["ragged_dot_dimension_numbers"]
    contracted, batch = numbers.dot_dimension_numbers
    return _contraction(call, contracted, batch, groups=numbers.rhs_group_dimensions)


def _contraction(call: Call, contracted: Any, batch: Any, groups: Sequence[int] = ()) -> int:
    left, right = call.inputs[:2]
    shared = {*contracted[1], *batch[1], *groups}
    columns: int = prod(size for axis, size in enumerate(right.shape) if axis not in shared)
    rows_by_inner: int = prod(left.shape)
    return multiply_add(left) * rows_by_inner * columns


@formula("scaled_matmul", "scaled_matmul_wrapper")
def _scaled_matmul(call: Call) -> int:
    batch, rows, inner = call.inputs[0].shape
    return formulas.matmul(rows, inner, call.inputs[1].shape[1], batch)


@formula("symmetric_product")
def _symmetric_product(call: Call) -> int:
    rows, inner = call.inputs[0].shape[-2:]
    return _of_matrices(call, formulas.matmul(rows, inner, rows))


def _of_matrices(call: Call, flops: int) -> int:
    """FLOPs of a batch, from those of one real matrix."""
    matrices = call.inputs[0]
    batch: int = prod(matrices.shape[:-2])
    return batch * flops * multiply_add(matrices) // 2


@formula("cholesky")
def _cholesky(call: Call) -> int:
    return _of_matrices(call, formulas.cholesky(call.inputs[0].shape[-1]))


@formula("lu")
def _lu(call: Call) -> int:
    return _of_matrices(call, formulas.lu(*call.inputs[0].shape[-2:]))


@formula("geqrf", "geqp3")
def _geqrf(call: Call) -> int:
    return _of_matrices(call, formulas.qr(*call.inputs[0].shape[-2:]))


@formula("qr")
def _qr(call: Call) -> int:
    rows, columns = call.inputs[0].shape[-2:]
    reflectors = min(rows, columns)
    width = rows if call.params["full_matrices"] else reflectors
    forming = formulas.householder_product(rows, width, reflectors)
    return _of_matrices(call, formulas.qr(rows, columns) + forming)


@formula("householder_product")
def _householder_product(call: Call) -> int:
    rows, columns = call.inputs[0].shape[-2:]
    reflectors = call.inputs[1].shape[-1]
    return _of_matrices(call, formulas.householder_product(rows, columns, reflectors))


@formula("triangular_solve")
def _triangular_solve(call: Call) -> int:
    matrix, solution = call.inputs[0], call.outputs[0]
    size = matrix.shape[-1]
    columns = prod(solution.shape) // size if size else 0
    return formulas.triangular_solve(size, columns) * multiply_add(solution) // 2


@formula("fft")
def _fft(call: Call) -> int:
    kind = call.params["fft_type"].name
    points = call.outputs[0] if kind == "IRFFT" else call.inputs[0]
    size = prod(call.params["fft_lengths"])
    flops = formulas.fft(size, prod(points.shape) // size if size else 0)
    # A real transform takes half of what a complex one does.
    return flops // 2 if kind in {"RFFT", "IRFFT"} else flops


# cuDNN's fused layers, which JAX runs on GPUs only.

_HEADS_FIRST = 1  # `layout`: 0 is (batch, length, heads, size), 1 has the heads before the length
_CAUSAL = (2, 3)  # `mask_type`: causal, and causal with padding


@formula("dot_product_attention_fwd", "dot_product_attention_fwd_wrapper")
@formula("dot_product_attention_fp8_fwd", "dot_product_attention_fp8_fwd_wrapper")
def _attention(call: Call) -> Flops:
    *batch_and_heads, queries, keys, head_dim, value_dim = _attention_shape(call)
    shape = (*batch_and_heads, queries, keys, head_dim, value_dim)
    return Flops(formulas.attention(*shape), causal=_masked(call, formulas.attention))


@formula("dot_product_attention_bwd", "dot_product_attention_bwd_wrapper")
@formula("dot_product_attention_fp8_bwd", "dot_product_attention_fp8_bwd_wrapper")
def _attention_backward(call: Call) -> Flops:
    shape = _attention_shape(call)
    return Flops(
        formulas.attention_backward(*shape),
        recomputed=formulas.attention_recompute(*shape[:-1]),
        causal=_masked(call, formulas.attention_backward),
    )


def _attention_shape(call: Call) -> tuple[int, int, int, int, int, int]:
    """Read batch, heads, queries, keys and the sizes of a key and of a value."""
    query, key, value = (array.shape for array in call.inputs[:3])
    if "mask_type" in call.params:
        _refuse_packed(call)
    length, heads = (2, 1) if call.params["layout"] == _HEADS_FIRST else (1, 2)
    return query[0], query[heads], query[length], key[length], query[3], value[3]


def _refuse_packed(call: Call) -> None:
    # Operands: query, key, value, bias, two lengths, two offsets, two page tables.
    offsets, pages = call.inputs[6].shape, call.inputs[8].shape
    if (len(offsets) == 2 and offsets[1] > 2) or len(pages) == 4:
        raise NoFormulaError("packed sequences and pages have lengths that no shape shows")


def _masked(call: Call, flops_of: Callable[..., int]) -> int:
    """FLOPs of the pairs that a causal mask hides: query i sees keys 0..i."""
    mask = call.params.get("mask_type")
    causal = call.params.get("use_causal_mask") or getattr(mask, "value", mask) in _CAUSAL
    if not causal:
        return 0
    batch, heads, queries, keys, head_dim, value_dim = _attention_shape(call)
    square = min(queries, keys)
    seen = square * (square + 1) // 2 + (queries - square) * keys
    return flops_of(batch, heads, 1, queries * keys - seen, head_dim, value_dim)


@formula("rnn_fwd")
def _lstm(call: Call) -> int:
    return _layers(call, call.inputs[0], formulas.recurrent)


@formula("rnn_bwd")
def _lstm_backward(call: Call) -> int:
    # After the gradients of the outputs and of both last states.
    return _layers(call, call.inputs[3], formulas.recurrent_backward)


def _layers(call: Call, inputs: Any, flops_of: Callable[..., int]) -> int:
    """Add up all layers and directions of cuDNN's LSTM; each layer reads both directions."""
    batch, steps, features = inputs.shape
    directions = 2 if call.params["bidirectional"] else 1
    hidden = call.params["hidden_size"]
    layer = partial(flops_of, "lstm", batch * steps)
    later = (call.params["num_layers"] - 1) * layer(directions * hidden, hidden)
    flops: int = directions * (layer(features, hidden) + later)
    return flops
