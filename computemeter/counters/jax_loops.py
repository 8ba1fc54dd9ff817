"""How often a `while` of JAX runs, where its equation proves it.

`fori_loop` is a `while` unless it is differentiated or its bounds are Python's. Its condition
compares a counter with a bound that does not change, and its body adds a constant to the counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from computemeter.counters.jax_primitives import TRANSPARENT

_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "ne": "ne"}


class _Place(NamedTuple):
    """One of the loop's operands: which of the consts or of the carry."""

    carried: bool
    position: int


def trip_count(params: Any, numbers: Sequence[int | None]) -> int | None:
    """Return how often the body runs; None where that is not proven.

    Args:
        params: of the `while` equation.
        numbers: its operands, where they are known integers: consts of the condition, consts of
            the body, the carry's first value.
    """
    cond, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
    consts = params["cond_nconsts"]
    carry = numbers[consts + params["body_nconsts"] :]
    comparison = _equation_of(cond.outvars[0], cond)
    if comparison is None or (relation := comparison.primitive.name) not in _MIRRORED:
        return None
    sides = [_origin(side, cond, consts) for side in comparison.invars]
    steps = [_step(side, body, params["body_nconsts"]) for side in sides]
    if steps[1]:
        relation, sides, steps = _MIRRORED[relation], sides[::-1], steps[::-1]
    step, start = steps[0], _number(sides[0], numbers, carry)
    bound = _number(sides[1], numbers, carry)
    if not step or steps[1] != 0 or start is None or bound is None:
        return None
    return _trips(relation, start, bound, step)


def _trips(relation: str, start: int, bound: int, step: int) -> int | None:
    if relation == "ne":
        trips, rest = divmod(bound - start, step)
        return trips if not rest and trips >= 0 else None
    if (relation in {"lt", "le"}) != (step > 0):
        return None  # it moves away from its bound
    inclusive = {"lt": 0, "gt": 0, "le": 1, "ge": -1}[relation]
    return len(range(start, bound + inclusive, step))


def _step(side: _Place | int | None, body: Any, consts: int) -> int | None:
    """Return what the body adds to an operand: 0 for one it leaves alone, None if unknown."""
    if not isinstance(side, _Place) or not side.carried:
        return None if side is None else 0
    out = body.outvars[side.position]
    return 0 if _origin(out, body, consts) == side else _added(side, out, body, consts)


def _added(side: _Place, out: Any, body: Any, consts: int) -> int | None:
    equation = _equation_of(out, body)
    if equation is None or (name := equation.primitive.name) not in {"add", "sub"}:
        return None
    first, second = (_origin(term, body, consts) for term in equation.invars)
    if name == "add" and second == side:
        first, second = second, first
    if first != side or not isinstance(second, int):
        return None
    return second if name == "add" else -second


def _number(
    side: _Place | int | None, numbers: Sequence[int | None], carry: Sequence[int | None]
) -> int | None:
    if not isinstance(side, _Place):
        return side
    return carry[side.position] if side.carried else numbers[side.position]


def _origin(atom: Any, jaxpr: Any, consts: int) -> _Place | int | None:
    """Follow a value back to an operand of the loop or to an integer in its text."""
    while (equation := _equation_of(atom, jaxpr)) is not None:
        if equation.primitive.name not in TRANSPARENT:
            return None
        atom = equation.invars[0]
    if hasattr(atom, "val"):
        return integer(atom.val)
    index = next((i for i, variable in enumerate(jaxpr.invars) if variable is atom), None)
    if index is None:
        return None
    return _Place(index >= consts, index - consts if index >= consts else index)


def _equation_of(atom: Any, jaxpr: Any) -> Any:
    return next((e for e in jaxpr.eqns if any(out is atom for out in e.outvars)), None)


def integer(value: Any) -> int | None:
    """Return a scalar as an int; None for what is no whole number."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", ())
    if dtype is not None and (dtype.kind not in "iu" or shape != ()):
        return None
    return int(value) if dtype is not None or type(value) is int else None
