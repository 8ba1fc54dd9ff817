"""What is said beside the table of a plan: what its figures rest on, and what to look at first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from computemeter.planning.batch_size import LINEAR_SCALING, limit_warning
from computemeter.planning.factors import duration
from computemeter.planning.plan_inputs import Work
from computemeter.units import SECONDS_PER_DAY, format_seconds
from computemeter.wording import counted, percent, times

if TYPE_CHECKING:
    from computemeter.planning.machine import Machine
    from computemeter.planning.plan import PlanRow
    from computemeter.planning.probe import ProbeResult

_YEAR = 365.25 * SECONDS_PER_DAY
_LONGEST_SECONDS = 100 * _YEAR
_SHORTEST_SECONDS = 1e-3
_WORST_FIT = 0.25
_FAR = 10
"""Measured over expected time, or the other way round, past which it is said why."""
_DROP_LAST = (
    "the last, smaller batch of an epoch counts (drop_last=False), so that every batch size does"
    " the same operations"
)
_SCALING = "devices are taken to share the work evenly, and to wait for nothing"


def notes(
    todo: Work, rows: Sequence[PlanRow], base_batch: int, probes: Sequence[ProbeResult]
) -> Iterator[str]:
    """Yield what the figures rest on, a line each."""
    yield from todo.method.assumptions if todo.method else ()
    yield _DROP_LAST
    if assumed := sorted({row.machine.utilization for row in rows if row.machine}):
        shares = " and ".join(percent(share) for share in assumed)
        yield f"expected is at {shares} of peak: an assumption, not a measurement"
    if any(row.devices > 1 for row in rows):
        yield _SCALING
    if any(row.learning_rate_factor != 1 for row in rows):
        yield f"LR x is on the learning rate at batch {base_batch:,}; {LINEAR_SCALING}"
    for probe in probes:
        yield from _about(probe)


def warnings(
    todo: Work, rows: Sequence[PlanRow], network: str | None, probes: Sequence[ProbeResult]
) -> Iterator[str]:
    """Yield what to look at first, a line each."""
    if todo.method is None:
        yield "the model's operations could not all be counted: give flops_per_example"
    if past := limit_warning([row.batch_size for row in rows if row.past_limit], network):
        yield past
    yield from dict.fromkeys(_uneven(row) for row in rows if row.batch_per_device is None)
    larger = [row.batch_size for row in rows if row.batch_size > todo.examples]
    if larger:
        examples = counted(todo.examples, "token" if todo.in_tokens else "example")
        yield f"batch {min(larger):,} is larger than an epoch, which has {examples}"
    yield from _absurd(rows)
    for probe in probes:
        yield from _unmeasured(probe)


def apart(
    todo: Work,
    rows: Sequence[PlanRow],
    probes: Sequence[ProbeResult],
    machines: Sequence[Machine | None],
) -> Iterator[str]:
    """Yield a line for each probed device on which measured and expected time are far apart.

    Args:
        todo: what is to be done.
        rows: with the measured times.
        probes: what was measured.
        machines: one of each probed device, with its peak; None where that is not known.
    """
    for position, (probe, machine) in enumerate(zip(probes, machines, strict=True)):
        times_of = [(row.batch_size, row.measured_seconds[position]) for row in rows]
        measured = {size: seconds for size, seconds in times_of if seconds is not None}
        if todo.method and machine and measured:
            yield from _apart(probe, machine, machine.expected_seconds(todo.method.flops), measured)


def _apart(
    probe: ProbeResult, machine: Machine, expected: float, measured: Mapping[int, float]
) -> Iterator[str]:
    size = max(measured, key=lambda each: abs(math.log(measured[each] / expected)))
    ratio = measured[size] / expected
    if 1 / _FAR <= ratio <= _FAR:
        return
    slower = "" if machine.name.endswith("fp32") else ", or a precision slower than the peak's"
    reason = (
        f"small operations or updates of embeddings, whose time FLOPs do not see{slower}"
        if ratio > 1
        else "the operations are not this model's, or the peak is not this device's"
    )
    yield (
        f"batch {size:,} takes {duration(measured[size])} on one {probe.device_name}, measured,"
        f" where {duration(expected)} are expected of {machine.name}"
        f" ({times(max(ratio, 1 / ratio))} apart): likely {reason}"
    )


def _unmeasured(probe: ProbeResult) -> Iterator[str]:
    name = probe.device_name
    for each in probe.dropped:
        yield f"batch {each.batch_size:,} was not measured on {name}: {each.reason}"
    if probe.fit and probe.fit.worst > _WORST_FIT:
        yield (
            f"the steps on {name} are up to {percent(probe.fit.worst)} off a line through them: was"
            " it busy with something else?"
        )


def _about(probe: ProbeResult) -> Iterator[str]:
    name, fit = probe.device_name, probe.fit
    yield f"measured is a forecast from a few steps on one {name}, without loading of data"
    if fit and fit.saturates_at:
        largest = max(each.batch_size for each in probe.measured)
        beyond = f", beyond what was measured (up to {largest:,})"
        yield (
            f"on {name} a step takes {format_seconds(fit.fixed)} and"
            f" {format_seconds(fit.per_example)} an example: by this line 90 % of the highest speed"
            f" from batch {fit.saturates_at:,} on{beyond if fit.saturates_at > largest else ''}"
        )
    yield from probe.notes


def _uneven(row: PlanRow) -> str:
    share = row.batch_size / row.devices
    return (
        f"batch {row.batch_size:,} does not divide among {row.devices:,} devices"
        f" ({share:.4g} each): take a multiple of {row.devices:,}"
    )


def _absurd(rows: Sequence[PlanRow]) -> Iterator[str]:
    """Question times that only mixed-up units give."""
    seconds = [row.expected_seconds for row in rows if row.expected_seconds is not None]
    if seconds and max(seconds) > _LONGEST_SECONDS:
        years = max(seconds) / _YEAR
        yield f"{years:,.0f} years are expected: are the operations those of one example?"
    if seconds and min(seconds) < _SHORTEST_SECONDS:
        yield (
            f"{format_seconds(min(seconds))} are expected of the whole training: do the operations"
            " or the examples lack a G or an M?"
        )
