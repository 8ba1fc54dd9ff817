"""`computemeter doctor`: what the meter can see and count on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import json
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from computemeter._version import __version__
from computemeter.commands import CommandError
from computemeter.commands.detect import Answer, ask_all
from computemeter.commands.measure import Product, measure_products
from computemeter.devices import find_entry, torch_device
from computemeter.peak_files import config_file
from computemeter.records import Device
from computemeter.sinks import describe
from computemeter.table import printable
from computemeter.units import format_flops

_PACKAGES = ("torch", "lightning", "pytorch-lightning", "keras", "mlflow", "wandb")
_MEANING = {
    "formula": "have a formula",
    "parts": "run as other operators, which are counted",
    "zero": "do no contraction: zero FLOPs",
    "uncounted": "may do arithmetic and have no formula: listed in every summary",
}


def doctor(
    *,
    ops: bool = False,
    devices: bool = False,
    measure: bool = False,
    modules: Sequence[str] = (),
    as_json: bool = False,
) -> str:
    """Describe versions, the device with its peaks, and the coverage of PyTorch's operators.

    Args:
        ops: list every operator with what it is to the counter.
        devices: list every device that each installed framework sees; works without PyTorch.
        measure: time matrix products on PyTorch's device, for a few seconds.
        modules: names of modules to import first, which bring operators and formulas.
        as_json: machine readable; FLOP/s as numbers.

    Raises:
        CommandError: PyTorch is not installed, or a module cannot be imported.
    """
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch and (ops or measure or not devices):
        raise CommandError(
            "doctor needs PyTorch, which is not installed (--devices alone does not): "
            "pip install 'computemeter[torch]'"
        )
    _import(modules)
    examination = _examine(has_torch, devices=devices, measure=measure)
    if as_json:
        return json.dumps(_report(examination, ops=ops), indent=2)
    return "\n".join(_lines(examination, ops=ops))


def _import(modules: Sequence[str]) -> None:
    """Import modules as `python -m` would: those of the working directory too."""
    if modules:
        sys.path.insert(0, str(Path.cwd()))
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - it is the user's code
            raise CommandError(printable(f"--import {name}: {describe(error)}")) from None


@dataclass(frozen=True, slots=True)
class _Examination:
    """What was found; None is what nobody asked for, or needs PyTorch.

    Attributes:
        device: PyTorch's.
        classes: what each operator is to the counter.
        misnamed: formulas that no operator has, each with the names that come closest.
        answers: of each framework.
        products: as timed.
    """

    device: Device | None = None
    classes: Mapping[str, str] | None = None
    misnamed: Mapping[str, Sequence[str]] | None = None
    answers: list[Answer] | None = None
    products: list[Product] | None = None


def _examine(has_torch: bool, *, devices: bool, measure: bool) -> _Examination:
    from rich.console import Console

    # To the error output, where it does not mix with what is printed; nothing if that is a file.
    with Console(stderr=True).status("looking") as status:
        device = torch_device() if has_torch else None
        answers = ask_all(status.update) if devices else None
        products = measure_products(device, status.update) if device and measure else None
        status.update("looking through PyTorch's operators")
        classes, misnamed = _operators() if has_torch else (None, None)
        return _Examination(device, classes, misnamed, answers, products)


def _operators() -> tuple[Mapping[str, str], Mapping[str, Sequence[str]]]:
    from computemeter.counters.torch_ops import classify, misnamed_formulas

    return classify(), misnamed_formulas()


def _lines(found: _Examination, *, ops: bool) -> list[str]:
    lines = _version_lines()
    if found.answers is not None:
        lines += ["", *_answer_lines(found.answers)]
    elif found.device is not None:
        lines += ["", *_device_lines(found.device)]
    if found.products is not None and found.device is not None:
        lines += ["", *_product_lines(found.device, found.products)]
    if found.classes is not None:
        lines += ["", *_coverage_lines(found.classes)]
    if found.misnamed:
        lines += ["", *_misnamed_lines(found.misnamed)]
    if ops and found.classes is not None:
        lines += ["", *(f"{name}  {kind}" for name, kind in found.classes.items())]
    return lines


def _report(found: _Examination, *, ops: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"versions": _versions()}
    if found.device is not None:
        report["device"] = _described(found.device)
    if found.answers is not None:
        report |= _devices_report(found.answers)
    if found.products is not None:
        report["products"] = [_product_report(product) for product in found.products]
    if found.classes is not None:
        report["operators"] = _totals(found.classes)
        report["misnamed_formulas"] = dict(found.misnamed or {})
    if ops and found.classes is not None:
        report["ops"] = dict(found.classes)
    return report


def _described(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "kind": device.kind,
        "peaks": dict(device.peaks),
        "source": device.source,
        "confidence": _confidence(device),
    }


def _confidence(device: Device) -> str | None:
    """Return how sure the peaks are; a CPU's are computed from what it says of itself."""
    if not device.peaks:
        return None
    entry = find_entry(device.name)
    if entry is not None:
        return entry.confidence or None
    return "computed" if device.kind == "cpu" else None


