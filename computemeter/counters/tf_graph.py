"""Reading a TensorFlow graph: its functions, and which of its operations run.

TensorFlow traces gradients that nobody uses and drops them before it runs. What runs is what the
graph's results and its side effects need, and so inside each function of what is needed of the
function's results.

Importing this module imports no framework: the operations carry all that is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LOOPS = frozenset({"While", "StatelessWhile", "_While"})
BRANCHES = frozenset({"If", "StatelessIf", "_If", "Case", "StatelessCase"})

# Operations that run one function once: the attribute that names it, and where the function's
# arguments begin among the operation's inputs.
CALLS = {
    "PartitionedCall": ("f", 0),
    "StatefulPartitionedCall": ("f", 0),
    "TPUPartitionedCall": ("f", 0),
    "RemoteCall": ("f", 1),
    "XlaLaunch": ("function", 0),
}


class UnknownFunctionError(LookupError):
    """A graph names a function of which no graph can be had."""


@dataclass(slots=True)
class Live:
    """What runs in a graph.

    Attributes:
        ops: the operations that run, each with the positions of its outputs that are used.
        inputs: positions of the graph's inputs that are used.
    """

    ops: dict[Any, set[int]] = field(default_factory=dict)
    inputs: set[int] = field(default_factory=set)


def function_graph(op: Any, name: str) -> Any:
    """Return the graph of a function that an operation runs.

    Raises:
        UnknownFunctionError: neither the operation's graph nor those around it know the function.
    """
    graph = op.graph
    while graph is not None:
        function = graph._get_function(name)
        if getattr(function, "graph", None) is not None:
            return function.graph
        graph = getattr(graph, "outer_graph", None)
    raise UnknownFunctionError(name)


def functions(op: Any) -> list[str]:
    """Name every function among an operation's attributes."""
    names = []
    for attribute in op.node_def.attr.values():
        names += [attribute.func.name] if attribute.HasField("func") else []
        names += [function.name for function in attribute.list.func]
    return names


def callee(op: Any) -> Any:
    """Return the graph that an operation of `CALLS` runs."""
    return function_graph(op, op.get_attr(CALLS[op.type][0]).name)


def branches(op: Any) -> list[Any]:
    """Return the graphs of a conditional, of which one runs."""
    if op.type.endswith("Case"):
        return [function_graph(op, branch.name) for branch in op.get_attr("branches")]
    return [function_graph(op, op.get_attr(f"{side}_branch").name) for side in ("then", "else")]


def loop(op: Any) -> tuple[Any, Any]:
    """Return the graphs of a loop's condition and of its body."""
    cond, body = (function_graph(op, op.get_attr(part).name) for part in ("cond", "body"))
    return cond, body


class Liveness:
    """Finds what runs, in a graph and in the functions it calls; remembers what it found."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, frozenset[int]], Live] = {}

    def of(self, graph: Any, outputs: frozenset[int] | None = None) -> Live:
        """Return what runs in a graph of which these outputs are used; None: all of them."""
        wanted = frozenset(range(len(graph.outputs))) if outputs is None else outputs
        key = id(graph), wanted
        if key not in self._found:
            self._found[key] = self._search(graph, wanted)
        return self._found[key]

    def of_loop(self, op: Any, outputs: set[int]) -> frozenset[int]:
        """Return the positions of a loop's variables that somebody needs.

        A variable that only its own next value depends on is not needed, and neither is what
        computes it: the input's gradient at each time step of a recurrent layer that comes first.
        """
        cond, body = loop(op)
        needed = frozenset(outputs | self.of(cond).inputs)
        while True:
            more = needed | self.of(body, needed).inputs
            if more == needed:
                return needed
            needed = more

    def _search(self, graph: Any, outputs: frozenset[int]) -> Live:
        live = Live()
        places = {id(tensor): position for position, tensor in enumerate(graph.inputs)}
        waiting = [(graph.outputs[each].op, graph.outputs[each]) for each in outputs]
        waiting += [(op, None) for op in graph.control_outputs]
        while waiting:
            op, tensor = waiting.pop()
            if tensor is not None and id(tensor) in places:
                live.inputs.add(places[id(tensor)])
            used = live.ops.get(op)
            position = None if tensor is None else tensor.value_index
            if used is not None and (position is None or position in used):
                continue
            waiting += [(each, None) for each in op.control_inputs] if used is None else []
            used = live.ops.setdefault(op, set())
            used |= set() if position is None else {position}
            waiting += [(op.inputs[each].op, op.inputs[each]) for each in self._needs(op, used)]
        return live

    def _needs(self, op: Any, outputs: set[int]) -> Iterator[int]:
        """Yield the positions of the inputs that an operation needs for these outputs."""
        try:
            yield from self._needs_of_functions(op, outputs)
        except UnknownFunctionError:
            yield from range(len(op.inputs))

    def _needs_of_functions(self, op: Any, outputs: set[int]) -> Iterator[int]:
        if op.type in LOOPS:
            yield from self.of_loop(op, outputs)
        elif op.type in BRANCHES:
            used = set().union(*(self.of(each, frozenset(outputs)).inputs for each in branches(op)))
            yield from (0, *(position + 1 for position in used))
        elif op.type in CALLS:
            first = CALLS[op.type][1]
            used = self.of(callee(op), frozenset(outputs)).inputs
            yield from (*range(first), *(position + first for position in used))
        elif op.type == "IdentityN":
            # TensorFlow takes it apart: each output is a copy of its own input.
            yield from outputs
        else:
            yield from range(len(op.inputs))
