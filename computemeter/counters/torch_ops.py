"""What each PyTorch operator is to the counter: a formula, a known zero, or on the list.

The literature counts contractions. Pointwise work, reductions, lookups, views, random numbers,
communication and profiling are known zeros. An operator that looks like a contraction and has no
formula, and any operator of a namespace that is not PyTorch's own, goes on the list of uncounted
operators: never a silent zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import torch

from computemeter.counters.torch_formulas import FORMULAS, Formula

# PyTorch's own namespaces: what is in them and does not look like a contraction is a known zero.
_OWN_NAMESPACES = frozenset(
    {
        "_c10d_functional",
        "_c10d_functional_autograd",
        "_dtensor",
        "_native",
        "_quantized",
        "aten",
        "c10d",
        "c10d_functional",
        "debug_mode_ops",
        "debugprims",
        "export",
        "fsdp",
        "inductor",
        "inductor_prims",
        "mkl",
        "mkldnn",
        "mkldnn_prepacked",
        "onednn",
        "prim",
        "prims",
        "profiler",
        "quantization",
        "quantized",
        "rngprims",
        "sparse",
        "static_runtime",
        "symm_mem",
    }
)

_LOOKS_LIKE_CONTRACTION = re.compile(
    r"mm($|_)|mv_?$|matmul|(^|_)v?dot$|(^|_)addr_?$|conv|linear|attention|lstm|gru|rnn"
    r"|encoder_layer|trilinear$|cdist|pdist|fft_[cr]2[cr]|linalg|cholesky|solve|svd|(^|_)eig|lstsq"
    r"|(^|_)qr$|orgqr|ormqr|geqrf|inverse|matrix_exp|lu_with_info"
)

# They match the pattern above and do no contraction.
_NO_CONTRACTION = re.compile(
    r"upsample|(prepack|unpack)(_|$)|reorder|flatten_weight|weight_norm|_thnn_|linalg_vector_norm"
    r"|linalg__powsum|linalg_cross|linalg_diagonal|linalg_check_errors|lu_unpack|slice_inverse"
    r"|convert_|resolve_|_mode$|_weight_to_|fbgemm_(pack|linear_quantize)|cell_params|linear_combination|_cufft_"
)


_BACKENDS = (
    "CPU",
    "CUDA",
    "MPS",
    "XPU",
    "MkldnnCPU",
    "SparseCPU",
    "SparseCsrCPU",
    "NestedTensorCPU",
)


@dataclass(frozen=True, slots=True)
class Operator:
    """How the counter treats one operator.

    Attributes:
        name: schema name ("aten::mm").
        arguments: names of the schema's arguments, in order.
        formula: None for a known zero and for an uncounted operator.
        uncounted: goes on the list.
        decomposes: has no kernel of its own here and is run as its parts.
    """

    name: str
    arguments: tuple[str, ...]
    formula: Formula | None = None
    uncounted: bool = False
    decomposes: bool = False


@cache
def operator_of(func: torch._ops.OpOverload) -> Operator:
    """Look an operator up; cached, because a counted step asks for each of its calls."""
    name = func._schema.name
    arguments = tuple(argument.name for argument in func._schema.arguments)
    # An in-place variant (`addmm_`) does the work of the plain one.
    if formula := FORMULAS.get(name) or FORMULAS.get(name.removesuffix("_")):
        return Operator(name, arguments, formula)
    if _is_composite(func):
        return Operator(name, arguments, decomposes=True)
    return Operator(name, arguments, uncounted=is_uncounted(name))


def is_uncounted(name: str) -> bool:
    """Say whether an operator without a formula belongs on the list."""
    namespace, _, bare = name.partition("::")
    if namespace not in _OWN_NAMESPACES:
        return True
    return bool(_LOOKS_LIKE_CONTRACTION.search(bare)) and not _NO_CONTRACTION.search(bare)


def _is_composite(func: torch._ops.OpOverload) -> bool:
    """Say whether the operator only exists as its parts (`conv2d` under inference mode).

    One that some backend has a kernel of its own for is left whole: run as its parts it might
    round differently, and counting must not change a bit.
    """

    def has_kernel(key: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)

    return has_kernel("CompositeImplicitAutograd") and not any(map(has_kernel, _BACKENDS))
