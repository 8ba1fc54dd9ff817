"""Numbers that a TensorFlow graph holds without being run, and from them the trips of its loops.

A loop is counted if what its condition reads can be worked out: it starts from constants and each
step changes it by constants. The loop's counters are then run through, without the rest of the
body. How often a loop runs that depends on data is not known, whatever maximum it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from computemeter.counters.tf_graph import LOOPS, Liveness, loop
from computemeter.counters.tf_shapes import NoFormulaError, constant

MOST_TRIPS = 100_000
"""Loops are run through to here: a second. What runs longer is listed as uncounted."""


class UnknownValueError(ValueError):
    """A value depends on data."""


@dataclass(frozen=True, slots=True)
class _Stack:
    """A tensor list onto which a loop pushed the same value in every step.

    This is how the number of trips of an inner loop reaches the inner loop of the gradient.
    """

    value: Any


@dataclass(frozen=True, slots=True)
class Scope:
    """A graph's inputs as far as they are known, by the identity of the tensor."""

    known: Mapping[int, Any] = field(default_factory=dict)


def _strided_slice(op: Any, array: Any, begin: Any, end: Any, step: Any) -> Any:
    masks = {name: op.get_attr(f"{name}_mask") for name in ("begin", "end", "shrink_axis")}
    others = op.get_attr("ellipsis_mask") | op.get_attr("new_axis_mask")
    if others or len(begin) != 1:
        raise UnknownValueError(op.name)
    if masks["shrink_axis"]:
        return array[begin[0]]
    start = None if masks["begin"] else begin[0]
    return array[start : None if masks["end"] else end[0] : step[0]]


def _reduce(function: Any) -> Callable[..., Any]:
    def reduce(op: Any, array: Any, axis: Any) -> Any:
        axes = tuple(np.atleast_1d(axis))
        return function(array, axis=axes, keepdims=op.get_attr("keep_dims"))

    return reduce


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _op, *values: function(*values)


_FOLDED: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("Identity", "StopGradient", "EnsureShape"), _plain(lambda x, *_: x)),
    **dict.fromkeys(("Add", "AddV2"), _plain(np.add)),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Sign": _plain(np.sign),
    "Abs": _plain(np.abs),
    "FloorDiv": _plain(np.floor_divide),
    "RealDiv": _plain(np.divide),
    "FloorMod": _plain(np.mod),
    "Ceil": _plain(np.ceil),
    "Floor": _plain(np.floor),
    "Maximum": _plain(np.maximum),
    "Minimum": _plain(np.minimum),
    "Less": _plain(np.less),
    "LessEqual": _plain(np.less_equal),
    "Greater": _plain(np.greater),
    "GreaterEqual": _plain(np.greater_equal),
    "Equal": _plain(np.equal),
    "NotEqual": _plain(np.not_equal),
    "LogicalAnd": _plain(np.logical_and),
    "LogicalOr": _plain(np.logical_or),
    "LogicalNot": _plain(np.logical_not),
    **dict.fromkeys(("Select", "SelectV2"), _plain(np.where)),
    "Cast": lambda op, x: np.asarray(x).astype(op.outputs[0].dtype.as_numpy_dtype),
    "Reshape": _plain(np.reshape),
    "Squeeze": _plain(np.squeeze),
    "Pack": lambda op, *xs: np.stack(xs, axis=op.get_attr("axis")),
    "Max": _reduce(np.max),
    "Min": _reduce(np.min),
    "Prod": _reduce(np.prod),
    "StridedSlice": _strided_slice,
}


