"""The PyTorch side of a meter: names a step by what decides its work, and counts it live."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch.nn import Parameter

from computemeter.counters.signature import signature
from computemeter.counters.torch_mode import CountingMode
from computemeter.devices import torch_device
from computemeter.families import StepKey
from computemeter.records import Count, Device
from computemeter.sinks import describe, log_warning

_KINDS = ("cuda", "cpu")


class TorchCounter:
    """Counts the steps of one PyTorch model.

    Args:
        parameters: the model's; where none are given, those that counted steps touch.
        device: where the model trains; by default where the first counted contraction ran.
        warn: takes one line when a formula fails.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter] = (),
        device: torch.device | None = None,
        warn: Callable[[str], None] = log_warning,
    ) -> None:
        # Weak: the meter must not keep a model alive that its user has let go of.
        self._parameters = [weakref.ref(parameter) for parameter in parameters]
        self._given = bool(self._parameters)
        self._device = device
        self._warn = warn
        self._mode: CountingMode | None = None

    def key(self, batch: Any, facts: Hashable) -> StepKey:
        """Name the step by what is known before it runs and decides how much work it is."""
        grad = torch.is_grad_enabled()
        rest = (facts, *map(_autocast, _KINDS), grad, self._trained())
        return StepKey(signature(batch), rest)

    def complete(self, key: StepKey) -> StepKey:
        """Rename a step that has just been counted by the parameters its count showed."""
        if self._given or not isinstance(key.rest, tuple):
            return key
        return key._replace(rest=(*key.rest[:-1], self._trained()))

    def start(self) -> None:
        """Begin to count a step."""
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
        mode.stop()
        self._learn(mode)
        for name, error in mode.unreadable.items():
            self._warn(f"the formula of {name} failed, its calls are uncounted: {describe(error)}")
        if mode.failure is not None:
            raise mode.failure
        count = mode.count()
        return count if count.model_flops or count.uncounted_ops else None

    def pause(self, paused: bool) -> None:
        """Count nothing while `paused`, if a step is being counted."""
        if self._mode is not None:
            self._mode.paused = paused

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


def _autocast(kind: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
