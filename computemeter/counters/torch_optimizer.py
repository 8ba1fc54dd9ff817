"""Telling an optimizer's own arithmetic from the model's.

A step's FLOPs are those of the forward and backward passes. Some optimizers multiply matrices of
their own (Muon, Adafactor, LBFGS), and many training loops run the passes inside
`optimizer.step(closure)`. Both are told apart by the call stack: what runs below a method of an
optimizer is the optimizer's, unless that method called the closure.
"""

from __future__ import annotations

import functools
import sys
from types import CodeType, FrameType
from typing import Any

import torch

from computemeter.counters.keras_optimizer import is_optimizer_file

# The wrapper that PyTorch puts around the `step` of every optimizer.
_WRAPPER = ("torch/optim/optimizer.py", "wrapper")


def is_optimizer_work() -> bool:
    """Say whether the operator that is running is an optimizer's own.

    Optimizers work with gradients disabled, so that for most of a step there is nothing to look up.
    """
    if torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1:
        return False
    below: set[CodeType] = set()
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if is_optimizer_file(frame.f_code.co_filename):
            return True
        if _is_wrapper(frame.f_code):
            return below.isdisjoint(_codes(_closure(frame)))
        below.add(frame.f_code)
        frame = frame.f_back
    return False


def _is_wrapper(code: CodeType) -> bool:
    file, name = _WRAPPER
    return code.co_name == name and code.co_filename.replace("\\", "/").endswith(file)


def _closure(frame: FrameType) -> Any:
    # Only of the wrapper: reading the variables of a user's frame would keep them alive.
    given = frame.f_locals
    arguments = given.get("args", ())
    return given.get("kwargs", {}).get("closure", arguments[1] if len(arguments) > 1 else None)


def _codes(closure: Any) -> set[CodeType]:
    """Return the code that a closure may be seen running, under whatever it is wrapped in."""
    codes: set[CodeType] = set()
    while closure is not None:
        for function in (closure, vars(type(closure)).get("__call__")):
            if (code := getattr(function, "__code__", None)) is not None:
                codes.add(code)
        inner = closure.func if isinstance(closure, functools.partial) else None
        closure = inner or getattr(closure, "__wrapped__", None)
    return codes
