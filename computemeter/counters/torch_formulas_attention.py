"""Fused attention of PyTorch, dense or over packed sequences of several lengths.

Counted dense, whatever the mask, the window or the causality. Of packed sequences every pair
within one sequence counts, and no pair across two. Key heads that several query heads share count
for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from computemeter import formulas
from computemeter.counters.torch_flops import (
    Arguments,
    Flops,
    NoFormulaError,
    formula,
    outer,
)

_DENSE = (
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What attention multiplies.

    Attributes:
        heads: of the queries; of a dense call, of all examples together.
        pairs: pairs of a query and a key, per head.
        head_dim: size of a query and of a key.
        value_dim: size of a value.
        masked: of the pairs, those that a causal mask hides; 0 where the call says of none.
    """

    heads: int
    pairs: int
    head_dim: int
    value_dim: int
    masked: int = 0

    def forward(self) -> Flops:
        """FLOPs of the scores and of their sum over the values."""

        def of(pairs: int) -> int:
            return formulas.attention(1, self.heads, 1, pairs, self.head_dim, self.value_dim)

        return Flops(of(self.pairs), causal=of(self.masked))

    def backward(self) -> Flops:
        """FLOPs of the gradients.

        A fused backward does not keep the scores: it computes them once more.
        """

        def of(pairs: int) -> int:
            shape = 1, self.heads, 1, pairs, self.head_dim
            return formulas.attention_backward(*shape, self.value_dim)

        scores = formulas.attention_recompute(1, self.heads, 1, self.pairs, self.head_dim)
        return Flops(of(self.pairs), recomputed=scores, causal=of(self.masked))


def _dense(query: Tensor, key: Tensor, value: Tensor) -> _Shape:
    """Read (..., heads, length, size)."""
    *heads, queries, head_dim = query.shape
    return _Shape(prod(heads), queries * key.shape[-2], head_dim, value.shape[-1])


def _fused(a: Arguments) -> _Shape:
    """Read the arguments of `scaled_dot_product_attention`'s kernels."""
    shape = _dense(a["query"], a["key"], a["value"])
    if a.get("is_causal") is not True:
        return shape
    # Query i sees keys 0..i: of 3 queries and 5 keys, 1 + 2 + 3 pairs are seen.
    queries, keys = a["query"].shape[-2], a["key"].shape[-2]
    square = min(queries, keys)
    seen = square * (square + 1) // 2 + (queries - square) * keys
    return replace(shape, masked=queries * keys - seen)


@formula(
    *_DENSE,
    "aten::_scaled_dot_product_attention_math_for_mps",
    "higher_order::flex_attention",
)
def _attention(a: Arguments, _out: Any) -> Flops:
    return _fused(a).forward()


@formula(*(f"{name}_backward" for name in _DENSE), "higher_order::flex_attention_backward")
def _attention_backward(a: Arguments, _out: Any) -> Flops:
    return _fused(a).backward()


@formula("aten::_triton_scaled_dot_attention")
def _triton_attention(a: Arguments, _out: Any) -> Flops:
    return _dense(a["q"], a["k"], a["v"]).forward()


# The kernels below `scaled_dot_product_attention`, which also take packed sequences: all of them
# one after the other, and where each begins.


@formula(
    "aten::_flash_attention_forward",
    "aten::_flash_attention_forward_no_dropout_inplace",
    "aten::_efficient_attention_forward",
    "torch_attn::_varlen_attn",
    "torch_attn::_varlen_attn_out",
)
def _kernel(a: Arguments, _out: Any) -> Flops:
    return _length_first(a).forward()


@formula(
    "aten::_flash_attention_backward",
    "aten::_efficient_attention_backward",
    "torch_attn::_varlen_attn_backward",
)
def _kernel_backward(a: Arguments, _out: Any) -> Flops:
    return _length_first(a).backward()


@formula("aten::_cudnn_attention_forward")
def _cudnn(a: Arguments, _out: Any) -> Flops:
    return _heads_first(a).forward()


@formula("aten::_cudnn_attention_backward")
def _cudnn_backward(a: Arguments, _out: Any) -> Flops:
    return _heads_first(a).backward()


def _heads_first(a: Arguments) -> _Shape:
    """Read cuDNN's (batch, heads, length, size), or the packed (length, heads, size)."""
    if a["query"].dim() == 3:
        return _length_first(a)
    return _dense(a["query"], a["key"], a["value"])


def _length_first(a: Arguments) -> _Shape:
    """Read (batch, length, heads, size), or the packed (length, heads, size)."""
    query, key = a["query"], a["key"]
    *_batch, queries, heads, head_dim = query.shape
    starts = _any_of(a, "cum_seq_q", "cu_seqlens_q", "cu_seq_q")
    if starts is not None:
        pairs = sum(map(int.__mul__, _lengths(starts), _key_lengths(a)))
    elif _any_of(a, "seqused_k", "seqlen_k", "block_table") is not None:
        raise NoFormulaError("keys in a cache are not all used")
    else:
        pairs = prod(_batch) * queries * key.shape[-3]
    return _Shape(heads, pairs, head_dim, a["value"].shape[-1])


def _key_lengths(a: Arguments) -> list[int]:
    used = _any_of(a, "seqused_k", "seqlen_k")
    if used is not None:
        return _read(used)
    starts = _any_of(a, "cum_seq_k", "cu_seqlens_k", "cu_seq_k")
    if starts is None:
        raise NoFormulaError("nothing says how many keys each sequence has")
    return _lengths(starts)


def _lengths(starts: Tensor) -> list[int]:
    return _read(starts.diff())


def _read(lengths: Tensor) -> list[int]:
    # This waits for the device; a counted step can afford it.
    return [int(length) for length in lengths.tolist()]


def _any_of(a: Arguments, *names: str) -> Any:
    return next((a[name] for name in names if a.get(name) is not None), None)


# Whole layers, which inference mode runs as one operator.


@formula("aten::_native_multi_head_attention", "aten::_triton_multi_head_attention")
def _multi_head(a: Arguments, _out: Any) -> int:
    return _multi_head_attention(a["query"], a["key"], a["value"], a["embed_dim"])


@formula("aten::_transformer_encoder_layer_fwd")
def _encoder_layer(a: Arguments, _out: Any) -> int:
    source, width = a["src"], a["embed_dim"]
    feed_forward = a["ffn_weight_1"].numel() + a["ffn_weight_2"].numel()
    layers = outer(source.numel() // width, feed_forward, source)
    return _multi_head_attention(source, source, source, width) + layers


def _multi_head_attention(query: Tensor, key: Tensor, value: Tensor, width: int) -> int:
    """FLOPs of four projections and of attention; all heads together are as wide as the layer."""
    rows = 2 * query.numel() + key.numel() + value.numel()  # one projection in, one out
    lengths = zip(_example_lengths(query), _example_lengths(key), strict=True)
    pairs = sum(queries * keys for queries, keys in lengths)
    return outer(rows, width, query) + formulas.attention(1, 1, 1, pairs, width, width)


def _example_lengths(tensor: Tensor) -> list[int]:
    """Lengths of the examples of a batch; with a padding mask it arrives ragged."""
    if tensor.is_nested:
        return _read(tensor._nested_tensor_size()[:, 0])
    batch, length, _width = tensor.shape
    return [length] * batch
