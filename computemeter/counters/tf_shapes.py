"""What a formula of a TensorFlow operation is made of: its registry, sizes and constants.

The formulas are in `tf_formulas*`, one file a family; they all register here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

FORMULAS: dict[str, Callable[[Any], int]] = {}
"""Formula by type of operation; takes the operation."""

F = TypeVar("F", bound=Callable[[Any], int])


class NoFormulaError(Exception):
    """A formula says that this operation is beyond it: the operation goes on the list."""


def formula(*types: str) -> Callable[[F], F]:
    """Register a function as the formula of these types of operation."""

    def register(function: F) -> F:
        FORMULAS.update(dict.fromkeys(types, function))
        return function

    return register


def sizes(tensor: Any) -> tuple[int, ...]:
    """Return a tensor's sizes.

    Raises:
        NoFormulaError: the graph was traced without some of them.
    """
    if tensor.shape.rank is None or None in tensor.shape.as_list():
        raise NoFormulaError(f"{tensor.name} has the shape {tensor.shape}")
    return tuple(tensor.shape.as_list())


def constant(tensor: Any) -> Any:
    """Return the value of a tensor that is known without running the graph, as an array.

    Raises:
        NoFormulaError: it depends on data.
    """
    value = tensorflow(".python.framework.tensor_util").constant_value(tensor)
    if value is None:
        raise NoFormulaError(f"{tensor.name} is no constant")
    return value


def tensorflow(module: str = "") -> Any:
    """Return TensorFlow or a module of it; whoever has a graph has imported it already.

    It ships no types, and so is Any.
    """
    return import_module(f"tensorflow{module}")


def factor(op: Any) -> Any:
    """Return a tensor that an operation multiplies: the first that is not sizes or lengths."""
    numbers = [each for each in op.inputs if each.dtype.is_floating or each.dtype.is_complex]
    return (numbers or op.inputs)[0]


def arithmetic(tensor: Any) -> int:
    """Return how many times the FLOPs of real numbers this one's take.

    A complex multiply-add is 4 multiplications and 4 additions.
    """
    return 4 if tensor.dtype.is_complex else 1
