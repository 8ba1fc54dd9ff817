"""What a plan reckons with: kinds of devices, each in one number or several."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from computemeter.cpu import cpu_device
from computemeter.estimate import CPU_UTILIZATION, GPU_UTILIZATION
from computemeter.peak_table import normalise
from computemeter.peaks import precision_peak
from computemeter.planning.machine import Machine
from computemeter.planning.plan_inputs import positive, several
from computemeter.planning.quantities import flops_per_second
from computemeter.units import format_flops

_CPU = re.compile(r"cpu(?:@(?P<precision>\w+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Devices:
    """A number of devices of one kind.

    Attributes:
        name: of one.
        count: how many train together.
        machine: the same with their peak; None where it is not known.
    """

    name: str
    count: int
    machine: Machine | None


def named(
    devices: Iterable[str | float], counts: Iterable[int], utilization: float | None
) -> list[Devices]:
    """Return every device in every number, each once; one that brings its number in that alone.

    Raises:
        ValueError: as `machine`.
    """
    kinds = [machine(device, utilization) for device in several("devices", devices)]
    numbers = list(counts)
    return _each_once(
        Devices(kind.name, number, replace(kind, devices=number))
        for kind in kinds
        for number in (numbers if kind.devices == 1 else [int(kind.devices)])
    )


def probed(names: Iterable[str], counts: Iterable[int], utilization: float | None) -> list[Devices]:
    """Return devices that were probed, in every number; without a machine if without a peak."""
    numbers = list(counts)
    found = [(name, probed_machine(name, utilization)) for name in names]
    return _each_once(
        Devices(kind.name if kind else name, number, kind and replace(kind, devices=number))
        for name, kind in found
        for number in numbers
    )


def probed_machine(name: str, utilization: float | None) -> Machine | None:
    """Return one device that was probed; None where it has no known peak."""
    with suppress(ValueError):
        return machine("cpu" if name == cpu_device().name else name, utilization)
    return None


def machine(device: str | float, utilization: float | None = None) -> Machine:
    """Return a device with its peak and the utilisation assumed of it.

    Args:
        device: "A100", "4xA100@fp32", a name as a framework reports it, "cpu" for this machine's
            (at fp32, or "cpu@bf16"), "200 PFLOP/s", or FLOP/s.
        utilization: None: 0.33, and 0.17 for the CPU.

    Raises:
        ValueError: no known device, or an absurd peak or utilisation.
    """
    assumed = GPU_UTILIZATION if utilization is None else utilization
    if not isinstance(device, str):
        peak = positive("a device's peak", device)
        return Machine(peak, 1, assumed, format_flops(peak, "FLOP/s"))
    if found := _CPU.fullmatch(device.strip()):
        precision = found["precision"] or "fp32"
        return _cpu(precision, CPU_UTILIZATION if utilization is None else utilization)
    if re.match(r"[\d.+-]+(?!\d*\s*[x\u00d7])", device.strip()):
        return machine(flops_per_second(device), utilization)
    return Machine.named(device, assumed)


def _each_once(devices: Iterable[Devices]) -> list[Devices]:
    """Leave out what is there already, in whatever letters; the first writing names them all."""
    names: dict[str, str] = {}
    kept: dict[tuple[str, int, float | None], Devices] = {}
    for each in devices:
        key = normalise(each.name)
        name = names.setdefault(key, each.name)
        peak = each.machine.peak_flops if each.machine else None
        kept.setdefault((key, each.count, peak), _renamed(each, name))
    return list(kept.values())


def _renamed(devices: Devices, name: str) -> Devices:
    return replace(
        devices, name=name, machine=devices.machine and replace(devices.machine, name=name)
    )


def _cpu(precision: str, utilization: float) -> Machine:
    device = cpu_device()
    peak = precision_peak(device.peaks, precision)
    if peak is None:
        raise ValueError(f"this CPU has no known peak at {precision}: {device.source}")
    return Machine(peak, 1, utilization, f"{device.name} at {precision}")
