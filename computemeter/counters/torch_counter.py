"""The PyTorch side of a meter: names a step by what decides its work, and counts it live."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from typing import Any

import torch
from torch.nn import Parameter

from computemeter.counters.signature import signature
from computemeter.counters.torch_mode import CountingMode
from computemeter.devices import torch_device
from computemeter.records import Count, Device


class TorchCounter:
    """Counts the steps of one PyTorch model.

    Args:
        parameters: the model's; where none are given, those that counted steps touch.
        device: where the model trains; by default where the first counted contraction ran.
    """

    def __init__(
        self, parameters: Iterable[Parameter] = (), device: torch.device | None = None
    ) -> None:
        # Weak: the meter must not keep a model alive that its user has let go of.
        self._parameters = [weakref.ref(parameter) for parameter in parameters]
        self._given = bool(self._parameters)
        self._device = device
        self._mode: CountingMode | None = None
        self._stuck: CountingMode | None = None

    def key(self, batch: Any, facts: Hashable) -> tuple[Hashable, ...]:
        """Name the step by what is known before it runs and decides how much work it is."""
        autocast = torch.is_autocast_enabled("cuda"), torch.is_autocast_enabled("cpu")
        return (facts, signature(batch), autocast, torch.is_grad_enabled(), self._trained())

    def complete(self, key: tuple[Hashable, ...]) -> Hashable:
        """Rename a step that has just been counted by the parameters its count showed."""
        return key if self._given else (*key[:-1], self._trained())

    def start(self) -> None:
        """Begin to count a step."""
        if self._stuck is not None and self._stuck.stop():
            self._stuck = None
        self._mode = CountingMode()
        self._mode.start()

    def stop(self) -> Count | None:
        """End the count; None where it shows nothing.

        A step without any contraction was not seen (a replayed graph, work in other threads):
        that is unknown, not zero.

        Raises:
            Exception: what went wrong inside the counting.
        """
        mode, self._mode = self._mode, None
        if mode is None:
            return None
        if not mode.stop():
            self._stuck = mode
        self._learn(mode)
        if mode.failure is not None:
            raise mode.failure
        count = mode.count()
        return count if count.model_flops or count.uncounted_ops else None

    def off(self) -> None:
        """Make sure that nothing is being counted any more."""
        if self._mode is not None:
            mode, self._mode = self._mode, None
            mode.stop()

    def device(self) -> Device | None:
        """Describe where the model trains; None before that is known."""
        return None if self._device is None else torch_device(self._device)

    def parameter_counts(self) -> tuple[int, int] | None:
        """Return the numbers of parameters and of those trained; None before they are known."""
        parameters = [p for ref in self._parameters if (p := ref()) is not None]
        if not parameters:
            return None
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        return sum(p.numel() for p in parameters), trained

    def _trained(self) -> tuple[bool, ...]:
        return tuple([p.requires_grad for ref in self._parameters if (p := ref()) is not None])

    def _learn(self, mode: CountingMode) -> None:
        self._device = self._device or mode.device
        if not self._given:
            known = {id(p) for ref in self._parameters if (p := ref()) is not None}
            new = (p for p in mode.parameters.values() if id(p) not in known)
            self._parameters += [weakref.ref(parameter) for parameter in new]
