"""Telling recomputation from model work while a PyTorch step is counted.

Eager code: an operator that runs inside a backward pass with gradients enabled is a forward
computation run again: activation checkpointing, reentrant or not. A gradient penalty
(`create_graph=True`) looks the same and is model work, so the engine's entry point is watched for
that flag; under it, only what runs below `torch.utils.checkpoint` is recomputation.

Compiled code: a backward graph runs with gradients disabled whatever is in it. There an operator
is recomputation if one with the same shapes and strides ran in the forward pass on the same
memory: the weight. (The gradient products of a weight read it transposed.) Fused attention,
convolution and recurrent layers have operators of their own for their gradients, so that their
forward operator in a backward pass is enough.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Hashable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

# The module through which every `backward` and `grad` reaches the engine.
_AUTOGRAD: Any = torch.autograd
_CHECKPOINT_FILE = "torch/utils/checkpoint.py"
# `_engine_run_backward(outputs, grad_outputs, keep_graph, create_graph, ...)`: after the outputs.
_CREATE_GRAPH = 2
_FORWARD_ONLY = ("attention", "convolution", "rnn")


class RecomputeWatch:
    """Watches the forward and backward passes of one counted step."""

    def __init__(self) -> None:
        self._create_graph: list[bool] = []
        self._original: Any = None
        # Where the operands of the forward pass lay, by operator, shapes and strides.
        self._forward: defaultdict[Hashable, set[tuple[int, int]]] = defaultdict(set)

    def start(self) -> None:
        """Begin to watch."""
        self._original = _AUTOGRAD._engine_run_backward
        _AUTOGRAD._engine_run_backward = self._run_backward

    def stop(self) -> None:
        """Stop watching; what somebody else put in place meanwhile stays."""
        if _AUTOGRAD._engine_run_backward == self._run_backward:
            _AUTOGRAD._engine_run_backward = self._original

    def is_recomputation(self, operator: str, operands: Sequence[Tensor]) -> bool:
        """Say whether the operator that is running repeats work of the forward pass."""
        if torch._C._current_graph_task_id() == -1:
            self._forward[_look(operator, operands)].update(_addresses(operands))
            return False
        if not torch.is_grad_enabled():
            return self._repeats_forward(operator, operands)
        penalty = bool(self._create_graph) and self._create_graph[-1]
        return not penalty or _below_checkpoint()

    def _repeats_forward(self, operator: str, operands: Sequence[Tensor]) -> bool:
        seen = self._forward.get(_look(operator, operands))
        if seen is None:
            return False
        own_gradient = any(word in operator for word in _FORWARD_ONLY)
        return own_gradient or not seen.isdisjoint(_addresses(operands))

    def _run_backward(self, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        positional = args[_CREATE_GRAPH] if len(args) > _CREATE_GRAPH else False
        self._create_graph.append(bool(kwargs.get("create_graph", positional)))
        try:
            return self._original(outputs, *args, **kwargs)
        finally:
            self._create_graph.pop()


def _look(operator: str, operands: Sequence[Tensor]) -> Hashable:
    strided = [each for each in operands if each.layout is torch.strided]
    return operator, tuple([(each.shape, each.stride()) for each in strided])


def _addresses(operands: Sequence[Tensor]) -> set[tuple[int, int]]:
    # With the position: the same memory as another operand is another product.
    strided = [each for each in operands if each.layout is torch.strided]
    return {(position, each.data_ptr()) for position, each in enumerate(strided)}


def _below_checkpoint() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.replace("\\", "/").endswith(_CHECKPOINT_FILE):
            return True
        frame = frame.f_back
    return False
