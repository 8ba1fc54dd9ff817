"""How long a training should take, over batch sizes and devices, before it is run.

The epochs fix the operations; a batch size only says in how many iterations they are done. Ideal
time is operations / peak, expected time the same at the share of peak that method 2 assumes, both
with devices that do not wait for each other. Source of this reckoning: You et al., "ImageNet
Training in Minutes", 2017 (arXiv:1709.05011).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from computemeter.planning.batch_size import is_past_limit, learning_rate_factor
from computemeter.planning.factors import Method
from computemeter.planning.machine import Machine
from computemeter.planning.plan_devices import Devices, named, probed, probed_machine
from computemeter.planning.plan_inputs import (
    WAYS,
    Work,
    check_utilization,
    operations,
    positive,
    whole,
    whole_numbers,
)
from computemeter.planning.plan_words import apart, notes, warnings
from computemeter.planning.quantities import check_total
from computemeter.units import SECONDS_PER_HOUR

if TYPE_CHECKING:
    from computemeter.planning.probe import ProbeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One batch size on one kind and number of devices.

    Attributes:
        batch_size: examples of one step, all devices together.
        batch_per_device: examples of one step on one device; None where that is not whole.
        iterations: optimizer steps of the whole training.
        flops: of the whole training, in FLOP: the same in every row; None where they are not known.
        learning_rate_factor: what linear scaling multiplies the learning rate by.
        learning_rate: the learning rate by that rule; None where none was given.
        past_limit: the batch is past what was reported to hold accuracy.
        device: name of one device.
        devices: how many train together.
        machine: the same with their peak; None where it is not known.
        ideal_seconds: of the whole training at their peak; None where either is not known.
        expected_seconds: at the assumed share of it; None where that is.
        measured_seconds: of the whole training on each device that was probed, alone: one for
            each of `Plan.probes`, None where such a batch could not be measured.
    """

    batch_size: int
    batch_per_device: int | None
    iterations: int
    flops: int | None
    learning_rate_factor: float
    learning_rate: float | None
    past_limit: bool
    device: str
    devices: int
    machine: Machine | None
    ideal_seconds: float | None
    expected_seconds: float | None
    measured_seconds: tuple[float | None, ...]

    @property
    def device_hours(self) -> float | None:
        """Expected hours (GPU-hours), summed over the devices; None where they are not known."""
        if self.expected_seconds is None:
            return None
        return self.devices * self.expected_seconds / SECONDS_PER_HOUR

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, fit for `json.dumps`."""
        return {**asdict(self), "device_hours": self.device_hours}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a training costs and how long it should take; `print` shows it as a table.

    Attributes:
        operations: method 1, with the factors it is the product of; None where the probe could
            not count them.
        examples: of one epoch.
        epochs: how often each is trained on.
        in_tokens: an example is a token, and a batch size a number of tokens.
        base_batch: the batch size that the factors of the learning rate refer to.
        network: as it was named.
        rows: by device, count and batch size, in the order asked for.
        notes: what the figures rest on, a line each.
        warnings: what to look at first, a line each.
        probes: what was measured on this machine's devices; none without a model.
    """

    operations: Method | None
    examples: int
    epochs: float
    in_tokens: bool
    base_batch: int
    network: str | None
    rows: tuple[PlanRow, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    probes: tuple[ProbeResult, ...] = ()

    @property
    def flops(self) -> int | None:
        """The whole training, in FLOP; None where it is not known."""
        return self.operations.flops if self.operations else None

    @property
    def pfs_days(self) -> float | None:
        """The whole training, in petaflop/s-days; None where it is not known."""
        return self.operations.pfs_days if self.operations else None

    @property
    def batches(self) -> tuple[PlanRow, ...]:
        """The rows of the first devices: one for each batch size."""
        return self.rows[: len({row.batch_size for row in self.rows})]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for `json.dumps`; FLOP are exact."""
        return {
            "flops": self.flops,
            "pfs_days": self.pfs_days,
            "formula": str(self.operations) if self.operations else None,
            "examples": self.examples,
            "epochs": float(self.epochs),
            "in_tokens": self.in_tokens,
            "base_batch": self.base_batch,
            "network": self.network,
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "probes": [asdict(probe) for probe in self.probes],
        }

    def __str__(self) -> str:
        from computemeter.planning.plan_table import render

        return render(self)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What linear scaling starts from; a base batch of 0 is the smallest."""

    learning_rate: float | None
    base_batch: int
    network: str | None


def plan(
    model: Any = None,
    batch: Any = None,
    *,
    examples: float | None = None,
    epochs: float = 1,
    flops_per_example: float | None = None,
    operations_per_pass: float | None = None,
    add_multiplies_per_pass: float | None = None,
    passes: float | None = None,
    parameters: float | None = None,
    tokens: float | None = None,
    batch_sizes: Iterable[float] = (),
    devices: Iterable[str | float] = (),
    counts: Iterable[float] = (1,),
    utilization: float | None = None,
    learning_rate: float | None = None,
    base_batch: float | None = None,
    network: str | None = None,
    **probe_options: Any,
) -> Plan:
    """Reckon operations, iterations and time of a training over batch sizes and devices.

    Examples:
        ResNet-50 as in "ImageNet Training in Minutes": 7.72e9 operations a pass, on a machine of
        200 petaFLOP/s. It prints about 1e18 operations and 5 seconds, and leaves out that training
        costs about 3 passes:

        >>> told = plan(operations_per_pass=7.72e9, passes=1, examples=1.28e6, epochs=90,
        ...             batch_sizes=(256, 8192), devices=(200e15,))
        >>> told.flops, round(told.rows[0].ideal_seconds, 2)
        (889344000000000000, 4.45)
        >>> [row.iterations for row in told.rows]
        [450000, 14130]

    The operations are given in one of four ways, or counted on the model.

    Args:
        model: a model to probe: a few real steps on this machine's CPU, and on its accelerator if
            it has one, give measured times beside the reckoned ones; see
            `computemeter.planning.probe.probe`, which takes `probe_options`.
        batch: one batch of the model's examples.
        examples: in the training set; with `tokens`, and no model, it may be left out, and an
            example is a token.
        epochs: passes over them.
        flops_per_example: FLOP of training on one example, forward and backward.
        operations_per_pass: adds and multiplies of one forward pass over one example, each
            counted as 1.
        add_multiplies_per_pass: multiply-adds of one forward pass over one example, each 2 FLOP.
        passes: cost of a training step in forward passes, with the operations of one or with
            parameters: 3, if left out; 1 leaves the backward pass out.
        parameters: of a dense language model, or those active per token, for 6PD.
        tokens: trained on, with `parameters`, repetitions included.
        batch_sizes: examples of one step, all devices together; with a model those that were
            measured, if left out.
        devices: names ("A100", "A100@fp32", "NVIDIA H100 80GB HBM3", "cpu" for this machine's) or
            dense peaks of one device ("200 PFLOP/s", or FLOP/s as a number); "4xA100" is always 4
            of them. With a model those it was probed on, if left out.
        counts: of devices.
        utilization: assumed share of peak; 0.33 for GPUs and TPUs and 0.17 for CPUs, if left out.
        learning_rate: the rate found at `base_batch`.
        base_batch: batch size that linear scaling refers to; the smallest, if left out.
        network: "AlexNet" or "ResNet-50": batches past what was reported of it are warned of.
        **probe_options: for the probe; `device` ("cpu", "cuda") probes on that one alone.

    Raises:
        ValueError: a figure is missing, not a number above 0, absurd, or given twice; a device is
            not known. In one line.
        TypeError: there is no such option.
    """
    if model is None and probe_options:
        raise TypeError(f"plan() takes {next(iter(probe_options))!r} only with a model")
    if model is not None and examples is None and tokens is not None:
        raise ValueError("with a model, give examples too: its batch is in examples, not tokens")
    if not isinstance(network, str | None):
        raise ValueError(f"network must be a name, got {network!r}")  # noqa: TRY004 - as all bad options
    figures = (flops_per_example, operations_per_pass, add_multiplies_per_pass, parameters)
    given = dict(zip(WAYS, figures, strict=True))
    reckon = partial(operations, examples=examples, epochs=epochs, passes=passes, tokens=tokens)
    # Whatever is wrong is said before the probe takes its time.
    by_probe = model is not None and all(value is None for value in given.values())
    todo = reckon({WAYS[0]: 1}) if by_probe else _checked(reckon(given))
    check_utilization(utilization)
    sizes = whole_numbers("batch_sizes", "a batch size", batch_sizes)
    numbers = whole_numbers("counts", "a count", counts)
    _require(counts=numbers)
    kinds = named(devices, numbers, utilization)
    rule = _Rule(
        None if learning_rate is None else float(positive("learning_rate", learning_rate)),
        0 if base_batch is None else whole("base_batch", base_batch),
        network,
    )
    probes = () if model is None else _probe(model, batch, sizes, probe_options)
    if probes:
        sizes = sizes or sorted({each.batch_size for probe in probes for each in probe.measured})
        kinds = kinds or probed([each.device_name for each in probes], numbers, utilization)
    if by_probe:
        flops = [each.flops_per_example for each in probes if each.flops_per_example]
        todo = _checked(reckon({WAYS[0]: flops[0]})) if flops else replace(todo, method=None)
    _require(batch_sizes=sizes, devices=kinds)
    rule = replace(rule, base_batch=rule.base_batch or min(sizes))
    rows = tuple(_row(todo, rule, probes, each, size) for each, size in product(kinds, sizes))
    alone = [probed_machine(each.device_name, utilization) for each in probes]
    return Plan(
        operations=todo.method,
        examples=todo.examples,
        epochs=todo.epochs,
        in_tokens=todo.in_tokens,
        base_batch=rule.base_batch,
        network=network,
        rows=rows,
        notes=tuple(notes(todo, rows, rule.base_batch, probes)),
        warnings=(*warnings(todo, rows, network, probes), *apart(todo, rows, probes, alone)),
        probes=probes,
    )


def _checked(todo: Work) -> Work:
    if todo.method:
        check_total(todo.method.flops)
    return todo


def _require(**lists: Sequence[object]) -> None:
    for name, values in lists.items():
        if not values:
            raise ValueError(f"{name} are missing: give at least one")


def _probe(
    model: Any, batch: Any, sizes: Sequence[int], options: dict[str, Any]
) -> tuple[ProbeResult, ...]:
    from computemeter.planning.probe import probe, probe_devices

    if batch is None:
        raise ValueError("batch is missing: with a model, one batch of what it trains on")
    wanted = {**options, "batch_sizes": sizes or None}
    device = wanted.pop("device", None)
    if device is not None:
        return (probe(model, batch, device=device, **wanted),)
    return probe_devices(model, batch, **wanted)


def _row(
    todo: Work, rule: _Rule, probes: Sequence[ProbeResult], devices: Devices, size: int
) -> PlanRow:
    number, machine = devices.count, devices.machine
    flops = todo.method.flops if todo.method else None
    factor = learning_rate_factor(size, rule.base_batch)
    epochs = (each.epoch_seconds(todo.examples, size) for each in probes)
    return PlanRow(
        batch_size=size,
        batch_per_device=None if size % number else size // number,
        iterations=todo.iterations(size),
        flops=flops,
        learning_rate_factor=factor,
        learning_rate=None if rule.learning_rate is None else rule.learning_rate * factor,
        past_limit=not todo.in_tokens and is_past_limit(size, rule.network),
        device=devices.name,
        devices=number,
        machine=machine,
        ideal_seconds=machine.ideal_seconds(flops) if machine and flops else None,
        expected_seconds=machine.expected_seconds(flops) if machine and flops else None,
        measured_seconds=tuple(None if one is None else one * todo.epochs for one in epochs),
    )
