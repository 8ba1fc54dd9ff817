"""The arithmetic of a JAX contraction, which may be coarser than the dtype of its inputs.

By default XLA rounds float32 inputs to what the matrix units take, and `precision` says how much
of that the program allows, with `jax_default_matmul_precision` in it already:

    =========  ===========  ==========  ==========
    platform   DEFAULT      HIGH        HIGHEST
    =========  ===========  ==========  ==========
    cuda, gpu  tf32         tf32        float32
    tpu        bfloat16     float32     float32
    others     float32      float32     float32
    =========  ===========  ==========  ==========

The higher one of two operands counts. TF32 is a permission: older GPUs compute in float32 (see
`peaks.precision_peak`), and so does XLA on AMD's ("rocm"), whatever the precision. "float32" on a
TPU is several passes of bfloat16, at a rate that nobody states: no TPU has an fp32 peak in the
table, and method 2 is unknown there. CPUs compute in the dtype of the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax import numpy as jnp
from jax.lax import DotAlgorithm, DotAlgorithmPreset, Precision

# What float32 is rounded to, and the most precise level that still allows it.
_ROUNDED = {
    "cuda": ("tf32", Precision.HIGH),
    "gpu": ("tf32", Precision.HIGH),
    "tpu": ("bfloat16", Precision.DEFAULT),
}

# Presets are called after the types of both operands and of the sum, and how many products it
# takes if not one: "BF16_BF16_F32_X3".
_TYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "TF32": "tf32",
    "F32": "float32",
    "F64": "float64",
}


def arithmetic(params: Mapping[str, Any], dtype: str, platform: str) -> str:
    """Name what a contraction of inputs of a dtype is computed in.

    Args:
        params: of the primitive.
        dtype: of its inputs.
        platform: "cpu", "gpu" or "cuda" (NVIDIA's), "rocm" or "tpu".
    """
    if platform == "cpu":
        return dtype  # even where an algorithm is named: `BF16_BF16_F32` rounds nothing there
    precision = params.get("precision")
    if isinstance(precision, DotAlgorithmPreset) and precision is not DotAlgorithmPreset.DEFAULT:
        return _of_preset(precision, dtype)
    if isinstance(precision, DotAlgorithm):
        products = precision.num_primitive_operations
        return _times(jnp.dtype(precision.lhs_precision_type).name, products)
    if dtype != "float32" or platform not in _ROUNDED:
        return dtype
    rounded, most_precise = _ROUNDED[platform]
    return rounded if _level(params) <= most_precise.value else dtype


def _level(params: Mapping[str, Any]) -> int:
    """Return the value of the `Precision` that a primitive asks for."""
    if "cudnn_allow_tf32" in params:  # cuDNN's LSTM
        precisions = [Precision.HIGH if params["cudnn_allow_tf32"] else Precision.HIGHEST]
    elif "precision" not in params:  # a factorisation
        precisions = [Precision.HIGHEST]
    elif isinstance(params["precision"], tuple):
        precisions = list(params["precision"])
    else:
        precisions = [Precision.DEFAULT]
    level: int = max(precision.value for precision in precisions)
    return level


def _of_preset(preset: DotAlgorithmPreset, dtype: str) -> str:
    operand, *_, last = preset.name.split("_")
    if operand not in _TYPES:
        return dtype  # "ANY_F8_..."
    return _times(_TYPES[operand], int(last[1:]) if last.startswith("X") else 1)


def _times(dtype: str, products: int) -> str:
    # The peak of the dtype would be several times too high, that of float32 as much too low: a
    # name of its own has none, and method 2 is unknown.
    return dtype if products == 1 else f"{dtype}_x{products}"
