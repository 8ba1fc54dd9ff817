"""Telling recomputation from model work in a TensorFlow graph.

`tf.recompute_grad`, and with it `keras.remat`, runs a function once more in the backward pass, on
copies of its arguments. So that the copies wait for the gradient that comes in, it adds to each a
zero that is made from that gradient: `x + where(b == b, 0, nan)`, where b is the gradient's first
element as a truth value. Nothing else writes this. (tensorflow/python/ops/custom_gradient.py)

What depends on such a copy, and on the gradient through nothing but that zero, is the recomputed
forward pass. What depends on the gradient otherwise is the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_FROM_GRADIENT = ("Cast", "Max", "StridedSlice", "Reshape")  # from the truth value, backwards


def recomputed(ops: Iterable[Any]) -> set[Any]:
    """Return those of a graph's operations that repeat work of the forward pass."""
    copies = {op: gradient for op in ops if (gradient := _awaited_gradient(op)) is not None}
    if not copies:
        return set()
    zeros = {op: op.inputs[1] for op in copies}
    behind = _depend_on([op.outputs[0] for op in copies], zeros)
    return behind - _depend_on(copies.values(), zeros)


def _depend_on(tensors: Iterable[Any], zeros: Mapping[Any, Any]) -> set[Any]:
    """Return the operations that read these tensors, or what is made of them, but as a zero."""
    found, seen, waiting = set(), set(), list(tensors)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        for op in tensor.consumers():
            if zeros.get(op) is not tensor:
                found.add(op)
                waiting += _made_of(tensor, op)
    return found


def _made_of(tensor: Any, op: Any) -> list[Any]:
    if op.type == "IdentityN":  # custom gradients tie a function's results to its arguments
        pairs = zip(op.inputs, op.outputs, strict=True)
        return [result for argument, result in pairs if argument is tensor]
    return list(op.outputs)


def _awaited_gradient(op: Any) -> Any:
    """Return the gradient that an argument's copy waits for; None: the operation is no copy."""
    if op.type != "AddV2":
        return None
    zero = op.inputs[1].op
    if zero.type == "Cast":
        zero = zero.inputs[0].op
    if zero.type != "SelectV2" or zero.inputs[0].op.type != "Equal":
        return None
    left, right = zero.inputs[0].op.inputs
    return _behind(left) if left is right else None


def _behind(tensor: Any) -> Any:
    for kind in _FROM_GRADIENT:
        if tensor.op.type != kind:
            return None
        tensor = tensor.op.inputs[0]
    return tensor
