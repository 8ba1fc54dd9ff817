"""`computemeter estimate`: a run's compute by one method or both, worked out step by step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from computemeter.commands import CommandError
from computemeter.estimate import GPU_UTILIZATION
from computemeter.planning.factors import Method, duration
from computemeter.planning.frozen import TRAINING_PASSES, Frozen, FrozenAt
from computemeter.planning.machine import Machine
from computemeter.planning.quantities import flops_per_second, number, seconds, share
from computemeter.planning.worked import (
    Estimate,
    by_gpu_time,
    by_operations,
    by_parameters,
    compare,
)
from computemeter.table import printable
from computemeter.units import SECONDS_PER_HOUR, format_flops

_Read = TypeVar("_Read")
_NOTHING = (
    "give method 1 (--add-multiplies or --operations with --samples, or --parameters with "
    "--tokens), method 2 (--device or --peak with --time), or both; --examples shows how"
)
_ONLY_A_MACHINE = "--device or --peak lacks --time, --device-hours, or the operations of method 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options, as they were typed; None where they were not."""

    add_multiplies: str | None = None
    operations: str | None = None
    samples: str | None = None
    epochs: str | None = None
    parameters: str | None = None
    active: str | None = None
    tokens: str | None = None
    passes: str | None = None
    frozen: str | None = None
    frozen_at: FrozenAt | None = None
    device: str | None = None
    devices: str | None = None
    peak: str | None = None
    time: str | None = None
    device_hours: str | None = None
    utilization: str | None = None
    factor: str | None = None


def estimate(wishes: Wishes, *, as_json: bool = False) -> str:
    """Return the run worked out.

    Args:
        wishes: the factors of one method or of both.
        as_json: the same as JSON.

    Raises:
        CommandError: factors are missing, given twice, or no such quantities.
    """
    try:
        machine = _machine(wishes)
        one, two = _operations(wishes), _gpu_time(wishes, machine)
        if one is None and two is None:
            raise CommandError(_NOTHING if machine is None else _ONLY_A_MACHINE)
        found = compare(one, two)
    except ValueError as error:
        raise CommandError(printable(str(error))) from None
    if as_json:
        return json.dumps(_plain(found, machine), indent=2)
    return "\n".join(printable(line) for line in _lines(found, machine))


def _operations(wishes: Wishes) -> Method | None:
    ways = _given(wishes, "add_multiplies", "operations", "parameters")
    if len(ways) > 1:
        raise ValueError(f"give one of {_listed(ways)}, not several")
    if "parameters" in ways:
        return _language_model(wishes)
    _refuse(wishes, "without --parameters", "active", "tokens")
    if not ways:
        _refuse(
            wishes,
            "without --add-multiplies or --operations",
            *("samples", "epochs"),
            *("passes", "frozen", "frozen_at"),
        )
        return None
    way = ways[0]
    return by_operations(
        _number(wishes, way),
        _number(wishes, "samples", with_=way),
        _number(wishes, "epochs", 1),
        flops_per_add_multiply=2 if way == "add_multiplies" else 1,
        passes=_number(wishes, "passes", TRAINING_PASSES),
        frozen=_frozen(wishes),
        extra_factor=_number(wishes, "factor", 1),
    )


def _language_model(wishes: Wishes) -> Method:
    _refuse(wishes, "with --tokens, which count repetitions", "samples", "epochs", "factor")
    every = _number(wishes, "parameters")
    active = None if wishes.active is None else _number(wishes, "active")
    return by_parameters(
        every if active is None else active,
        _number(wishes, "tokens", with_="parameters"),
        all_parameters=None if active is None else every,
        passes=_number(wishes, "passes", TRAINING_PASSES),
        frozen=_frozen(wishes),
    )


def _frozen(wishes: Wishes) -> Frozen | None:
    if wishes.frozen is None:
        _refuse(wishes, "without --frozen", "frozen_at")
        return None
    if wishes.frozen_at is None:
        raise ValueError(
            "--frozen lacks --frozen-at: input, where no gradient enters the frozen part, or "
            "throughout, where it passes through (adapters)"
        )
    return Frozen(_read(wishes, "frozen", share), wishes.frozen_at)


