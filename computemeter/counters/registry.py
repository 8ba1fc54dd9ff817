"""Formulas of one's own: what `computemeter.register_formula` does.

Importing this module imports no framework.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from computemeter.counters import require_torch
from computemeter.sinks import describe, log_warning

if TYPE_CHECKING:
    import torch

    from computemeter.counters.torch_flops import Arguments, Flops

FormulaFunction = TypeVar("FormulaFunction", bound=Callable[..., Any])

_NAME = re.compile(r"\w+::\w+")


@overload
def register_formula(
    op: Any, fn: None = None, *, replace: bool = ...
) -> Callable[[FormulaFunction], FormulaFunction]: ...
@overload
def register_formula(op: Any, fn: FormulaFunction, *, replace: bool = ...) -> FormulaFunction: ...
def register_formula(
    op: Any, fn: Callable[..., Any] | None = None, *, replace: bool = False
) -> Callable[..., Any]:
    """Tell the meter how many FLOPs a PyTorch operator takes: a custom kernel, for example.

    A multiply-add is 2 FLOPs. The formula holds for all overloads of the operator and its in-place
    variant, in every meter of this process. If it raises or returns anything else than it should,
    that is warned of once and the call is listed as uncounted; training goes on.

    Args:
        op: `torch.ops.ns.name`, one of its overloads, or "ns::name", which need not exist yet;
            where there is none when another operator goes uncounted, that is warned of once.
        fn: called after each counted call of the operator, with the call's own arguments and
            `out=` its result: `fn(*args, out=..., **kwargs)`. It returns the FLOPs as an int >= 0,
            or the two of them (model, recomputed), the second being what the kernel computes once
            more and the model does not ask for. It must not change the tensors. Left out, this
            function is a decorator.
        replace: whether to replace a formula that there is.

    Returns:
        The formula.

    Raises:
        TypeError: `op` is no operator or `fn` cannot be called.
        ValueError: `op` is not a name like "ns::name", or has a formula already.

    Examples:
        >>> import torch, computemeter
        >>> @torch.library.custom_op("docs::project", mutates_args=())
        ... def project(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ...     return x @ w.T
        >>> @computemeter.register_formula("docs::project")
        ... def project_flops(x, w, *, out):
        ...     return 2 * out.numel() * x.shape[-1]
        >>> computemeter.Meter.count(project, torch.ones(32, 784), torch.ones(256, 784)).model_flops
        12845056
    """
    require_torch("register_formula")
    name = _name_of(op)
    if fn is None:
        return partial(_register, name, replace)
    return _register(name, replace, fn)


def _register(name: str, replace: bool, fn: FormulaFunction) -> FormulaFunction:
    if not callable(fn):
        raise TypeError(f"the formula of {name} must be callable, not {fn!r}")
    from computemeter.counters.torch_formulas import FORMULAS
    from computemeter.counters.torch_ops import operator_of

    if name in FORMULAS and not replace:
        raise ValueError(f"{name} has a formula already; pass replace=True to replace it")
    FORMULAS[name] = RegisteredFormula(name, fn)
    operator_of.cache_clear()
    return fn


def _name_of(op: Any) -> str:
    if isinstance(op, str):
        if not _NAME.fullmatch(op) or op.startswith("higher_order::"):
            raise ValueError(f'op must be the name of an operator like "aten::mm", not {op!r}')
        return op
    import torch
    from torch._library.custom_ops import CustomOpDef

    if isinstance(op, torch._ops.OpOverload):
        return str(op._schema.name)
    if isinstance(op, torch._ops.OpOverloadPacket):
        return str(op._qualified_op_name)
    if isinstance(op, CustomOpDef):
        return str(op._qualname)
    raise TypeError(f'op must be torch.ops.ns.name, an overload of it, or "ns::name", not {op!r}')


class RegisteredFormula:
    """A user's formula, made safe, in the form in which the counter calls its own."""

    def __init__(self, name: str, fn: Callable[..., Any]) -> None:
        self._name = name
        self._fn = fn
        self._keywords: frozenset[str] = frozenset()
        self._warned: set[str] = set()

    def for_schema(self, schema: torch.FunctionSchema) -> RegisteredFormula:
        """Return the formula for one overload: it decides which arguments go by keyword."""
        formula = copy.copy(self)  # and both warn once
        formula._keywords = frozenset(
            argument.name for argument in schema.arguments if argument.kwarg_only
        )
        return formula

    def __call__(self, arguments: Arguments, out: Any) -> Flops:
        """Ask the formula about a call.

        Raises:
            NoFormulaError: it failed; the call is uncounted.
        """
        from computemeter.counters.torch_flops import NoFormulaError

        args = [value for name, value in arguments.items() if name not in self._keywords]
        # The `out` of an out= variant is its result already.
        kwargs = {name: arguments[name] for name in arguments.keys() & self._keywords - {"out"}}
        try:
            return _flops(self._fn(*args, out=out, **kwargs))
        except Exception as error:
            self._warn(error)
            raise NoFormulaError(self._name) from error

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned.add(self._name)
            log_warning(
                f"the formula of {self._name} failed, its calls are uncounted: {describe(error)}"
            )


def _flops(value: Any) -> Flops:
    from computemeter.counters.torch_flops import Flops

    parts = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    if not all(isinstance(part, int) and not isinstance(part, bool) for part in parts):
        raise TypeError(f"it returned {value!r}; FLOPs are an int, or two: (model, recomputed)")
    if min(parts) < 0:
        raise ValueError(f"it returned {value!r}; FLOPs are not negative")
    return Flops(*parts)
