"""Keras on PyTorch: steps run as PyTorch runs them, and are counted live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from computemeter.counters.torch_counter import TorchCounter
from computemeter_keras._backends import Parameters
from computemeter_keras._fit import Call, Fit


class KerasModel:
    """One Keras model on PyTorch."""

    ranks = None
    device_clock = None

    def __init__(self, model: Any, warn: Callable[[str], None]) -> None:
        self._model = model
        self.counter = _Counter(model, warn)

    def settle(self) -> None:
        """Do nothing: a step is over when it returns, or what follows does not wait for it."""

    def metered(self, call: Call, fit: Fit) -> Call:
        """Return the train function; it takes a list of one batch."""

        def train_function(data: Any) -> Any:
            fit.begin(data[0], self._model.training)
            logs = call(data)
            fit.end()
            return logs

        return train_function


class _Counter(TorchCounter):
    """Counts parameters as Keras does: seeds are none."""

    def __init__(self, model: Any, warn: Callable[[str], None]) -> None:
        super().__init__(model, _device_of(model, warn), warn)
        self._of_keras = Parameters(model)

    def parameter_counts(self) -> tuple[int, int] | None:
        return self._of_keras()


def _device_of(model: Any, warn: Callable[[str], None]) -> torch.device:
    devices = {parameter.device for parameter in model.parameters()}
    accelerators = sorted((each for each in devices if each.type != "cpu"), key=str)
    device = next(iter(accelerators), torch.device("cpu"))
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        warn(f"the model is on several devices ({names}): method 2 takes it all to be on {device}")
    return device