def _machine(wishes: Wishes) -> Machine | None:
    utilization = GPU_UTILIZATION
    if wishes.utilization is not None:
        utilization = _read(wishes, "utilization", share)
    if wishes.device is not None:
        _refuse(wishes, "with --device, which has them: 4xA100", "peak", "devices")
        try:
            return Machine.named(wishes.device, utilization)
        except ValueError as error:
            raise ValueError(f"--device: {error}; or give its dense peak, --peak") from None
    if wishes.peak is not None:
        devices = _number(wishes, "devices", 1)
        return Machine(_read(wishes, "peak", flops_per_second), devices, utilization)
    _refuse(wishes, "without --device or --peak", "time", "device_hours", "devices", "utilization")
    return None


def _gpu_time(wishes: Wishes, machine: Machine | None) -> Method | None:
    if machine is None:
        return None
    factor = _number(wishes, "factor", 1)
    if wishes.device_hours is not None:
        _refuse(wishes, "with --device-hours, which say it", "time", "devices")
        if machine.devices != 1:
            raise ValueError("--device-hours are of all devices: leave the count out of --device")
        hours = _number(wishes, "device_hours")
        return by_gpu_time(machine, hours * SECONDS_PER_HOUR, summed=True, extra_factor=factor)
    if wishes.time is None:
        return None
    return by_gpu_time(machine, _read(wishes, "time", seconds), extra_factor=factor)


def _lines(found: Estimate, machine: Machine | None) -> Iterator[str]:
    for title, method in (
        ("Method 1, operations", found.operations),
        ("Method 2, GPU time", found.gpu_time),
    ):
        if method is not None:
            yield title
            yield from (f"  {step}" for step in method.steps())
            yield from (f"  note: {each}" for each in method.assumptions)
            yield ""
    if found.judgement is not None:
        yield f"GPU time / operations = {found.ratio:.3g}: {found.verdict}"
        yield f"  {found.diagnosis}"
    elif found.operations is not None and machine is not None:
        yield "Time"
        yield from (f"  {each}" for each in _time(found.operations.flops, machine))
    else:
        yield "One method only: nothing says whether it is right."


def _time(flops: int, machine: Machine) -> Iterator[str]:
    peak = format_flops(machine.peak_flops, "FLOP/s")
    ideal = duration(machine.ideal_seconds(flops))
    expected = duration(machine.expected_seconds(flops))
    yield f"{format_flops(flops)} / ({machine} of {peak}) = {ideal} at peak, the least possible"
    yield f"/ {machine.utilization:g} utilisation = {expected} expected"


def _plain(found: Estimate, machine: Machine | None) -> dict[str, Any]:
    work, ideal, expected = found.operations, None, None
    if work is not None and machine is not None:
        ideal, expected = machine.ideal_seconds(work.flops), machine.expected_seconds(work.flops)
    return {
        **found.to_dict(),
        "machine": None if machine is None else asdict(machine),
        "ideal_seconds": ideal,
        "expected_seconds": expected,
    }


# Options by name: what was typed, read, and what is said of it.


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _listed(names: list[str]) -> str:
    return " or ".join(map(_option, names))


def _given(wishes: Wishes, *names: str) -> list[str]:
    return [name for name in names if getattr(wishes, name) is not None]


def _refuse(wishes: Wishes, why: str, *names: str) -> None:
    if given := _given(wishes, *names):
        raise ValueError(f"{_option(given[0])} has no meaning {why}")


def _number(
    wishes: Wishes, name: str, default: float | None = None, with_: str | None = None
) -> float:
    if getattr(wishes, name) is None:
        if default is not None:
            return default
        raise ValueError(f"{_option(with_ or name)} lacks {_option(name)}")
    return _read(wishes, name, number)


def _read(wishes: Wishes, name: str, how: Callable[[str], _Read]) -> _Read:
    try:
        return how(getattr(wishes, name))
    except ValueError as error:
        raise ValueError(f"{_option(name)}: {error}") from None
