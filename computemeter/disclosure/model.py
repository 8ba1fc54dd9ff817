"""The file of a model: its runs, the models it started from, and figures given by hand.

docs/disclosure.md describes it. Every key is checked, so that a typing error never leaves compute
out of a sum.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, cast, get_args

from computemeter.disclosure import DisclosureError
from computemeter.disclosure.entries import NOT_MEASURED, Base, Category, Counting, Entry, Period
from computemeter.disclosure.find import run_at, run_of
from computemeter.disclosure.totals import Disclosure, assemble
from computemeter.estimate import flops_from_gpu_time, flops_from_parameters
from computemeter.peak_files import reason
from computemeter.receipt import read_receipt
from computemeter.receipt_match import lineage_in, meter_state, receipt_of
from computemeter.sinks import redact
from computemeter.units import SECONDS_PER_HOUR

_CATEGORIES: tuple[Category, ...] = get_args(Category)
_KEYS: Mapping[str, tuple[str, ...]] = {
    "run": ("path", "id", "source", "name", "category", "reason", "planned_steps"),
    "base": ("name", "flops", "receipt", "source", "error"),
    "manual": (
        *("name", "category", "reason", "source", "flops", "parameters", "tokens", "passes"),
        *("devices", "hours", "device_hours", "peak_flops", "utilization", "error", "energy_kwh"),
    ),
}
_MOST = 1e60  # products of such numbers still have a logarithm
_ACCEPTED = "a number above 0 and at most 1e60"
_TOP = ("name", "scope", *_KEYS)


def read_model(path: str | Path, *, cache: bool = True) -> Disclosure:
    """Read a model's file, and all runs that it names; their paths are relative to the file.

    Args:
        path: of the file.
        cache: see `computemeter.disclosure.find.run_of`.

    Raises:
        DisclosureError: the file or a run cannot be read, or what it says cannot be.
    """
    file = Path(path)
    try:
        file = file.expanduser()
        content = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home for a "~"
        raise DisclosureError(f"{redact(str(path))}: {reason(error)}") from None
    top = _Table(content, f"{file}", _TOP)
    readers: Mapping[str, Callable[[_Table], Any]] = {
        "run": lambda table: _run(table, file.parent, cache),
        "base": lambda table: _base(table, file.parent),
        "manual": _manual,
    }
    read = {kind: [reader(table) for table in top.tables(kind)] for kind, reader in readers.items()}
    name, scope = top.text("name"), top.text("scope", optional=True)
    try:
        return assemble(name, [*read["run"], *read["manual"]], read["base"], scope=scope)
    except DisclosureError as error:
        raise DisclosureError(f"{file}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the file, checked as it is read; `place` begins every error."""

    content: Mapping[str, Any]
    place: str
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        for key in self.content:
            if key not in self.keys:
                close = get_close_matches(key, self.keys, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise self.error(f"unknown key {key!r}{hint}; accepted are {', '.join(self.keys)}")

    def error(self, message: str) -> DisclosureError:
        return DisclosureError(f"{self.place}: {message}")

    def tables(self, kind: str) -> list[_Table]:
        listed = self.content.get(kind, [])
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise self.error(f"{kind}: write it as [[{kind}]]")
        return [
            _Table(each, f"{self.place}: {kind} {position}", _KEYS[kind])
            for position, each in enumerate(listed, 1)
        ]

    def has(self, key: str) -> bool:
        return key in self.content

    def text(self, key: str, *, optional: bool = False) -> str:
        value = self.content.get(key)
        if value is None and optional:
            return ""
        if not isinstance(value, str) or not value.strip():
            shown = "is missing" if value is None else f"= {value!r}"
            raise self.error(f"{key} {shown}: accepted is a text")
        return redact(value)

    def number(self, key: str, accepted: str = _ACCEPTED, most: float = _MOST) -> float:
        value = self.content.get(key)
        right = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        if not right or not 0 < cast("float", value) <= most:
            shown = "is missing" if value is None else f"= {value!r}"
            raise self.error(f"{key} {shown}: accepted is {accepted}")
        return cast("float", value)

    def number_or_none(self, key: str) -> float | None:
        return self.number(key) if self.has(key) else None

    def flops(self) -> int:
        # As it is written: 2.1e22 is no 20,999,999,999,999,997,902,848.
        return round(Decimal(str(self.number("flops"))))

    def whole(self, key: str) -> int:
        value = self.number(key, "a whole number above 0")
        if value != int(value):
            raise self.error(f"{key} = {value!r}: accepted is a whole number above 0")
        return int(value)

    def share(self, key: str) -> float:
        return self.number(key, "a share above 0 and at most 1 (0.33, not 33)", most=1.0)

    def category(self, default: Category) -> Category:
        value = self.content.get("category", default)
        if value not in _CATEGORIES:
            raise self.error(f"category = {value!r}: accepted are {', '.join(_CATEGORIES)}")
        if (value == "excluded") != self.has("reason"):
            missing = "an excluded entry needs a reason"
            raise self.error(missing if value == "excluded" else "reason is for what is excluded")
        return cast("Category", value)


def _run(table: _Table, folder: Path, cache: bool) -> Entry:
    entry = _read_run(table, folder, cache)
    category = table.category(entry.category)
    entry = replace(
        entry,
        name=table.text("name", optional=True) or entry.name,
        category=category,
        reason=table.text("reason", optional=True),
    )
    try:
        return (
            entry.with_plan(table.whole("planned_steps")) if table.has("planned_steps") else entry
        )
    except DisclosureError as error:
        raise table.error(str(error)) from None


def _read_run(table: _Table, folder: Path, cache: bool) -> Entry:
    if table.has("path") == table.has("id"):
        raise table.error("give either a path, or an id and a source")
    if table.has("id") != table.has("source"):
        raise table.error("an id and a source belong together")
    try:
        if table.has("path"):
            return run_at(folder / Path(table.text("path")).expanduser())
        run, source = table.text("id"), str(table.content["source"])
        # Not redacted: the tracker may want the password.
        place = source if "://" in source else str(folder / source)
        return run_of(run, [place], cache=cache)
    except DisclosureError as error:
        raise table.error(str(error)) from None


def _base(table: _Table, folder: Path) -> Base:
    error = table.share("error") if table.has("error") else None
    if not table.has("receipt"):
        name = table.text("name")
        if not table.has("flops"):
            return Base(name=name, source=table.text("source", optional=True), error=error)
        return Base(name=name, flops=table.flops(), source=table.text("source"), error=error)
    if table.has("flops"):
        raise table.error("give either flops or a receipt")
    place = folder / Path(table.text("receipt")).expanduser()
    state = meter_state(place)
    try:
        found, why = receipt_of(place, state)
        if found is None:
            raise table.error(f"{place}: {why}")
        receipt = read_receipt(found)
    except (OSError, ValueError) as problem:
        if isinstance(problem, DisclosureError):
            raise
        raise table.error(reason(problem)) from None
    name = table.text("name", optional=True) or receipt.name or receipt.run
    weights = lineage_in(state)  # of a checkpoint: fewer than its run took in the end
    return Base(
        name=name,
        flops=receipt.lineage_flops if weights is None else weights[1],
        receipt=receipt.hash,
        source=table.text("source", optional=True) or str(found),
        error=error,
    )


def _manual(table: _Table) -> Entry:
    category = table.category("training")
    operations, passes = _operations(table, category)
    period, gpu_time = _gpu_time(table)
    if operations is None and gpu_time is None and category != "excluded":
        raise table.error(
            "it has no figure: give flops, or parameters and tokens, or devices (or device_hours), "
            "hours, peak_flops and utilization"
        )
    given = {key: value for key, value in table.content.items() if _is_number(value)}
    seconds = period.device_seconds if period else None
    return Entry(
        name=table.text("name"),
        category=category,
        origin="manual",
        source=table.text("source"),
        reason=table.text("reason", optional=True),
        operations=operations,
        run_flops=operations,
        gpu_time=gpu_time,
        possible=round(seconds * period.peak_flops)
        if period and seconds and period.peak_flops
        else None,
        device_seconds=seconds,
        training_seconds=period.training_seconds if period else None,
        periods=(period,) if period else (),
        error=table.share("error") if table.has("error") else None,
        energy_kwh=table.number_or_none("energy_kwh"),
        energy_source="as given by hand" if table.has("energy_kwh") else NOT_MEASURED,
        counting=_architecture(table),
        inputs={**given, **({} if passes is None else {"passes": passes})},
    )


def _architecture(table: _Table) -> Counting | None:
    if not table.has("parameters"):
        return None
    parameters, tokens = table.number("parameters"), table.number("tokens")
    return Counting(parameters=(round(parameters), None), samples=round(tokens))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _operations(table: _Table, category: Category) -> tuple[int | None, float | None]:
    """Return method 1 and, where it is from parameters and tokens, the passes."""
    architecture = [key for key in ("parameters", "tokens", "passes") if table.has(key)]
    if not architecture:
        return (table.flops() if table.has("flops") else None), None
    if table.has("flops"):
        raise table.error(f"give either flops or {', '.join(architecture)}")
    parameters, tokens = table.number("parameters"), table.number("tokens")
    # Data is made by a forward pass alone; a training step costs three of them.
    passes = table.number_or_none("passes") or (1 if category == "synthetic_data" else 3)
    return flops_from_parameters(parameters, tokens, passes=passes), passes


def _gpu_time(table: _Table) -> tuple[Period | None, int | None]:
    """Return method 2 with its factors."""
    named = ("devices", "hours", "device_hours", "peak_flops", "utilization")
    if not any(map(table.has, named)):
        return None, None
    if table.has("device_hours") == (table.has("devices") or table.has("hours")):
        raise table.error("give either device_hours, or devices and hours")
    together = table.has("device_hours")
    devices = None if together else table.whole("devices")
    hours = table.number("device_hours" if together else "hours")
    peak, share = table.number("peak_flops", "FLOP/s above 0"), table.share("utilization")
    seconds = hours * SECONDS_PER_HOUR
    gpu_time = flops_from_gpu_time(devices or 1, seconds, peak, share)
    period = Period(
        devices=devices,
        device_seconds=seconds * (devices or 1),
        training_seconds=None if together else seconds,
        peak_flops=peak,
        utilization=share,
        gpu_time=gpu_time,
    )
    return period, gpu_time
