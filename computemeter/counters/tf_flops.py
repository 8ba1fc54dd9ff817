"""Counts the FLOPs of a TensorFlow function from its graph.

The graph is the one that was traced, before TensorFlow optimises it. It is not run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from computemeter.counters.keras_optimizer import is_optimizer_file
from computemeter.counters.tf_formulas import FORMULAS
from computemeter.counters.tf_graph import (
    BRANCHES,
    CALLS,
    LOOPS,
    Liveness,
    UnknownFunctionError,
    branches,
    callee,
    function_graph,
    functions,
    loop,
)
from computemeter.counters.tf_ops import is_zero
from computemeter.counters.tf_precision import may_use_tf32
from computemeter.counters.tf_recompute import recomputed
from computemeter.counters.tf_shapes import factor
from computemeter.counters.tf_values import Scope, UnknownValueError, Values
from computemeter.records import Count

# Control flow of TensorFlow 1 has no functions: what it leaves out or repeats is not in the graph.
_UNSTRUCTURED = frozenset({"Switch", "RefSwitch", "_SwitchN", "Merge", "RefMerge"})


def count_graph(graph: Any, *, tf32: bool = False) -> Count:
    """Count what one run of a graph's function takes.

    Args:
        graph: `f.get_concrete_function(...).graph` of a `tf.function`, traced with every size of
            its arguments known.
        tf32: whether it will run where TensorFlow may round the float32 inputs of products to
            TF32: on NVIDIA's GPUs, unless switched off. Those products are "tf32" in `by_dtype`.

    Returns:
        The FLOPs by type of operation ("tf::MatMul"). What could not be counted, and why ever, is
        in `uncounted_ops`.
    """
    return _Walk(tf32=tf32).graph(graph, None, Scope()).count()


@dataclass(slots=True)
class _Tally:
    """What some of the operations add up to."""

    model: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    uncounted: Counter[str] = field(default_factory=Counter)
    recomputed: int = 0

    def add(self, other: _Tally, times: int = 1) -> None:
        for own, more in self._counters(other):
            for name, number in more.items():
                own[name] += number * times
        self.recomputed += other.recomputed * times

    def as_recomputation(self) -> _Tally:
        return _Tally(uncounted=self.uncounted, recomputed=self.hardware())

    def hardware(self) -> int:
        return self.model.total() + self.recomputed

    def __bool__(self) -> bool:
        return bool(self.hardware() or self.uncounted)

    def count(self) -> Count:
        model = self.model.total()
        parts = [
            {f"tf::{kind}": n for kind, n in part.items()} for part in (self.model, self.uncounted)
        ]
        return Count(model, self.hardware(), parts[0], dict(self.dtypes), parts[1])

    def _counters(self, other: _Tally) -> list[tuple[Counter[str], Counter[str]]]:
        return [
            (self.model, other.model),
            (self.dtypes, other.dtypes),
            (self.uncounted, other.uncounted),
        ]


def _listed(kind: str, *also: _Tally) -> _Tally:
    """List an operation, and what is listed inside it."""
    tally = _Tally(uncounted=Counter({kind: 1}))
    for other in also:
        tally.uncounted += other.uncounted
    return tally


def _is_optimizer_work(op: Any) -> bool:
    return any(is_optimizer_file(frame.filename) for frame in op.traceback or ())


class _Walk:
    """Goes through a graph and the functions that it runs."""

    def __init__(self, *, tf32: bool) -> None:
        self._tf32 = tf32
        self._liveness = Liveness()
        self._values = Values(self._liveness)

    def graph(self, graph: Any, outputs: frozenset[int] | None, scope: Scope) -> _Tally:
        """Count what runs in a graph of which these outputs are used."""
        ops = self._liveness.of(graph, outputs).ops
        again = recomputed(ops)
        tally = _Tally()
        for op, used in ops.items():
            part = self._operation(op, used, scope)
            tally.add(part.as_recomputation() if op in again else part)
        if tally:
            tally.uncounted.update(op.type for op in ops if op.type in _UNSTRUCTURED)
        return tally

    def _operation(self, op: Any, used: set[int], scope: Scope) -> _Tally:
        try:
            part = self._rule(op)(op, used, scope)
        except UnknownFunctionError:
            part = _listed(op.type)
        return _Tally() if part and _is_optimizer_work(op) else part

    def _rule(self, op: Any) -> Callable[[Any, set[int], Scope], _Tally]:
        for kinds, rule in (
            (LOOPS, self._loop),
            (BRANCHES, self._branches),
            (CALLS, self._call),
            (FORMULAS, self._formula),
            (_UNSTRUCTURED, self._nothing),
        ):
            if op.type in kinds:
                return rule
        if not is_zero(op.type):
            return lambda op, _used, _scope: _listed(op.type)
        return self._functions if functions(op) else self._nothing

    @staticmethod
    def _nothing(_op: Any, _used: set[int], _scope: Scope) -> _Tally:
        return _Tally()

    def _formula(self, op: Any, _used: set[int], _scope: Scope) -> _Tally:
        try:
            flops = FORMULAS[op.type](op)
            dtype = "tf32" if self._tf32 and may_use_tf32(op) else factor(op).dtype.name
        except Exception:  # noqa: BLE001 - one odd operation must not cost the whole count
            return _listed(op.type)
        if not flops:
            return _Tally()
        return _Tally(Counter({op.type: flops}), Counter({dtype: flops}))

    def _call(self, op: Any, used: set[int], scope: Scope) -> _Tally:
        graph, first = callee(op), CALLS[op.type][1]
        inside = self._values.inside_call(op, graph, scope, first)
        return self.graph(graph, frozenset(used), inside)

    def _branches(self, op: Any, used: set[int], scope: Scope) -> _Tally:
        """Count the branch that takes the most: which one runs depends on data."""
        tallies = [
            self.graph(each, frozenset(used), self._values.inside_call(op, each, scope, 1))
            for each in branches(op)
        ]
        most = max(tallies, key=_Tally.hardware)
        for each in tallies:
            most.uncounted |= each.uncounted
        return most

    def _loop(self, op: Any, used: set[int], scope: Scope) -> _Tally:
        cond, body = loop(op)
        inside = self._values.inside_loop(op, scope)
        once = self.graph(body, self._liveness.of_loop(op, used), inside)
        check = self.graph(cond, None, Scope())
        if not (once or check):
            return _Tally()
        try:
            trips = self._values.trips(op, scope)
        except UnknownValueError:
            return _listed("While", once, check)
        tally = _Tally()
        tally.add(once, trips)
        tally.add(check, trips + 1)
        return tally

    def _functions(self, op: Any, _used: set[int], _scope: Scope) -> _Tally:
        """List an operation that runs functions in its own way, if they do any work."""
        graphs = [function_graph(op, name) for name in functions(op)]
        return (
            _listed(op.type)
            if any(self.graph(each, None, Scope()) for each in graphs)
            else _Tally()
        )
