"""The PyTorch side of a meter: names a step by what decides its work, and counts it live."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter, UninitializedParameter

from computemeter.counters.signature import signature
from computemeter.counters.torch_breakdown import Owner, by_module
from computemeter.counters.torch_graphs import ReplayWatch
from computemeter.counters.torch_mode import CountingMode
from computemeter.counters.torch_ops import misnamed_formulas
from computemeter.counters.torch_tally import Tally
from computemeter.devices import torch_device
from computemeter.families import StepKey
from computemeter.records import Count, Device
from computemeter.sinks import log_warning

_KINDS = ("cuda", "cpu")


class TorchCounter:
    """Counts the steps of one PyTorch model.

    Args:
        module: the model; where none is given, its parameters are those that counted steps touch.
        device: where the model trains; by default where the first counted contraction ran.
        warn: takes one line when a formula fails, or is for no operator.
    """

    recounts = True

    def __init__(
        self,
        module: nn.Module | None = None,
        device: torch.device | None = None,
        warn: Callable[[str], None] = log_warning,
    ) -> None:
        # Weak: the meter must not keep a model alive that its user has let go of.
        self._module = None if module is None else weakref.ref(module)
        parameters = () if module is None else module.parameters()
        self._parameters = [weakref.ref(parameter) for parameter in parameters]
        self._given = bool(self._parameters)
        self._device = device
        self._warn = warn
        self._mode: CountingMode | None = None
        self._replays = ReplayWatch()
        self._counts: tuple[int, int] | None = None
        self._owners: Mapping[Owner, int] = {}
        self._misnamed: set[str] = set()

    def key(self, batch: Any, facts: Hashable) -> StepKey:
        """Name the step by what is known before it runs and decides how much work it is."""
        autocast = _autocast() if torch._C._is_any_autocast_enabled() else None
        rest = (facts, autocast, torch.is_grad_enabled(), self._trained())
        return StepKey(_plain_signature(batch) or signature(batch), rest)

    def complete(self, key: StepKey) -> StepKey:
        """Rename a step that has just been counted by the parameters its count showed."""
        if self._given or not isinstance(key.rest, tuple):
            return key
        return key._replace(rest=(*key.rest[:-1], self._trained()))

    def start(self, _batch: Any = None) -> None:
        """Begin to count a step as it runs."""
        self._replays = ReplayWatch()
        self._replays.start()
        self._mode = CountingMode(self._alive(), learning=not self._given)
        self._mode.start()

    def stop(self) -> Count | None:
        """End the count; None where it shows nothing.

        A step without any contraction was not seen. One that replays a CUDA graph, or shows a
        backward pass alone (a forward pass in other threads, as DataParallel's), was seen in part.
        All are unknown, not zero and not less.

        Raises:
            Exception: what went wrong inside the counting.
        """
        mode, self._mode = self._mode, None
        if mode is None:
            return None
        mode.stop()
        self._replays.stop()
        tally = mode.tally
        self._learn(tally)
        for name, why in tally.unreadable.items():
            self._warn(f"the formula of {name} failed, its calls are uncounted: {why}")
        if mode.failure is not None:
            raise mode.failure
        if tally.one_sided:
            self._warn(
                "a step showed a backward pass and no forward pass: it is not counted, as work "
                "in other threads (DataParallel) cannot be seen"
            )
            return None
        if self._replays.replayed:
            return None
        if tally.doubtful:
            self._warn(
                "a step showed products in its backward pass and, in its forward pass, only "
                "operators that are not counted: work in other threads (DataParallel), if there "
                "was any, is not counted either, as it cannot be seen"
            )
        count = tally.count()
        if count.uncounted_ops:
            self._tell_misnamed()
        return count if count.model_flops or count.uncounted_ops else None

    def breakdown(self, module: nn.Module | None = None) -> dict[str, int]:
        """Return the model FLOPs of the last counted step by module, largest first."""
        known = module or (None if self._module is None else self._module())
        named = () if known is None else known.named_parameters(remove_duplicate=False)
        return by_module(self._owners, {id(parameter): name for name, parameter in named})

    def pause(self, paused: bool) -> None:
        """Count nothing while `paused`, if a step is being counted."""
        if self._mode is not None:
            self._mode.paused = paused

    def off(self) -> None:
        """Make sure that nothing is being counted any more."""
        if self._mode is not None:
            mode, self._mode = self._mode, None
            mode.stop()
            self._replays.stop()

    @property
    def torch_device(self) -> torch.device | None:
        """Where the model trains; None before that is known."""
        return self._device

    def device(self) -> Device | None:
        """Describe where the model trains; None before that is known."""
        return None if self._device is None else torch_device(self._device)

    def parameter_counts(self) -> tuple[int, int] | None:
        """Return the numbers of parameters and of those trained; None before they are known."""
        parameters = self._alive()
        lazy = any(isinstance(each, UninitializedParameter) for each in parameters)
        if parameters and not lazy and len(parameters) == len(self._parameters):
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            self._counts = sum(p.numel() for p in parameters), trained
        # Once the model is gone, what it was.
        return self._counts

    def _alive(self) -> list[Parameter]:
        return [parameter for ref in self._parameters if (parameter := ref()) is not None]

    def _trained(self) -> tuple[bool, ...]:
        return tuple([p.requires_grad for ref in self._parameters if (p := ref()) is not None])

    def _tell_misnamed(self) -> None:
        """Warn, once, of users' formulas with no operator, where one lacks its formula.

        Where all have theirs, such a formula is of an extension that this run does not use.
        """
        with suppress(Exception):  # a hint is not worth a count
            for name, closest in misnamed_formulas(self._misnamed).items():
                self._misnamed.add(name)
                like = f"; the closest are {', '.join(closest)}" if closest else ""
                self._warn(
                    f"the formula registered for {name} is not used: PyTorch knows no operator of "
                    f"that name{like}"
                )

    def _learn(self, tally: Tally) -> None:
        self._device = self._device or tally.device
        self._owners = tally.attribution.flops
        if not self._given:
            known = {id(parameter) for parameter in self._alive()}
            new = (p for p in tally.parameters.values() if id(p) not in known)
            self._parameters += [weakref.ref(parameter) for parameter in new]


def _plain_signature(batch: Any) -> Hashable:
    """Return what `signature` would for the usual batches, faster; None for any other."""
    if type(batch) is Tensor:
        return None if batch.is_nested else (batch.shape, batch.dtype)
    if type(batch) is not list and type(batch) is not tuple:
        return None
    parts = []
    for part in batch:
        if type(part) is not Tensor or part.is_nested:
            return None
        parts.append((part.shape, part.dtype))
    return tuple(parts)


def _autocast() -> Hashable:
    kinds = [kind for kind in _KINDS if torch.is_autocast_enabled(kind)]
    return tuple([(kind, torch.get_autocast_dtype(kind)) for kind in kinds])
