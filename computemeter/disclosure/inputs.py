"""The inputs of both estimates as tables of Markdown: every factor, with its source."""

from __future__ import annotations

from computemeter.disclosure.card import escape
from computemeter.disclosure.digits import (
    UNKNOWN,
    both,
    day,
    exact_seconds,
    number,
    table,
    two_digits,
    two_digits_of_time,
)
from computemeter.disclosure.entries import Entry, Period
from computemeter.disclosure.totals import Disclosure
from computemeter.units import format_flops
from computemeter.wording import percent


def operations(d: Disclosure) -> list[str]:
    head = ("entry", "steps", "FLOP a step", "P, parameters", "D, samples or tokens", "how")
    rows = [_counting_row(entry) for entry in d.counted if entry.operations is not None]
    lost = any(entry.thrown_away for entry in d.counted)
    told = ["Steps are those of all launches, also what a crash threw away.", ""] if lost else []
    return [*told, *table(head, rows)]


def _counting_row(entry: Entry) -> tuple[str, ...]:
    counting, steps = entry.counting, entry.steps
    parameters = counting.parameters if counting else None
    samples = counting.samples if counting else None
    each = None if not steps or entry.operations is None else entry.operations / steps
    return (
        escape(entry.name),
        number(steps),
        UNKNOWN if each is None else two_digits(each),
        UNKNOWN if parameters is None else _parameters(*parameters),
        number(samples),
        _how(entry),
    )


def _parameters(every: int, trained: int | None) -> str:
    return f"{every:,}" + ("" if trained in {None, every} else f", {trained:,} trained")


def _how(entry: Entry) -> str:
    if entry.origin == "manual":
        passes = entry.inputs.get("passes")
        by = "FLOP" if passes is None else f"2 x P x D x {passes:g} passes"
        return f"given by hand as {by}; {escape(entry.source)}"
    counting = entry.counting
    if counting is None or counting.counted_steps is None:
        return "operations counted; of which steps is not known"
    c, formula = counting, counting.formula
    how = (
        f"{c.counted_steps or 0:,} steps counted, {c.predicted_steps or 0:,} like them, "
        f"{c.estimated_steps or 0:,} at a mean"
    )
    causal = c.causal_flops
    if causal and entry.operations:
        how += f"; causal masks could skip {percent(causal / entry.operations)}"
    return how + (f"; {escape(formula)} FLOP a step" if formula else "")


def gpu_time(d: Disclosure) -> list[str]:
    head = ("entry", "from", "N, devices", "L, training time", "H, dense peak", "U", "C = N L H U")
    rows = [_period_row(entry, period) for entry in d.counted for period in entry.periods]
    told = ["Periods of a constant number of devices; launches in a row on the same are one.", ""]
    return [*told, *table(head, rows)] if rows else []


def _period_row(entry: Entry, p: Period) -> tuple[str, ...]:
    device = f" x {escape(p.device_name)}" if p.device_name else ""
    peak = UNKNOWN if p.peak_flops is None else format_flops(p.peak_flops, "FLOP/s")
    at = f" ({escape(p.precision)})" if p.precision else ""
    assumed = "given" if entry.origin == "manual" else "assumed"
    launches = f", {p.launches} launches" if p.launches > 1 else ""
    note = f"; {escape(p.note)}" if p.note else ""
    return (
        escape(entry.name),
        f"{day(p.started) or UNKNOWN}{launches}{note}",
        f"{number(p.devices)}{device}",
        _length(p),
        f"{peak}{at}",
        UNKNOWN if p.utilization is None else f"{p.utilization:.3g} {assumed}",
        both(p.gpu_time),
    )


def _length(p: Period) -> str:
    if p.training_seconds is not None:
        return f"{two_digits_of_time(p.training_seconds)} ({exact_seconds(p.training_seconds)})"
    if p.device_seconds is None:
        return UNKNOWN
    return f"N L = {two_digits_of_time(p.device_seconds)} ({exact_seconds(p.device_seconds)})"
