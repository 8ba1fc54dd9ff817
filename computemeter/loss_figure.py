"""A run's loss against the compute it used: a page that works offline, and a picture.

Drawn at the end of a training run, in its process and perhaps beside its other threads: nothing
here changes the user's random numbers, warnings or settings of matplotlib, and none of those
settings changes the figures.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from computemeter.ledger import Ledger, LedgerError, read_ledger
from computemeter.loss_curve import LossCurve, loss_curve
from computemeter.sinks import describe
from computemeter.units import PFS_DAY, format_compute, format_flops

__all__ = ["INSTALL", "PAGE", "PICTURE", "LossCurve", "loss_curve", "write_figures"]

PAGE = "loss_against_compute.html"
PICTURE = "loss_against_compute.png"
INSTALL = "pip install 'computemeter[trend]'"
"""Installs what draws both."""

_COMPUTE_LABEL = "compute used by this run, petaflop/s-days"
_LOSS_LABEL = "training loss"
_LONGEST_NAME = 70
# So few points that each is shown as a dot.
_FEW = 60
# From these ratios of the largest to the smallest value on, an axis begins logarithmic.
_WIDE_COMPUTE, _WIDE_LOSS = 3.0, 100.0
# Okabe and Ito's blue, told from black and grey with any kind of colour vision.
_BLUE, _INK, _GREY, _GRID = "#0072B2", "#222222", "#555555", "#D9D9D9"
_FONT = "DejaVu Sans"  # comes with matplotlib
# plotly offers by itself to send the chart to its makers.
_CONFIG = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
    "responsive": True,
    "showSendToCloud": False,
}
_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>html, body {{height: 100%; margin: 0}}</style>
</head>
<body>{chart}</body>
</html>
"""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_figures(
    ledger_paths: Iterable[str | Path],
    folder: str | Path,
    *,
    warn: Callable[[str], None] = lambda _message: None,
) -> list[Path]:
    """Draw a run's loss against its compute; never raises for want of a library or a disk.

    Args:
        ledger_paths: the ledgers of the run's segments, in any order.
        folder: takes the figures, and is made where it is missing.
        warn: takes one line for each ledger that cannot be read and each figure that cannot be
            drawn or written, and one with the command that installs what is missing.

    Returns:
        What was written: the page (plotly) and the picture (matplotlib); nothing for a run with
        fewer than two points.
    """
    curve = loss_curve(_readable(ledger_paths, warn))
    if curve is None:
        return []
    written: list[Path] = []
    missing: list[str] = []
    for library, name, draw in (("plotly", PAGE, _page), ("matplotlib", PICTURE, _picture)):
        path = Path(folder, name)
        try:
            content = draw(curve)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written.append(path)
        except ModuleNotFoundError:
            missing.append(library)
        except Exception as error:  # noqa: BLE001 - no figure is worth a training run
            warn(f"{name} was not written: {describe(error)}")
    if missing:
        what = " and ".join(missing)
        warn(f"no figure of loss against compute by {what}, not installed: {INSTALL}")
    return written


def _readable(paths: Iterable[str | Path], warn: Callable[[str], None]) -> Iterator[Ledger]:
    for path in paths:
        try:
            yield read_ledger(path)
        except (LedgerError, OSError) as error:
            warn(f"left out of the figure of loss against compute: {describe(error)}")


def _page(curve: LossCurve) -> bytes:
    """Draw the page; everything a browser needs is in it."""
    from plotly.io import to_html

    # A plain dict: building plotly's own objects takes longer than all the rest.
    chart = to_html(
        {"data": _traces(curve), "layout": _layout(curve)},
        config=_CONFIG,
        include_plotlyjs=True,
        full_html=False,
        div_id="loss-against-compute",
        validate=False,
    )
    return _SHELL.format(title=html.escape(_title(curve)), chart=chart).encode()