def _devices_report(answers: Iterable[Answer]) -> dict[str, Any]:
    devices = [
        {"framework": answer.framework, "count": count, **_described(device)}
        for answer in answers
        for device, count in _grouped(answer.devices)
    ]
    not_asked = {answer.framework: answer.problem for answer in answers if answer.problem}
    return {"devices": devices, "not_asked": not_asked}


def _grouped(devices: Iterable[Device]) -> list[tuple[Device, int]]:
    groups: list[tuple[Device, int]] = []
    for device in devices:
        if groups and groups[-1][0] == device:
            groups[-1] = (device, groups[-1][1] + 1)
        else:
            groups.append((device, 1))
    return groups


def _product_report(product: Product) -> dict[str, Any]:
    return {
        **asdict(product),
        "flops_per_second": product.flops_per_second,
        "share_of_peak": product.share,
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


def _device_lines(device: Device, title: str = "device  ") -> list[str]:
    peaks = [
        f"  {precision:<18} {format_flops(peak, 'FLOP/s')}"
        for precision, peak in device.peaks.items()
    ]
    unknown = ["  no peak is known: method 2 has no number"]
    own = [f"  or give it a row in {config_file()}: see computemeter/data/peaks.toml"]
    confidence = _confidence(device)
    return [
        f"{title}{device.name} ({device.kind})",
        *(peaks or unknown),
        f"  source: {device.source}",
        *([f"  confidence: {confidence}"] if confidence else []),
        *([] if peaks else own),
    ]


def _answer_lines(answers: Iterable[Answer]) -> list[str]:
    lines: list[str] = []
    for answer in answers:
        if answer.problem or not answer.devices:
            lines.append(f"{answer.framework}  {answer.problem or 'sees no device'}")
        for device, count in _grouped(answer.devices):
            lines += _device_lines(device, f"{answer.framework}  {count} x ")
    return lines


def _product_lines(device: Device, products: Iterable[Product]) -> list[str]:
    title = f"measured  matrix products on {device.name}, the fastest of several"
    header = f"  {'':<6} {'n':>5}  {'achieved':>14}  {'peak':>14}  achieved/peak"
    return [title, header, *map(_product_line, products)]


def _product_line(product: Product) -> str:
    reached, share = product.flops_per_second, product.share
    if reached is None:
        return f"  {product.precision:<6} {product.problem}"
    peak = format_flops(product.peak, "FLOP/s") if product.peak else "not known"
    shown = f"{product.size:>5}  {format_flops(reached, 'FLOP/s'):>14}  {peak:>14}"
    note = "  the peak is too low: set peak_flops=" if share and share > 1 else ""
    ratio = "" if share is None else f"  {share:.2f}{note}"
    return f"  {product.precision:<6} {shown}{ratio}"


def _coverage_lines(classes: Mapping[str, str]) -> list[str]:
    totals = _totals(classes)
    rows = [f"  {totals[kind]:>6} {meaning}" for kind, meaning in _MEANING.items()]
    return [f"operators  {len(classes)} are registered with this PyTorch", *rows]


def _misnamed_lines(misnamed: Mapping[str, Sequence[str]]) -> list[str]:
    rows = [f"  {name}  ({', '.join(closest) or 'none'})" for name, closest in misnamed.items()]
    title = (
        "formulas  registered for operators that PyTorch does not know (and the closest it does)"
    )
    return [title, *rows]


def _totals(classes: Mapping[str, str]) -> dict[str, int]:
    counts = Counter(classes.values())
    return {kind: counts[kind] for kind in _MEANING}
