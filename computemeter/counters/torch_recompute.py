"""Telling recomputation from model work while a PyTorch step is counted.

Eager code: an operator that runs inside a backward pass with gradients enabled is a forward
computation run again: activation checkpointing, reentrant or not. A gradient penalty
(`create_graph=True`) looks the same and is model work, so the engine's entry point is watched for
that flag; under it, only what runs below `torch.utils.checkpoint` is recomputation.

Compiled code: a backward graph runs with gradients disabled whatever is in it. There an operator
is recomputation if one with the same shapes and strides ran in the forward graph on the same
storage: the weight. (The gradient products of a weight read it transposed.) Fused attention,
convolution and recurrent layers have operators of their own for their gradients, so that their
forward operator in a backward graph is enough.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Hashable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

# The module through which every `backward` and `grad` reaches the engine.
_AUTOGRAD: Any = torch.autograd
_CHECKPOINT_FILE = "torch/utils/checkpoint.py"
# `_engine_run_backward(outputs, grad_outputs, keep_graph, create_graph, ...)`: after the outputs.
_CREATE_GRAPH = 2
_FORWARD_ONLY = ("attention", "convolution", "rnn")
_COMPILED_NODE = "CompiledFunctionBackward"

_Place = tuple[int, Any, int]


class _Engine:
    """The engine's entry point while any step is being counted; knows of each running backward.

    One wrapper for all watches: steps that are counted in two threads at once begin and end in any
    order, and each would put back what it found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches = 0
        self._original: Any = None
        # `create_graph` of the backward passes running now, by the thread that called them.
        self._running: dict[int, list[bool]] = {}

    def watch(self) -> None:
        with self._lock:
            self._watches += 1
            if self._watches == 1:
                self._original = _AUTOGRAD._engine_run_backward
                _AUTOGRAD._engine_run_backward = self._run_backward

    def unwatch(self) -> None:
        with self._lock:
            self._watches -= 1
            # What somebody else put in place meanwhile stays; ours below it only passes on.
            if not self._watches and _AUTOGRAD._engine_run_backward == self._run_backward:
                _AUTOGRAD._engine_run_backward = self._original

    def creates_graph(self) -> bool:
        """Say whether the backward pass running now records a graph of itself."""
        # A device's part of a backward pass runs in a thread of its own, which called none.
        own = self._running.get(threading.get_ident())
        running = own or [flag for flags in list(self._running.values()) for flag in flags]
        return bool(running) and running[-1]

    def _run_backward(self, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        positional = args[_CREATE_GRAPH] if len(args) > _CREATE_GRAPH else False
        thread = threading.get_ident()
        flags = self._running.setdefault(thread, [])
        flags.append(bool(kwargs.get("create_graph", positional)))
        try:
            return self._original(outputs, *args, **kwargs)
        finally:
            flags.pop()
            if not flags:
                self._running.pop(thread, None)


_ENGINE = _Engine()


class RecomputeWatch:
    """Watches the forward and backward passes of one counted step."""

    def __init__(self) -> None:
        self._watching = False
        # Where the operands of compiled forward graphs lay, by operator, shapes and strides.
        self._forward: defaultdict[Hashable, set[_Place]] = defaultdict(set)
        # Weakly: it keeps no memory, and while it is held no other storage gets the same name, as
        # freed memory gets the same address.
        self._storages: list[StorageWeakRef] = []

    def start(self) -> None:
        """Begin to watch."""
        _ENGINE.watch()
        self._watching = True

    def stop(self) -> None:
        """Stop watching; a second time does nothing."""
        if self._watching:
            self._watching = False
            _ENGINE.unwatch()

    def is_recomputation(self, operator: str, operands: Sequence[Tensor]) -> bool:
        """Say whether the operator that is running repeats work of the forward pass."""
        in_backward = torch._C._current_graph_task_id() != -1
        if torch.is_grad_enabled():
            return in_backward and (not _ENGINE.creates_graph() or _below_checkpoint())
        strided = [each for each in operands if each.layout is torch.strided]
        if in_backward:
            return _in_compiled_code() and self._repeats_forward(operator, strided)
        self._forward[_look(operator, strided)].update(_places(strided))
        self._storages += [StorageWeakRef(each.untyped_storage()) for each in strided]
        return False

    def _repeats_forward(self, operator: str, operands: Sequence[Tensor]) -> bool:
        seen = self._forward.get(_look(operator, operands))
        if seen is None:
            return False
        own_gradient = any(word in operator for word in _FORWARD_ONLY)
        return own_gradient or not seen.isdisjoint(_places(operands))


def _in_compiled_code() -> bool:
    node = torch._C._current_autograd_node()
    return node is not None and node.name() == _COMPILED_NODE


def _look(operator: str, operands: Sequence[Tensor]) -> Hashable:
    return operator, tuple([(each.shape, each.stride()) for each in operands])


def _places(operands: Sequence[Tensor]) -> set[_Place]:
    # With the position: the same storage as another operand is another product.
    return {
        (position, each.storage_offset(), each.untyped_storage()._cdata)
        for position, each in enumerate(operands)
    }


def _below_checkpoint() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.replace("\\", "/").endswith(_CHECKPOINT_FILE):
            return True
        frame = frame.f_back
    return False