def _traces(curve: LossCurve) -> list[dict[str, Any]]:
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": curve.pfs_days,
        "y": curve.loss,
        "line": {"color": _BLUE, "width": 2},
        "hovertext": [_at(*point) for point in _points(curve)],
        "hoverinfo": "text",
        "showlegend": False,
    }
    dots = _dots(curve)
    return [
        line,
        {
            "type": "scatter",
            "mode": "markers",
            "x": [curve.pfs_days[index] for index in dots],
            "y": [curve.loss[index] for index in dots],
            "marker": {"color": _BLUE, "size": 7},
            "hoverinfo": "skip",
            "showlegend": False,
        },
    ]


def _points(curve: LossCurve) -> Iterable[tuple[int, float, float | None]]:
    return zip(curve.steps, curve.pfs_days, curve.loss, strict=True)


def _at(step: int, pfs_days: float, loss: float | None) -> str:
    shown = "" if loss is None else f"loss {loss:.4g}<br>"
    return f"{shown}step {step:,}<br>{format_compute(pfs_days * PFS_DAY)}"


def _layout(curve: LossCurve) -> dict[str, Any]:
    x, y = (
        _axis(_COMPUTE_LABEL, _scale_of_compute(curve)),
        _axis(_LOSS_LABEL, _scale_of_loss(curve)),
    )
    switches = [{**_switch("compute", "xaxis", x["type"]), "x": 0.0, "xanchor": "left"}]
    # A logarithmic axis would leave out what is not positive, and not say so.
    if all(loss is None or loss > 0 for loss in curve.loss):
        switches.append({**_switch("loss", "yaxis", y["type"]), "x": 1.0, "xanchor": "right"})
    return {
        "title": {
            "text": f"<b>{html.escape(_title(curve))}</b>",
            "subtitle": {"text": "<br>".join(_facts(curve)), "font": {"size": 13, "color": _GREY}},
            "x": 0.0,
            "y": 1.0,
            "xanchor": "left",
            "yanchor": "top",
            "pad": {"l": 90, "t": 24},
        },
        "font": {"family": f"{_FONT}, Verdana, sans-serif", "size": 14, "color": _INK},
        "xaxis": x,
        "yaxis": y,
        "updatemenus": switches,
        "hovermode": "closest",
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "margin": {"l": 90, "r": 40, "t": 140, "b": 80},
    }


def _axis(label: str, scale: str) -> dict[str, Any]:
    return {
        "type": scale,
        "title": {"text": label},
        "exponentformat": "power",
        "nticks": 6,
        "showexponent": "all",
        "gridcolor": _GRID,
        "linecolor": _INK,
        "ticks": "outside",
        "zeroline": False,
    }


def _switch(name: str, axis: str, now: str) -> dict[str, Any]:
    """Make the two buttons that draw an axis linearly or logarithmically."""
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": [
            {
                "label": f"{name}: {kind}",
                "method": "relayout",
                "args": [{f"{axis}.type": kind, f"{axis}.autorange": True}],
            }
            for kind in ("log", "linear")
        ],
        "active": int(now == "linear"),
        "y": 1.01,
        "yanchor": "bottom",
        "bgcolor": _GRID,
        "bordercolor": _GREY,
        "font": {"size": 12},
    }


def _scale_of_compute(curve: LossCurve) -> str:
    return "log" if _ratio(curve.pfs_days) >= _WIDE_COMPUTE else "linear"


def _scale_of_loss(curve: LossCurve) -> str:
    return "log" if _ratio(curve.loss) >= _WIDE_LOSS else "linear"


def _ratio(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    low = min(known)
    return max(known) / low if low > 0 else 0.0


def _title(curve: LossCurve) -> str:
    # What cannot be printed could turn the line around, or fail to encode.
    letters = " ".join(curve.name.split())
    name = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in letters)
    if len(name) > _LONGEST_NAME:
        return name[: _LONGEST_NAME - 1] + "…"
    return name or "Loss against compute"


