"""Telling recomputation from model work while a PyTorch step is counted.

An operator that runs inside a backward pass with gradients enabled is a forward computation run
again: that is activation checkpointing, reentrant or not. A gradient penalty
(`create_graph=True`) looks the same and is model work, so the engine's entry point is watched for
that flag; under it, only what runs below `torch.utils.checkpoint` is recomputation.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch

# The module through which every `backward` and `grad` reaches the engine.
_AUTOGRAD: Any = torch.autograd
_CHECKPOINT_FILE = "torch/utils/checkpoint.py"
# `_engine_run_backward(outputs, grad_outputs, keep_graph, create_graph, ...)`: after the outputs.
_CREATE_GRAPH = 2


class RecomputeWatch:
    """Watches the backward passes of one counted step."""

    def __init__(self) -> None:
        self._create_graph: list[bool] = []
        self._original: Any = None

    def start(self) -> None:
        """Begin to watch."""
        self._original = _AUTOGRAD._engine_run_backward
        _AUTOGRAD._engine_run_backward = self._run_backward

    def stop(self) -> None:
        """Stop watching; what somebody else put in place meanwhile stays."""
        if _AUTOGRAD._engine_run_backward == self._run_backward:
            _AUTOGRAD._engine_run_backward = self._original

    def is_recomputation(self) -> bool:
        """Say whether the operator that is running repeats work of the forward pass."""
        if torch._C._current_graph_task_id() == -1 or not torch.is_grad_enabled():
            return False
        penalty = bool(self._create_graph) and self._create_graph[-1]
        return not penalty or _below_checkpoint()

    def _run_backward(self, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        positional = args[_CREATE_GRAPH] if len(args) > _CREATE_GRAPH else False
        self._create_graph.append(bool(kwargs.get("create_graph", positional)))
        try:
            return self._original(outputs, *args, **kwargs)
        finally:
            self._create_graph.pop()


def _below_checkpoint() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.replace("\\", "/").endswith(_CHECKPOINT_FILE):
            return True
        frame = frame.f_back
    return False
