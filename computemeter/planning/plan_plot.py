"""A plan as a picture, PNG or SVG: time against devices, and what the batch size changes."""

from __future__ import annotations

import io
import textwrap
from importlib.util import find_spec
from itertools import cycle
from typing import Any, Literal

from computemeter.planning.batch_size import LARGEST_LIMIT, limit_of
from computemeter.planning.plan import Plan, PlanRow
from computemeter.table import printable
from computemeter.units import SECONDS_PER_DAY, format_compute

INSTALL = "pip install 'computemeter[trend]'"
"""What brings the library that draws."""

# Okabe and Ito's, as on the trend's page, each with a shape of its own.
_STYLES = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "D"),
    ("#CC79A7", "^"),
    ("#56B4E9", "v"),
    ("#8C8C8C", "h"),
)
_MARK, _INK, _GREY, _GRID = "#D55E00", "#222222", "#595959", "#E3E3E3"
_FONT = "DejaVu Sans"  # comes with matplotlib
_YEAR = 365.25 * SECONDS_PER_DAY
_TICKS = {
    1e-6: "1 µs",
    1e-3: "1 ms",
    0.1: "0.1 s",
    1: "1 s",
    10: "10 s",
    60: "1 min",
    600: "10 min",
    3600: "1 h",
    36_000: "10 h",
    2 * SECONDS_PER_DAY: "2 days",
    10 * SECONDS_PER_DAY: "10 days",
    100 * SECONDS_PER_DAY: "100 days",
    _YEAR: "1 year",
    10 * _YEAR: "10 years",
    100 * _YEAR: "100 years",
    10_000 * _YEAR: "10,000 years",
}


def plot(plan: Plan, kind: Literal["png", "svg"] = "png") -> bytes:
    """Draw a plan.

    Left the time against the number of devices, then what the batch size changes: iterations and
    the learning rate, and not the operations; with a probe the measured time, too.

    Args:
        plan: with rows for every batch size on every machine.
        kind: of file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; says how to install it.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(f"matplotlib is not installed: {INSTALL}", name="matplotlib")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 3 if plan.probes else 2
    # No pyplot and no settings of the user's: the same plan is the same picture.
    with mpl.rc_context(_settings(mpl)):
        figure = Figure(figsize=(5.4 * panels, 5.6), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels)
        _against_devices(axes[0], plan)
        _against_batch(axes[1], plan)
        if plan.probes:
            _measured(axes[2], plan)
        _finish(figure, axes, plan)
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def _settings(mpl: Any) -> Any:
    return {**mpl.rcParamsDefault, "svg.hashsalt": "computemeter", "font.family": _FONT}


def _against_devices(axes: Any, plan: Plan) -> None:
    first = plan.rows[0].batch_size
    lines: dict[str, list[PlanRow]] = {}
    for row in plan.rows:
        if row.batch_size == first and row.machine and row.expected_seconds is not None:
            lines.setdefault(row.device, []).append(row)
    for (name, rows), (colour, shape) in zip(lines.items(), cycle(_STYLES), strict=False):
        rows.sort(key=lambda row: row.devices)
        counts = [row.devices for row in rows]
        axes.plot(counts, [row.expected_seconds for row in rows], shape + "-", color=colour,
                  label=_short(name))  # fmt: skip
        axes.plot(counts, [row.ideal_seconds for row in rows], shape + ":", color=colour,
                  markerfacecolor="none")  # fmt: skip
    axes.plot([], [], "o-", color=_GREY, label="filled: expected")
    axes.plot([], [], "o:", color=_GREY, markerfacecolor="none", label="hollow: ideal, at peak")
    _logarithmic(axes, sorted({row.devices for row in plan.rows}), "devices")
    _times(axes)
    axes.set_title("Time of the whole training", loc="left", size=11)


def _against_batch(axes: Any, plan: Plan) -> None:
    rows = sorted(plan.batches, key=lambda row: row.batch_size)
    sizes, base = [row.batch_size for row in rows], rows[0]
    for label, values, (colour, shape) in (
        ("iterations", [row.iterations / base.iterations for row in rows], _STYLES[0]),
        ("operations", [1.0 for _ in rows], _STYLES[2]),
        (
            "learning rate, linear scaling",
            [row.learning_rate_factor / base.learning_rate_factor for row in rows],
            _STYLES[1],
        ),
    ):
        axes.plot(sizes, values, shape + "-", color=colour, label=label)
    if any(row.past_limit for row in rows):
        limit = limit_of(plan.network) or LARGEST_LIMIT
        axes.axvline(limit.batch_size, color=_MARK, linewidth=1, linestyle="--",
                     label=f"reported limit of {limit.network}, {limit.batch_size:,}")  # fmt: skip
    unit = "batch size in tokens" if plan.in_tokens else "batch size"
    _logarithmic(axes, sizes, f"{unit}, all devices together")
    axes.set_yscale("log", base=2)
    axes.set_title(f"Relative to batch {base.batch_size:,}", loc="left", size=11)
    axes.yaxis.set_major_formatter(lambda value, _: _share(value))


def _measured(axes: Any, plan: Plan) -> None:
    rows = sorted(plan.batches, key=lambda row: row.batch_size)
    for position, (probe, style) in enumerate(zip(plan.probes, cycle(_STYLES), strict=False)):
        known = [row for row in rows if row.measured_seconds[position] is not None]
        axes.plot([row.batch_size for row in known],
                  [row.measured_seconds[position] for row in known], style[1] + "-",
                  color=style[0], label=_short(probe.device_name))  # fmt: skip
    _logarithmic(axes, [row.batch_size for row in rows], "batch size")
    _times(axes)
    axes.set_title("Forecast from measured steps, one device", loc="left", size=11)


def _logarithmic(axes: Any, values: list[int], label: str) -> None:
    """Give the x axis a logarithmic scale with these values as ticks, the last ones if many."""
    axes.set_xscale("log", base=2)
    shown = values[:: max(1, -(-len(values) // 7))]
    axes.set_xticks(shown, [f"{value:,}" for value in shown])
    axes.set_xlabel(label)
    if len(values) == 1:
        axes.set_xlim(values[0] / 2, values[0] * 2)


def _short(name: str) -> str:
    return textwrap.shorten(printable(name), 34, placeholder="...")


def _share(value: float) -> str:
    return f"{value:,g}" if value >= 1 else f"1/{1 / value:,g}"


def _times(axes: Any) -> None:
    """Give the y axis a logarithmic scale with ticks that are said as times are."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    low, high = low / 3, high * 3  # so that one time alone has ticks around it
    shown = [seconds for seconds in _TICKS if low <= seconds <= high]
    axes.set_yticks(shown, [_TICKS[seconds] for seconds in shown])
    axes.set_ylim(low, high)


def _finish(figure: Any, axes: Any, plan: Plan) -> None:
    for each in axes:
        each.minorticks_off()
        each.set_axisbelow(True)
        each.grid(visible=True, color=_GRID, linewidth=0.8)
        each.tick_params(labelsize=9)
        each.spines[["top", "right"]].set_visible(False)
        columns = 1 + len(each.get_legend_handles_labels()[1]) // 7
        each.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.13),
                    ncols=columns)  # fmt: skip
    total = "operations unknown" if plan.flops is None else format_compute(plan.flops)
    formula = str(plan.operations).partition(" = ")[0] if plan.operations else ""
    figure.text(0.06, 0.95, total, size=14, weight="bold", color=_INK)
    figure.text(0.06, 0.905, formula, size=8.5, color=_GREY)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.82, bottom=0.29, wspace=0.2)
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        text.set_parse_math(False)