def _facts(curve: LossCurve) -> list[str]:
    """Say in a line what the run came to, and in another what is missing."""
    known = [loss for loss in curve.loss if loss is not None]
    came_to = (
        f"{format_compute(curve.pfs_days[-1] * PFS_DAY)} by step {curve.steps[-1]:,}; "
        f"loss {known[-1]:.4g}, lowest {min(known):.4g}"
    )
    missing = []
    if curve.gaps:
        missing.append(f"NaN or infinite at {curve.gaps:,} logged steps: gaps")
    if curve.left_out:
        missing.append(f"left out: {curve.left_out:,} logged steps that a crash threw away")
    return [came_to, "; ".join(missing)] if missing else [came_to]


def _dots(curve: LossCurve) -> list[int]:
    """Find the points to show as dots: all where they are few, else the ends of every line."""
    gap = [True, *(loss is None for loss in curve.loss), True]
    few = len(curve.loss) <= _FEW
    return [
        index
        for index in range(len(curve.loss))
        if not gap[index + 1] and (few or gap[index] or gap[index + 2])
    ]


def _picture(curve: LossCurve) -> bytes:
    """Draw the picture, as PNG; what the user's settings could change is set here."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    # No pyplot: it would choose a backend, and keep the figure among the user's.
    figure = Figure(figsize=(9, 5.6), dpi=150, facecolor="white")
    figure.set_layout_engine("none")
    facts = _facts(curve)
    figure.text(0.1, 0.935, _fitting(_title(curve)), size=13, weight="bold", color=_INK)
    for row, fact in enumerate(facts):
        figure.text(0.1, 0.89 - 0.042 * row, fact, size=10, color=_GREY)
    axes = figure.add_axes((0.1, 0.11, 0.86, 0.71 - 0.042 * len(facts)), facecolor="white")
    _plot(axes, curve)
    _label(axes)
    for text in figure.findobj(Text):
        text.set(family=_FONT, usetex=False, parse_math=False)
    content = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(content)
    return content.getvalue()


def _plot(axes: Any, curve: LossCurve) -> None:
    axes.set_xscale(_scale_of_compute(curve))
    axes.set_yscale(_scale_of_loss(curve))
    loss = [math.nan if value is None else value for value in curve.loss]
    (line,) = axes.plot(curve.pfs_days, loss, "-o", color=_BLUE, markevery=_dots(curve))
    line.set(linewidth=1.4, markersize=5, markeredgecolor=_BLUE)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis="both", which="major", color=_GRID, linewidth=0.8, linestyle="-")
    axes.margins(x=0.02, y=0.05)


def _label(axes: Any) -> None:
    axes.set_xlabel(_COMPUTE_LABEL, size=11, color=_INK)
    axes.set_ylabel(_LOSS_LABEL, size=11, color=_INK)
    # A second pair of axes, not a second axis: that one would undo its marks while it is drawn.
    top = axes.twiny()
    top.set_xscale(axes.get_xscale())
    top.set_xlim([limit * PFS_DAY for limit in axes.get_xlim()])
    _marks(axes.xaxis, axes.get_xlim(), _number)
    _marks(axes.yaxis, axes.get_ylim(), _number)
    _marks(top.xaxis, top.get_xlim(), format_flops)
    for each in (axes, top):
        each.tick_params(which="both", direction="out", color=_INK, labelcolor=_INK, labelsize=10)
        each.spines[:].set(color=_INK, linewidth=0.8)


def _marks(axis: Any, limits: tuple[float, float], write: Callable[[float], str]) -> None:
    """Mark round numbers, each written in full."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis.set_minor_locator(NullLocator())
    if axis.get_scale() == "log":
        decades = math.log10(limits[1] / limits[0])
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    else:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=(1, 2, 2.5, 5, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _position: write(value)))
    axis.get_ticklabels()  # makes them


def _number(value: float) -> str:
    if not value or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.6g}"
    mantissa, _, exponent = f"{value:.5e}".partition("e")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    times = "\N{MULTIPLICATION SIGN}"
    return power if float(mantissa) == 1 else f"{float(mantissa):g}{times}{power}"


def _fitting(text: str) -> str:
    """Replace what the font lacks: matplotlib would warn, which `-W error` makes an exception."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(_FONT)).get_charmap()
    return "".join(letter if ord(letter) in known else "\N{WHITE SQUARE}" for letter in text)