class Values:
    """Works out values of tensors."""

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness
        self._constants: dict[int, Any] = {}

    def of(self, tensor: Any, scope: Scope) -> Any:
        """Return a tensor's value.

        Raises:
            UnknownValueError: it depends on data.
        """
        return self._of(tensor, scope, {})

    def trips(self, op: Any, scope: Scope) -> int:
        """Return how often a loop's body runs.

        Raises:
            UnknownValueError: that depends on data.
        """
        return self._run_through(op, scope, frozenset())[0]

    def inside_call(self, op: Any, graph: Any, scope: Scope, first: int) -> Scope:
        """Return what is known inside a function whose arguments begin at an input."""
        pairs = zip(graph.inputs, list(op.inputs)[first:], strict=False)
        return self._bind({id(inner): outer for inner, outer in pairs}, scope)

    def inside_loop(self, op: Any, scope: Scope) -> Scope:
        """Return what is known inside a loop's body: what is the same in every step."""
        _cond, body = loop(op)
        same = {
            id(inner): outer
            for inner, last, outer in zip(body.inputs, body.outputs, op.inputs, strict=True)
            if _source(last) is inner
        }
        return self._bind(same, scope)

    def _bind(self, tensors: Mapping[int, Any], scope: Scope) -> Scope:
        known = {}
        for inner, outer in tensors.items():
            try:
                known[inner] = self.of(outer, scope)
            except UnknownValueError:
                continue
        return Scope(known)

    def _of(self, tensor: Any, scope: Scope, seen: dict[int, Any]) -> Any:
        key = id(tensor)
        if key in scope.known:
            return scope.known[key]
        if key in self._constants:
            return self._constants[key]
        if key not in seen:
            seen[key] = self._work_out(tensor, scope, seen)
        return seen[key]

    def _work_out(self, tensor: Any, scope: Scope, seen: dict[int, Any]) -> Any:
        op = tensor.op
        if op.type in LOOPS:
            return self._after_loop(op, tensor.value_index, scope)
        if op.type == "TensorListPopBack":
            stack: _Stack = self._of(op.inputs[0], scope, seen)
            return stack.value if tensor.value_index else stack
        if op.type in _FOLDED:
            return self._fold(op, [self._of(each, scope, seen) for each in op.inputs])
        return self._constant(tensor)

    @staticmethod
    def _fold(op: Any, values: list[Any]) -> Any:
        try:
            return _FOLDED[op.type](op, *values)
        except Exception as error:
            raise UnknownValueError(op.name) from error

    def _constant(self, tensor: Any) -> Any:
        try:
            value = self._constants[id(tensor)] = constant(tensor)
        except NoFormulaError as error:
            raise UnknownValueError(tensor.name) from error
        return value

    def _after_loop(self, op: Any, position: int, scope: Scope) -> Any:
        _cond, body = loop(op)
        last, first = body.outputs[position], body.inputs[position]
        if _source(last) is first:
            return self.of(op.inputs[position], scope)
        if last.op.type == "TensorListPushBack" and last.op.inputs[0] is first:
            return _Stack(self.of(last.op.inputs[1], self.inside_loop(op, scope)))
        return self._run_through(op, scope, frozenset({position}))[1][position]

    def _run_through(
        self, op: Any, scope: Scope, also: frozenset[int]
    ) -> tuple[int, dict[int, Any]]:
        """Return a loop's trips, and what its counters (and `also` these) are after the last."""
        cond, body = loop(op)
        counters = self._counters(op, also)
        state = {each: self.of(op.inputs[each], scope) for each in counters}
        for trips in range(MOST_TRIPS):
            if not self.of(cond.outputs[0], _state(cond, state)):
                return trips, state
            inside = _state(body, state)
            state = {each: self.of(body.outputs[each], inside) for each in counters}
        raise UnknownValueError(f"{op.name} runs too often to follow")

    def _counters(self, op: Any, also: frozenset[int]) -> set[int]:
        cond, body = loop(op)
        counters = set(self._liveness.of(cond).inputs | also)
        waiting = list(counters)
        while waiting:
            read = self._reads(body, waiting.pop())
            waiting += read - counters
            counters |= read
        return counters

    @staticmethod
    def _reads(body: Any, position: int) -> set[int]:
        """Return the inputs that one output is made of, side effects aside."""
        places = {id(tensor): place for place, tensor in enumerate(body.inputs)}
        found, seen, waiting = set(), set(), [body.outputs[position]]
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in places:
                found.add(places[id(tensor)])
            elif tensor.op not in seen:
                seen.add(tensor.op)
                waiting += tensor.op.inputs
        return found


def _state(graph: Any, state: Mapping[int, Any]) -> Scope:
    return Scope({id(graph.inputs[each]): value for each, value in state.items()})


def _source(tensor: Any) -> Any:
    """Return the tensor that this one is a copy of, or a stack after one more was taken off."""
    while tensor.op.type == "Identity" or (
        tensor.op.type == "TensorListPopBack" and not tensor.value_index
    ):
        tensor = tensor.op.inputs[0]
    return tensor
