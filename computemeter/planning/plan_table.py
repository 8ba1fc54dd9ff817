"""A plan as text: what it costs, a table over batch sizes, a table over devices, and notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from computemeter.planning.factors import duration
from computemeter.planning.plan import Plan, PlanRow
from computemeter.table import printable
from computemeter.units import format_compute, format_flops

_UNKNOWN = "unknown"
_NOT_MEASURED = "-"
_MARK = "!"
_WIDEST = 10_000
_NARROWEST = 40


def render(plan: Plan, width: int | None = None) -> str:
    """Return a plan as plain text.

    Time does not depend on the batch, nor iterations on the devices: two tables say more than one
    with a row for each pair, which `Plan.to_dict` has.

    Args:
        plan: with rows for every batch size on every machine.
        width: columns there are; None: as many as it takes.
    """
    room = _WIDEST if width is None else max(width, _NARROWEST)
    console = Console(file=StringIO(), width=room, color_system=None)
    for line in _headline(plan):
        console.print(Text(printable(line)))
    for table in (_by_batch(plan), _by_machine(plan)):
        console.print()
        console.print(table)
    drawn: str = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO
    lines = [line.rstrip() for line in drawn.splitlines()]
    return "\n".join([*lines, "", *_remarks(plan, room)])


def _headline(plan: Plan) -> Iterator[str]:
    if plan.operations is None:
        yield "operations unknown"
        return
    yield format_compute(plan.operations.flops)
    yield str(plan.operations).rpartition(" = ")[0].rpartition(" = ")[0]


def _by_batch(plan: Plan) -> Table:
    has_rate = plan.rows[0].learning_rate is not None
    titles = ["batch, tokens" if plan.in_tokens else "batch", "iterations", "FLOP", "LR x"]
    titles += ["LR"] if has_rate else []
    titles += _measured_titles(plan)
    counts = sorted({row.devices for row in plan.rows})
    spread = [f"batch on each of {_list(counts)}"] if counts != [1] else []
    table = _table(titles, spread)
    for row in plan.batches:
        cells = [_batch(row), f"{row.iterations:,}", _flops(row.flops), _factor(row)]
        cells += [f"{row.learning_rate:.4g}"] if has_rate else []
        cells += [_NOT_MEASURED if one is None else duration(one) for one in row.measured_seconds]
        cells += [_list([row.batch_size / count for count in counts])] if spread else []
        table.add_row(*map(Text, cells))
    return table


def _measured_titles(plan: Plan) -> list[str]:
    if len(plan.probes) == 1:
        return ["measured"]
    names = (printable(probe.device_name) for probe in plan.probes)
    return [f"measured,\n{textwrap.shorten(name, 16, placeholder='...')}" for name in names]


def _by_machine(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("devices", overflow="fold")
    for title in ("peak each", "assumed", "ideal", "expected", "device-hours"):
        table.add_column(title, justify="right", no_wrap=True)
    first = plan.rows[0].batch_size
    for row in plan.rows:
        if row.batch_size == first:
            table.add_row(*(Text(printable(cell)) for cell in _machine(row)))
    return table


def _machine(row: PlanRow) -> list[str]:
    devices, hours = row.machine, row.device_hours
    return [
        f"{row.devices:,} x {row.device}",
        format_flops(devices.peak_flops, "FLOP/s") if devices else _UNKNOWN,
        f"{devices.utilization:.3g}" if devices else _UNKNOWN,
        _time(row.ideal_seconds),
        _time(row.expected_seconds),
        _UNKNOWN if hours is None else f"{hours:,.0f}" if hours >= 999.5 else f"{hours:.3g}",
    ]


def _table(titles: Sequence[str], wrapping: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for title in wrapping:
        table.add_column(title)
    return table


def _remarks(plan: Plan, room: int) -> Iterator[str]:
    for kind, lines in (("warning", plan.warnings), ("note", plan.notes)):
        for line in lines:
            yield textwrap.fill(f"{kind}: {printable(line)}", room, subsequent_indent="  ",
                                break_on_hyphens=False)  # fmt: skip


def _batch(row: PlanRow) -> str:
    return f"{row.batch_size:,} {_MARK if row.past_limit else ' '}"


def _factor(row: PlanRow) -> str:
    return f"{row.learning_rate_factor:,.4g}"


def _flops(flops: int | None) -> str:
    return _UNKNOWN if flops is None else format_flops(flops)


def _time(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else duration(seconds)


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:,.6g}" for number in numbers)
