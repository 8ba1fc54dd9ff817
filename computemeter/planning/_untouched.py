"""Keeps all that a copy shares with the user's model as it would be without the probe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from computemeter.randomness import same_random_numbers

_ACCELERATORS = ("cuda", "xpu")
"""Kinds of device whose generators PyTorch gives and takes back all at once."""


@contextmanager
def untouched(model: Any, kind: str) -> Iterator[None]:
    """Leave random numbers and the model's gradients as they were.

    The numbers are those of Python, NumPy and PyTorch, of its CUDA and XPU devices too; of
    libraries that are not imported there is nothing to keep.

    Args:
        model: the user's.
        kind: of the device that the steps run on, whose generator may begin only then.
    """
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy else None
    of_torch = _torch_states(torch, kind) if torch else []
    with same_random_numbers():
        gradients = _taken_off(model) if torch else []
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            if numpy:
                numpy.random.set_state(drawn)
            for restore, state in of_torch:
                restore(state)


def _torch_states(torch: Any, kind: str) -> list[tuple[Any, Any]]:
    """Return the generators' states, each behind the function that takes it back."""
    states = [(torch.set_rng_state, torch.get_rng_state())]
    for name in _ACCELERATORS:
        device = getattr(torch, name)
        if device.is_available() and (device.is_initialized() or name == kind):
            states.append((device.set_rng_state_all, device.get_rng_state_all()))
    return states


def _taken_off(model: Any) -> list[tuple[Any, Any]]:
    """Take the gradients off: a loss that closes over the parameters adds to them."""
    torch = sys.modules["torch"]
    parameters = list(model.parameters()) if isinstance(model, torch.nn.Module) else []
    found = [(each, each.grad) for each in parameters]
    for each in parameters:
        each.grad = None
    return found
