"""The table at the end of a run."""

from __future__ import annotations

import io

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from computemeter.records import Device, Summary
from computemeter.units import format_compute, format_flops, format_pfs_days, format_seconds
from computemeter.wording import projected

STYLES = {"agree": "green", "warn": "yellow", "alarm": "red", "unknown": "dim"}
_OPS_SHOWN = 4
_SHARE_SHOWN = 0.01
_COMPILING_SHOWN = 0.01


def print_start(device: Device, count: int) -> None:
    """Print the one line at the start of a run."""
    # Without a peak the source says why, and how to give one.
    reason = "" if device.peaks else f"; GPU time will be unknown: {device.source}"
    print_line(f"metering on {count} x {device.name}{reason}")


def print_line(text: str, *, bar_is_open: bool = False) -> None:
    """Print one line of the meter's, over a progress bar that stands in its place.

    Args:
        text: without "computemeter: ".
        bar_is_open: the bar's line has no end yet; what is no terminal cannot take it away.
    """
    console = Console()
    if bar_is_open and not console.is_terminal:
        console.line()
    # A bar is drawn anew, below; what is no terminal gets no control codes.
    console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
    console.print(Text(printable(f"computemeter: {text}")), soft_wrap=True)


def print_summary(summary: Summary, *, below: bool = False) -> None:
    """Print a summary to the terminal, in lines of its own where a bar's line has no end yet."""
    console = Console()
    if below:
        console.line()
    _print(console, summary)


def render(summary: Summary, width: int = 100) -> str:
    """Return a summary as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    _print(console, summary)
    text = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO from above
    return str(text).rstrip()


def _print(console: Console, summary: Summary) -> None:
    console.print(_table(summary))
    for warning in summary.warnings:
        # Not wrapped: one may hold a command to copy.
        console.print(Text(printable(f"warning: {warning}")), soft_wrap=True)


def _table(summary: Summary) -> Table:
    table = Table(title="Compute of this run", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in _rows(summary):
        # Text, not markup: names of devices and operators are shown as they are.
        style = STYLES.get(summary.verdict, "") if name == "verdict" else ""
        table.add_row(name, Text(printable(text), style))
    return table


def printable(text: str) -> str:
    """Names come from outside: a terminal must not obey what is in them."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _rows(summary: Summary) -> list[tuple[str, str]]:
    rows = [
        ("operations (method 1)", _operations(summary)),
        ("GPU time (method 2)", _gpu_time(summary)),
        ("verdict", _verdict(summary)),
        ("diagnosis", summary.diagnosis),
        ("steps", _steps(summary)),
        ("time", _time(summary)),
        ("mostly", _largest(summary)),
        *_whole_run(summary),
        *_projected(summary),
    ]
    if summary.pfs_days_gpu_time_measured is not None:
        rows.insert(2, ("the same, measured use", _measured(summary)))
    if summary.causal_flops and summary.model_flops:
        share = summary.causal_flops / summary.model_flops
        rows.append(("causal masks could skip", f"{share:.0%} of the operations"))
    if summary.uncounted_ops:
        calls = (f"{name} ({calls:,})" for name, calls in summary.uncounted_ops.items())
        rows.append(("not counted (calls)", ", ".join(calls)))
    return rows


def _whole_run(summary: Summary) -> list[tuple[str, str]]:
    """Tell of the segments before this one, and of the model the run started from."""
    run, spent, lineage = summary.run_flops, summary.spent_flops, summary.lineage_flops
    rows = []
    if run is not None and {run, spent} != {summary.model_flops}:
        burned = "unknown" if spent is None else format_compute(spent)
        rows.append(("the run, all launches", f"{format_compute(run)} in the weights"))
        rows.append(("spent, with what was lost", burned))
    if lineage is not None and lineage != run:
        rows.append(("lineage, with the base", format_compute(lineage)))
    return rows


def _projected(summary: Summary) -> list[tuple[str, str]]:
    projection = summary.projection
    if projection is None or not projection.was_said:
        return []
    return [("projected", projected(projection))]


def _operations(summary: Summary) -> str:
    if not summary.model_flops:
        return "unknown"
    each = format_flops(summary.flops_per_step or 0)
    return f"{format_compute(summary.model_flops)}, {each} a step"


def _gpu_time(summary: Summary) -> str:
    if summary.steps == 0:
        return "unknown"
    if summary.peak_flops is None:
        return f"unknown ({summary.device_count} x {summary.device_name})"
    factors = (
        f"{summary.device_count} x {summary.device_name}",
        f"{format_flops(summary.peak_flops, 'FLOP/s')} ({summary.precision})",
        format_seconds(summary.training_seconds),
        f"{summary.assumed_utilization:.2g}",
    )
    return f"{format_pfs_days(summary.pfs_days_gpu_time or 0)} = {' x '.join(factors)}"


def _measured(summary: Summary) -> str:
    figure = format_pfs_days(summary.pfs_days_gpu_time_measured or 0)
    share = 100 * (summary.measured_utilization or 0)
    return f"{figure} at {share:.3g} % ({summary.utilization_source})"


def _verdict(summary: Summary) -> str:
    ratio = "" if summary.ratio is None else f", ratio {summary.ratio:.3g}"
    mfu = "" if summary.mfu is None else f", MFU {100 * summary.mfu:.3g} %"
    cause = "" if summary.cause == "none" else f" ({summary.cause})"
    return f"{summary.verdict}{cause}{ratio}{mfu}"


def _steps(summary: Summary) -> str:
    return (
        f"{summary.steps:,}: {summary.counted_steps:,} counted,"
        f" {summary.predicted_steps:,} predicted, {summary.estimated_steps:,} estimated"
    )


def _time(summary: Summary) -> str:
    busy = summary.busy_seconds
    written = "" if busy is None else f", {format_seconds(busy)} of it in steps"
    compiling = summary.compile_seconds or 0.0
    if compiling >= _COMPILING_SHOWN * summary.training_seconds > 0:
        written += f", {format_seconds(compiling)} compiling"
    return f"{format_seconds(summary.training_seconds)} of training{written}"


def _largest(summary: Summary) -> str:
    if not summary.model_flops:
        return "nothing was counted"
    shares = {name: flops / summary.model_flops for name, flops in summary.by_op.items()}
    largest = sorted(shares.items(), key=lambda item: -item[1])[:_OPS_SHOWN]
    return ", ".join(f"{name} {share:.0%}" for name, share in largest if share >= _SHARE_SHOWN)
