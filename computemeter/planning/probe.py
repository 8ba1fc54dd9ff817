"""Measures a few real training steps of a model, to forecast how long training will take.

This module knows no framework: an adapter makes the steps of one (`_torch_probe`, and
`computemeter_lightning._probe` and `computemeter_keras._probe`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from numbers import Real
from typing import Any

from computemeter.options import check_count
from computemeter.planning._apart import ModelTooLargeError, NotApartError, measure_apart
from computemeter.planning._batches import batch_size_of, left_as_they_are
from computemeter.planning._memory import usable_memory
from computemeter.planning._trial import (
    Counted,
    Dropped,
    Job,
    Message,
    Note,
    Orders,
    Ready,
    measure,
)
from computemeter.planning._untouched import untouched
from computemeter.planning.step_time import StepTime, StepTimeFit, check_installed, fit_step_time
from computemeter.sinks import describe

__all__ = [
    "Dropped",
    "ProbeError",
    "ProbeResult",
    "StepTime",
    "StepTimeFit",
    "probe",
    "probe_devices",
]

# A LightningModule is a torch.nn.Module, and so is a Keras model on PyTorch: these come first.
_ADAPTERS = (
    ("keras", "Model", "computemeter_keras._probe"),
    ("lightning.pytorch", "LightningModule", "computemeter_lightning._probe"),
    ("pytorch_lightning", "LightningModule", "computemeter_lightning._probe"),
    ("torch.nn", "Module", "computemeter.planning._torch_probe"),
)


class ProbeError(ValueError):
    """No step of the model could be run; the message says why, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe measured on one device, and the forecast that follows.

    Attributes:
        device_name: as the framework reports it.
        measured: by batch size, smallest first.
        dropped: batch sizes that were to be measured, and were not.
        fit: seconds = a + b x batch; None where fewer than two batch sizes were measured.
        flops_per_example: model FLOPs of one example's training step (forward and backward), None
            where they were not counted, or not completely.
        notes: what a reader must know, a sentence each.
    """

    device_name: str
    measured: tuple[StepTime, ...]
    dropped: tuple[Dropped, ...] = ()
    fit: StepTimeFit | None = None
    flops_per_example: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def saturates_at(self) -> int | None:
        """Batch size from which throughput is at 90 % of its highest; None where not known."""
        return self.fit.saturates_at if self.fit else None

    def seconds_per_step(self, batch_size: int) -> float | None:
        """Return the seconds of a step: as measured, where it was, and as fitted else.

        None where it is not known: the batch does not fit or failed, or only one was measured.
        """
        _check_positive("batch_size", batch_size)
        for step in self.measured:
            if step.batch_size == batch_size:
                return step.seconds
        for each in self.dropped:
            failed = each.failed and batch_size == each.batch_size
            if failed or (each.too_large and batch_size >= each.batch_size):
                return None
        return self.fit.seconds(batch_size) if self.fit else None

    def epoch_seconds(self, examples: int, batch_size: int) -> float | None:
        """Return the seconds of an epoch of so many examples, the last batch as large as it is.

        Loading of data, validation and checkpoints are not in it. None where `seconds_per_step`
        is.

        Args:
            examples: of an epoch.
            batch_size: of every step but the last.

        Raises:
            ValueError: a number is not above 0.
        """
        _check_positive("examples", examples)
        full = self.seconds_per_step(batch_size)
        if full is None:
            return None
        steps, rest = divmod(examples, batch_size)
        last = (self.seconds_per_step(rest) or full) if rest else 0.0
        return steps * full + last


def probe(
    model: Any,
    batch: Any,
    *,
    batch_sizes: Sequence[int] | None = None,
    loss: Any = None,
    optimizer: Any = None,
    steps: int = 10,
    warmup: int = 3,
    seconds: float = 120.0,
    memory_limit: int | None = None,
    in_process: bool | None = None,
    device: str | None = None,
) -> ProbeResult:
    """Run a few real training steps of a copy of the model, for several batch sizes.

    A step is forward pass, loss, backward pass and optimizer step. The model, its optimizer and
    all random numbers are left as they are; hooks of the model run. On a CPU the steps run in a
    process of their own, so that a batch that does not fit in memory ends that one, and is dropped.

    Args:
        model: a `torch.nn.Module`, a `LightningModule`, or a compiled Keras model.
        batch: an example of what it trains on, of any size: examples along the first dimension,
            the one that most of its arrays share. A pair is input and target; of anything else all
            goes to the model. Other sizes are made of its examples, over and over.
        batch_sizes: to measure; by default the given one, a quarter, half, twice and four times.
        loss: of a `torch.nn.Module`, called with its output and the target (the batch, where there
            is none); by default the output's own `loss`, or the mean of the output.
        optimizer: of a `torch.nn.Module`: the one that updates it, of which a copy is used, or a
            function that takes parameters and makes one; by default Adam.
        steps: timed for each batch size, at most; fewer where time is short.
        warmup: steps before them: the first ones allocate, compile, and make the optimizer's state.
        seconds: that measuring may take in all, starting a process left out.
        memory_limit: bytes that the process may take on a CPU; by default what is available.
        in_process: run in this process, where a batch that does not fit may end it; by default
            only on an accelerator, and where the model cannot be taken to another process.
        device: "cpu", "cuda", ...; by default that of the model. Of a Keras model the backend's.

    Raises:
        ModuleNotFoundError: numpy or scipy is not installed (`computemeter[trend]`).
        ProbeError: not one batch size could be measured.
        TypeError: the model is of no framework that is known.
        ValueError: an option's value is not accepted.
    """
    given = batch_size_of(batch)
    sizes = _sizes(batch_sizes, given)
    check_count("steps", steps)
    check_count("warmup", warmup)
    _check_positive("seconds", seconds)
    if memory_limit is not None:
        check_count("memory_limit", memory_limit)
    if device is not None and not isinstance(device, str):
        raise ValueError(f"device={device!r}: accepted is a text such as 'cpu' or 'cuda'")
    check_installed()
    name = _adapter_of(model)
    orders = Orders(
        batch_sizes=sizes,
        count_at=min(sizes, key=lambda size: abs(size - given)),
        steps=int(steps),
        warmup=int(warmup),
        seconds=float(seconds),
        device=device,
    )
    run = _Run(import_module(name), name, Job(model, batch, loss, optimizer), orders)
    with untouched(model, run.kind):
        run.run(in_process, memory_limit, given)
    return run.result()


def probe_devices(model: Any, batch: Any, **options: Any) -> tuple[ProbeResult, ...]:
    """Probe on the CPU and, where there is one, on the accelerator: CPU first.

    A device on which no step could be run is left out, and the other's notes say why.

    Args:
        model: as for `probe`; of a Keras model only its backend's device is probed.
        batch: as for `probe`.
        options: of `probe`; with `device` that one alone is probed.

    Raises:
        ProbeError: no device could run a step.
        ValueError: as `probe`.
        TypeError: as `probe`.
    """
    torch_s = _adapter_of(model).endswith(("_torch_probe", "lightning._probe"))
    if not torch_s or options.get("device") is not None:
        return (probe(model, batch, **options),)
    results, failures = list[ProbeResult](), list[str]()
    for device in _torch_devices():
        try:
            results.append(probe(model, batch, **{**options, "device": device}))
        except ProbeError as error:
            failures.append(f"Nothing was measured on {device}: {error}")
    if not results:
        raise ProbeError("; ".join(failures))
    return tuple(replace(each, notes=(*each.notes, *failures)) for each in results)


def _torch_devices() -> list[str]:
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu", *([found.type] if found is not None and found.type != "cpu" else [])]


class _Run:
    """One probe: gathers the messages, wherever they come from."""

    def __init__(self, adapter: Any, name: str, job: Job, orders: Orders) -> None:
        self._adapter, self._name, self._job, self._orders = adapter, name, job, orders
        self._said: list[Message] = []
        try:
            self.kind: str = adapter.device_kind(job, orders.device)
        except RuntimeError as error:
            raise ValueError(f"device={orders.device!r}: {describe(error)}") from error

    def run(self, in_process: bool | None, memory_limit: int | None, given: int) -> None:
        """Measure, in this process or in another.

        Args:
            in_process: as the user wants it.
            memory_limit: of another process, as the user wants it.
            given: examples in the user's batch.
        """
        if left := left_as_they_are(self._job.batch):
            sizes = ", ".join(map(str, left))
            text = f"Arrays of the batch with {sizes} rows, not {given}, are left as they are."
            self._said.append(Note(text))
        if in_process or (in_process is None and self.kind != "cpu"):
            self._here()
            return
        try:
            limit = usable_memory() if memory_limit is None else memory_limit
            self._gather(measure_apart(self._adapter, self._name, self._job, self._orders, limit))
        except ModelTooLargeError as error:
            raise ProbeError(f"the probe's process could not begin: {error}") from error
        except NotApartError as error:
            if in_process is False or memory_limit is not None:
                raise ProbeError(f"no other process can train this model: {error}") from error
            self._here_for_want_of_a_process(error, given)

    def result(self) -> ProbeResult:
        """Put together what was found.

        Raises:
            ProbeError: nothing was.
        """
        measured = tuple(each for each in self._said if isinstance(each, StepTime))
        dropped = tuple(each for each in self._said if isinstance(each, Dropped))
        if not measured:
            reasons = "; ".join(f"{each.batch_size}: {each.reason}" for each in dropped)
            raise ProbeError(f"no batch size could be measured ({reasons})")
        counted = [each.flops_per_example for each in self._said if isinstance(each, Counted)]
        return ProbeResult(
            device_name=next(each.device_name for each in self._said if isinstance(each, Ready)),
            measured=measured,
            dropped=tuple(sorted(dropped, key=lambda each: each.batch_size)),
            fit=fit_step_time(measured),
            flops_per_example=counted[0] if counted else None,
            notes=tuple(each.text for each in self._said if isinstance(each, Note)),
        )

    def _here(self) -> None:
        try:
            trial = self._adapter.trial(self._adapter.copied(self._job), self._orders.device)
        except Exception as error:
            raise ProbeError(
                f"the model cannot be copied and trained: {describe(error)}"
            ) from error
        self._gather(measure(trial, self._orders))

    def _here_for_want_of_a_process(self, error: NotApartError, given: int) -> None:
        self._said.append(
            Note(f"Measured in this process, as another cannot read the model ({error}).")
        )
        # Nothing holds a batch back here that is larger than memory; the given one is trained with.
        sizes = self._orders.batch_sizes
        fitting = tuple(size for size in sizes if size <= given)
        for size in sizes[len(fitting) :]:
            reason = (
                "not tried: no process of its own would keep it within memory (in_process=True "
                "tries it)"
            )
            self._said.append(Dropped(batch_size=size, reason=reason))
        self._orders = replace(
            self._orders, batch_sizes=fitting, count_at=max(fitting, default=given)
        )
        if fitting:
            self._here()

    def _gather(self, messages: Iterable[Message]) -> None:
        self._said.extend(messages)


def _adapter_of(model: Any) -> str:
    """Return the module that trains such a model; its framework is imported already."""
    for framework, base, adapter in _ADAPTERS:
        imported = sys.modules.get(framework)
        cls = getattr(imported, base, None) if imported else None
        if isinstance(cls, type) and isinstance(model, cls):
            return adapter
    raise TypeError(
        "a probe trains a torch.nn.Module, a LightningModule or a Keras model, "
        f"not a {type(model).__name__}"
    )


def _sizes(given: Sequence[int] | None, batch: int) -> tuple[int, ...]:
    if given is None:
        return tuple(sorted({max(1, batch // 4), max(1, batch // 2), batch, 2 * batch, 4 * batch}))
    try:
        sizes = tuple(given)
    except TypeError:
        raise ValueError(f"batch_sizes={given!r}: accepted are several whole numbers") from None
    for size in sizes:
        check_count("batch_sizes", size)
    if not sizes:
        raise ValueError("batch_sizes is empty")
    return tuple(sorted({int(size) for size in sizes}))


def _check_positive(name: str, value: float) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be above 0, got {value!r}")
