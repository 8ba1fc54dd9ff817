"""The three backends, as the callback sees them; only the one in use is imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from math import prod
from typing import Any, Protocol, cast

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


def parameters_of(model: Any) -> tuple[int, int]:
    """Count a model's parameters as Keras does: all, and those trained."""
    trained = sum(prod(variable.shape) for variable in model.trainable_weights)
    return model.count_params(), trained
