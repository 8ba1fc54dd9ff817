"""Whose FLOPs: assigns each contraction of a counted step to the parameter it works with.

No module hooks: they would make compiled code compile again. In the forward pass an operator is
its weight's, known by the weight's memory; one without a weight (attention scores) goes beside the
last weight used. In the backward pass an operator is that of the forward operator whose gradient
it computes, known by the autograd node's sequence number; in compiled code, which has no node for
each, again by the weight's memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

UNKNOWN = "(unknown)"
_AUTOGRAD: Any = torch.autograd


class Owner(NamedTuple):
    """A parameter, by its identity; `beside` for an operator that used none and followed it."""

    parameter: int | None
    beside: bool = False


class Attribution:
    """Collects FLOPs by owner in one counted step."""

    def __init__(self, parameters: Iterable[nn.Parameter] = ()) -> None:
        self.flops: Counter[Owner] = Counter()
        self._of_memory: dict[int, int] = {}
        self._of_node: dict[int, Owner] = {}
        self._last = Owner(None)
        for parameter in parameters:
            self.learn(parameter)

    def learn(self, parameter: nn.Parameter) -> None:
        """Know a parameter by its memory; of a sharded one, by that of its shard here."""
        here = getattr(parameter, "_local_tensor", parameter)
        # A parameter without memory (lazy, on the meta device) works with none either.
        with suppress(RuntimeError, ValueError, NotImplementedError):
            self._of_memory[here.untyped_storage().data_ptr()] = id(parameter)

    def book(self, operands: Sequence[Tensor], flops: int) -> None:
        """Assign the FLOPs of the operator that has just run."""
        self.flops[self._owner(operands)] += flops

    def _owner(self, operands: Sequence[Tensor]) -> Owner:
        used = self._used(operands)
        if torch._C._current_graph_task_id() == -1:
            return self._forward_owner(used)
        node = torch._C._current_autograd_node()
        owner = None if node is None else self._of_node.get(node._sequence_nr())
        return owner or used or Owner(None)

    def _forward_owner(self, used: Owner | None) -> Owner:
        owner = used or Owner(self._last.parameter, beside=True)
        self._last = owner
        # The node of the running operator has been made, if it has one: it is the latest. One
        # that has none must not take the latest from its owner.
        self._of_node.setdefault(_AUTOGRAD._get_sequence_nr() - 1, owner)
        return owner

    def _used(self, operands: Sequence[Tensor]) -> Owner | None:
        for operand in operands:
            if operand.layout is torch.strided:
                known = self._of_memory.get(operand.untyped_storage().data_ptr())
                if known is not None:
                    return Owner(known)
        return None


def by_module(flops: Mapping[Owner, int], names: Mapping[int, str]) -> dict[str, int]:
    """Add FLOPs up by module, largest first.

    Args:
        flops: by owner.
        names: qualified name of each parameter ("encoder.0.weight"), by its identity.
    """
    modules: Counter[str] = Counter()
    for owner, value in flops.items():
        modules[_module(owner, names)] += value
    return dict(modules.most_common())


def _module(owner: Owner, names: Mapping[int, str]) -> str:
    name = None if owner.parameter is None else names.get(owner.parameter)
    if name is None:
        return UNKNOWN
    module = name.rpartition(".")[0]
    # What runs between layers (attention between its projections) is the module's around them.
    return (module.rpartition(".")[0] if owner.beside else module) or "(model)"
