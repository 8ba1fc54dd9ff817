"""What each PyTorch operator is to the counter: a formula, a known zero, or on the list.

The literature counts contractions. Pointwise work, reductions, lookups, views, random numbers,
communication and profiling are known zeros. An operator that looks like a contraction and has no
formula, and any operator of a namespace that is not PyTorch's own, goes on the list of uncounted
operators: never a silent zero.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from inspect import signature
from typing import Literal

import torch

from computemeter.counters.registry import RegisteredFormula
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
        "flex_lib",
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
        "quantized_decomposed",
        "rngprims",
        "sparse",
        "static_runtime",
        "streams",
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


_ALIKE = 0.8
"""Of difflib's ratio; by its own 0.6 all names of one long namespace are alike."""

# They run the functions they are given, in eager mode, and do nothing else.
_CONTROL_FLOW = frozenset({"cond", "map_impl", "scan", "while_loop"})

# They run one operator, under a random state that they keep or put back: dropout in checkpoints.
_WRAPPERS = frozenset({"run_and_save_rng_state", "run_with_rng_state"})

OperatorClass = Literal["formula", "parts", "zero", "uncounted"]

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
        decomposes: is run as its parts, which are counted: it has no kernel of its own here, or
            runs the functions it is given.
        wraps_another: a higher-order operator that runs the one it is given.
    """

    name: str
    arguments: tuple[str, ...]
    formula: Formula | None = None
    uncounted: bool = False
    decomposes: bool = False
    wraps_another: bool = False


@cache
def operator_of(func: torch._ops.OpOverload) -> Operator:
    """Look an operator up; cached, because a counted step asks for each of its calls."""
    name = func._schema.name
    arguments = tuple(argument.name for argument in func._schema.arguments)
    if formula := formula_of(name):
        if isinstance(formula, RegisteredFormula):
            formula = formula.for_schema(func._schema)
        return Operator(name, arguments, formula)
    if _is_composite(func.name()):
        return Operator(name, arguments, decomposes=True)
    return Operator(name, arguments, uncounted=is_uncounted(name))


@cache
def higher_order_operator_of(func: torch._ops.HigherOrderOperator) -> Operator:
    """Look an operator up that takes functions (flex_attention, control flow, Triton kernels)."""
    name = f"higher_order::{func.name()}"
    if func.name() in _CONTROL_FLOW:
        return Operator(name, (), decomposes=True)
    if func.name() in _WRAPPERS:
        return Operator(name, (), wraps_another=True)
    formula = FORMULAS.get(name)
    _self, *arguments = signature(type(func).__call__).parameters
    return Operator(name, tuple(arguments), formula, uncounted=formula is None)


def formula_of(name: str) -> Formula | None:
    """Return an operator's formula; an in-place variant (`addmm_`) does the plain one's work."""
    return FORMULAS.get(name) or FORMULAS.get(name.removesuffix("_"))


def classify() -> dict[str, OperatorClass]:
    """Say what each operator that is registered with PyTorch now is to the counter.

    Operators that exist only as others ("parts") are counted by those.
    """
    return {name: _classify(name, overload) for name, overload in _first_overloads().items()}


def _first_overloads() -> dict[str, str]:
    overloads: dict[str, str] = {}
    for overload in sorted(torch._C._dispatch_get_all_op_names()):
        overloads.setdefault(overload.partition(".")[0], overload)
    return overloads


def _classify(name: str, overload: str) -> OperatorClass:
    if formula_of(name):
        return "formula"
    if _is_composite(overload):
        return "parts"
    return "uncounted" if is_uncounted(name) else "zero"


def misnamed_formulas(told: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the users' formulas that no operator has, each with the names that come closest.

    Only for now: an extension that is imported later may bring the operator.

    Args:
        told: names of formulas to leave out.
    """
    names = [name for name, formula in FORMULAS.items() if isinstance(formula, RegisteredFormula)]
    lost = [name for name in names if name not in told and not _is_known(name)]
    known = _first_overloads() if lost else ()
    return {name: get_close_matches(name, known, cutoff=_ALIKE) for name in lost}


def _is_known(name: str) -> bool:
    # The formula of the plain operator is that of its in-place variant, which may stand alone.
    return any(map(torch._C._jit_get_schemas_for_operator, (name, f"{name}_")))


def is_uncounted(name: str) -> bool:
    """Say whether an operator without a formula belongs on the list."""
    namespace, _, bare = name.partition("::")
    if namespace not in _OWN_NAMESPACES:
        return True
    return bool(_LOOKS_LIKE_CONTRACTION.search(bare)) and not _NO_CONTRACTION.search(bare)


def _is_composite(overload: str) -> bool:
    """Say whether the operator only exists as its parts (`conv2d` under inference mode).

    One that some backend has a kernel of its own for is left whole: run as its parts it might
    round differently, and counting must not change a bit.
    """

    def has_kernel(key: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(overload, key)

    return has_kernel("CompositeImplicitAutograd") and not any(map(has_kernel, _BACKENDS))
