"""`computemeter doctor`: what the meter can see and count on this machine."""

from __future__ import annotations

import importlib.util
import json
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from computemeter._version import __version__
from computemeter.commands import CommandError
from computemeter.devices import torch_device
from computemeter.records import Device
from computemeter.units import format_flops

_PACKAGES = ("torch", "lightning", "pytorch-lightning", "keras", "mlflow", "wandb")
_MEANING = {
    "formula": "have a formula",
    "parts": "run as other operators, which are counted",
    "zero": "do no contraction: zero FLOPs",
    "uncounted": "may do arithmetic and have no formula: listed in every summary",
}


def doctor(*, ops: bool = False, as_json: bool = False) -> str:
    """Describe versions, the device with its peaks, and the coverage of PyTorch's operators.

    Args:
        ops: list every operator with what it is to the counter.
        as_json: machine readable; FLOP/s as numbers.

    Raises:
        CommandError: PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise CommandError(
            "doctor needs PyTorch, which is not installed: pip install 'computemeter[torch]'"
        )
    from computemeter.counters.torch_ops import classify

    classes = classify()
    device = torch_device()
    if as_json:
        return json.dumps(_report(device, classes, ops=ops), indent=2)
    lines = [*_version_lines(), "", *_device_lines(device), "", *_coverage_lines(classes)]
    if ops:
        lines += ["", *(f"{name}  {kind}" for name, kind in classes.items())]
    return "\n".join(lines)


def _report(device: Device, classes: Mapping[str, str], *, ops: bool) -> dict[str, Any]:
    return {
        "versions": _versions(),
        "device": {
            "name": device.name,
            "kind": device.kind,
            "peaks": dict(device.peaks),
            "source": device.source,
        },
        "operators": _totals(classes),
        **({"ops": dict(classes)} if ops else {}),
    }


def _versions() -> dict[str, str]:
    found = {"computemeter": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _version_lines() -> list[str]:
    return ["versions", *(f"  {name:<18} {number}" for name, number in _versions().items())]


def _device_lines(device: Device) -> list[str]:
    peaks = [
        f"  {precision:<18} {format_flops(peak, 'FLOP/s')}"
        for precision, peak in device.peaks.items()
    ]
    unknown = ["  no peak is known: method 2 has no number"]
    return [
        f"device  {device.name} ({device.kind})",
        *(peaks or unknown),
        f"  source: {device.source}",
    ]


def _coverage_lines(classes: Mapping[str, str]) -> list[str]:
    totals = _totals(classes)
    rows = [f"  {totals[kind]:>6} {meaning}" for kind, meaning in _MEANING.items()]
    return [f"operators  {len(classes)} are registered with this PyTorch", *rows]


def _totals(classes: Mapping[str, str]) -> dict[str, int]:
    counts = Counter(classes.values())
    return {kind: counts[kind] for kind in _MEANING}
