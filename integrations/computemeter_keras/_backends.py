"""The three backends, as the callback sees them; only the one in use is imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from math import prod
from typing import Any, Protocol, cast
from weakref import ref

import keras

from computemeter.device_clock import DeviceClock
from computemeter.ranks import Ranks
from computemeter_keras._fit import Call, Fit

_MODULES = {
    "jax": "computemeter_keras._jax",
    "tensorflow": "computemeter_keras._tensorflow",
    "torch": "computemeter_keras._torch",
}


class Backend(Protocol):
    """One model on one backend.

    Attributes:
        counter: counts its steps; see `computemeter.counters`.
        ranks: the processes and devices that train together; None to go by `torch.distributed`.
        device_clock: None for PyTorch's.
    """

    counter: Any
    ranks: Ranks | None
    device_clock: DeviceClock | None

    def metered(self, call: Call, fit: Fit) -> Call:
        """Return the train function, telling `fit` of its steps."""

    def settle(self) -> None:
        """Wait for the steps that the host has left behind it, where the next thing would too."""


def backend_of(model: Any, warn: Callable[[str], None]) -> Backend:
    """Return the active backend for a model.

    Raises:
        NotImplementedError: the backend is none of the three.
    """
    name = keras.backend.backend()
    if name not in _MODULES:
        raise NotImplementedError(
            f"the Keras backend {name!r} is not metered: {', '.join(_MODULES)} are"
        )
    return cast("Backend", import_module(_MODULES[name]).KerasModel(model, warn))


class Parameters:
    """Counts a model's parameters as Keras does, all and those trained, once it is built."""

    def __init__(self, model: Any) -> None:
        # Weak: the meter must not keep a model alive that its user has let go of.
        self._model = ref(model)
        self._counts: tuple[int, int] | None = None

    def __call__(self) -> tuple[int, int] | None:
        """Return both numbers; None before they are known."""
        model = self._model()
        if self._counts is None and model is not None and model.weights:
            self._counts = _size(model.weights), _size(model.trainable_weights)
        return self._counts


def _size(variables: Any) -> int:
    return sum(prod(variable.shape) for variable in variables)
