"""The trend as a picture, PNG or SVG, by matplotlib: what the page shows when it opens."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from computemeter.appendix import load_appendix
from computemeter.trend.fit import ERAS, TrendFit, moores_law
from computemeter.trend.page import THRESHOLDS
from computemeter.trend.page_data import Dot, Trend, is_flagged, label
from computemeter.trend.words import details, headline, set_name
from computemeter.units import PFS_DAY

# The page's: colours of Okabe and Ito, each with a shape of its own.
_GROUPS = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "D"),
    ("#CC79A7", "^"),
    ("#56B4E9", "v"),
)
_OTHERS = ("#8C8C8C", "h")
_MARK, _INK, _GREY, _GRID = "#D55E00", "#222222", "#595959", "#E3E3E3"
_FONT = "DejaVu Sans"  # comes with matplotlib
_MANY = 3000
_MOST_BARS = 300
_COLUMNS = 125


def still(trend: Trend, kind: Literal["png", "svg"]) -> bytes:
    """Draw the picture.

    Raises:
        ModuleNotFoundError: matplotlib or numpy is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot and no settings of the user's: the same trend is the same picture.
    with mpl.rc_context(_settings(mpl)):
        figure = Figure(figsize=(11, 7), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        lines = _words(trend)
        figure.text(0.075, 0.955, _fitting(label(trend.title)), size=15, weight="bold")
        for row, (line, colour) in enumerate(lines):
            figure.text(0.075, 0.92 - 0.029 * row, line, size=10, color=colour)
        top = 0.93 - 0.029 * len(lines)
        axes = figure.add_axes((0.075, 0.17, 0.85, top - 0.17))
        _draw(axes, trend)
        _label(axes)
        legend = axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.07),
            ncols=4,
            fontsize=8.5,
            frameon=False,
            handletextpad=0.4,
        )
        for text in (*figure.texts, *legend.get_texts()):
            text.set(parse_math=False)
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def _settings(mpl: Any) -> Any:
    return {**mpl.rcParamsDefault, "svg.hashsalt": "computemeter", "font.family": _FONT}


def _words(trend: Trend) -> list[tuple[str, str]]:
    """Return the lines under the title with their colours."""
    said = [
        (headline(trend.fit), _INK),
        *((line, _GREY) for line in _details(trend)),
    ]
    return [(_fitting(row), ink) for line, ink in said for row in textwrap.wrap(line, _COLUMNS)]


def _details(trend: Trend) -> list[str]:
    said = details(trend.fit, trend.frontier, include_estimated=trend.include_estimated)[:2]
    if trend.reference and trend.reference.points:
        said.append(f"Reference: {label(trend.reference.file)}; {trend.reference.attribution}.")
    return said


def _draw(axes: Any, trend: Trend) -> None:
    axes.set_yscale("log")
    axes.set_axisbelow(True)
    axes.grid(visible=True, which="major", color=_GRID, linewidth=0.8)
    if trend.reference is not None:
        points = trend.reference.points
        axes.plot([_date(each.when) for each in points], [each.flops for each in points], "P",
                  color="#A6A6A6", markersize=4, alpha=0.6, markeredgewidth=0,
                  label=_fitting(label(trend.reference.file)))  # fmt: skip
    fitted = trend.fitted
    _bars(axes, trend.dots, fitted)
    _dots(axes, trend, fitted)
    if trend.appendix:
        _published(axes)
    _frame(axes, trend)
    if trend.thresholds:
        _thresholds(axes)
    if not isinstance(trend.fit, str):
        _fit(axes, trend.fit)


def _dots(axes: Any, trend: Trend, fitted: Sequence[int]) -> None:
    many = len(trend.dots) > _MANY
    size, faint = (2.5, 0.25) if many else (5.5, 0.55)
    styles = _styles(trend.dots)
    for project, (colour, shape, name) in styles.items():
        for kind, face in (("metered", colour), ("estimated", "none")):
            some = [dot for dot in trend.dots if _is(dot, project, kind, styles)]
            if not some:
                continue
            axes.plot(*_places(some), shape, color=colour, markerfacecolor=face, alpha=faint,
                      markersize=size, rasterized=many, linestyle="none",
                      markeredgewidth=0.8 if face == "none" else 0,
                      label=name if kind == "metered" else None)  # fmt: skip
    _hollow(axes, trend.dots)
    flagged = [dot for dot in trend.dots if is_flagged(dot.run)]
    _marks(axes, flagged, "o", 10, "flagged: count or peak suspect", face="none")
    over = [dot for dot in trend.dots if dot.kind == "overclaiming"]
    _marks(axes, over, "x", 7, "overclaiming: not in the fit")
    for position in fitted:
        dot = trend.dots[position]
        colour, shape, _ = styles[_key(dot, styles)]
        axes.plot(*_places([dot]), shape, color=colour if dot.kind == "metered" else "none",
                  markersize=6, markeredgecolor=_INK, markeredgewidth=1.1)  # fmt: skip
    if fitted:
        axes.plot([], [], "o", color="#BBBBBB", markeredgecolor=_INK, linestyle="none",
                  label=f"in the fit: {set_name(trend.frontier)}")  # fmt: skip


def _hollow(axes: Any, dots: Sequence[Dot]) -> None:
    if any(dot.kind == "estimated" for dot in dots):
        axes.plot([], [], "o", color=_GREY, markerfacecolor="none", linestyle="none",
                  label="hollow: estimated, method 2 alone")  # fmt: skip


def _marks(
    axes: Any, dots: Sequence[Dot], shape: str, size: float, name: str, *, face: str = _MARK
) -> None:
    if dots:
        axes.plot(*_places(dots), shape, color=_MARK, markersize=size, markerfacecolor=face,
                  markeredgewidth=1.5, linestyle="none", label=name)  # fmt: skip


def _styles(dots: Sequence[Dot]) -> dict[str | None, tuple[str, str, str]]:
    """Give the projects that computed most a colour and shape; "" stands for all others."""
    size: Counter[str | None] = Counter()
    for dot in dots:
        if dot.kind != "overclaiming":
            size[dot.run.project or None] += round(dot.flops)
    ordered = [project for project, _ in size.most_common()]
    own = ordered if len(ordered) <= len(_GROUPS) else ordered[: len(_GROUPS)]
    styles: dict[str | None, tuple[str, str, str]] = {
        project: (*style, _fitting(label(project)) or "unknown")
        for project, style in zip(own, _GROUPS, strict=False)
    }
    others = len(ordered) - len(own)
    styles[""] = (*_OTHERS, f"{others:,} other projects")
    return styles


def _key(dot: Dot, styles: dict[str | None, Any]) -> str | None:
    project = dot.run.project or None
    return project if project in styles else ""


def _is(dot: Dot, project: str | None, kind: str, styles: dict[str | None, Any]) -> bool:
    return dot.kind == kind and _key(dot, styles) == project


def _bars(axes: Any, dots: Sequence[Dot], fitted: Sequence[int]) -> None:
    """Draw the ratio of the methods from each dot, or of the fitted runs, if not too many."""
    both = [dot for dot in dots if dot.kind == "metered" and dot.run.ratio]
    if len(both) > _MOST_BARS:
        both = [dots[position] for position in fitted if dots[position].run.ratio]
    if not 0 < len(both) <= _MOST_BARS:
        return
    whens, flops = _places(both)
    ends = [dot.flops * (dot.run.ratio or 1.0) for dot in both]
    axes.vlines(whens, flops, ends, color=_GREY, linewidth=0.9, alpha=0.8)
    axes.plot(whens, ends, "_", color=_GREY, markersize=6, label="bar to method 2")


def _fit(axes: Any, fit: TrendFit) -> None:
    whens = np.linspace(fit.first, fit.last, 80).tolist()
    dates = [_date(when) for when in whens]
    low, high = fit.band(whens)
    axes.fill_between(dates, _powers(low), _powers(high), color=_INK, alpha=0.13, linewidth=0)
    axes.plot(dates, _powers([fit.predict(when) for when in whens]), color=_INK, linewidth=2.2,
              label="fit, 95 % band")  # fmt: skip
    moore = [moores_law(when, from_when=fit.first, from_log10=fit.intercept) for when in whens]
    axes.plot(dates, _powers(moore), ":", color=_GREY, linewidth=1.8,
              label="doubling every 18 months")  # fmt: skip


def _powers(exponents: Sequence[float]) -> Any:
    return 10.0 ** np.clip(np.array(exponents, dtype=float), 0, 40)


def _published(axes: Any) -> None:
    for era in ERAS:
        if era.start is not None:
            axes.axvline(era.start, color="#9FBFD3", linewidth=0.8)
            axes.annotate(era.name, (era.start, 1), (3, -10), size=7.5, color=_GREY,
                          xycoords=("data", "axes fraction"),
                          textcoords="offset points")  # fmt: skip
    for entry in load_appendix():
        one, two = entry.printed_operations, entry.printed_gpu_time
        height = float(entry.printed.pfs_days * PFS_DAY)
        if one and two:
            axes.vlines(entry.paper_date, height, two.pfs_days * PFS_DAY, color=_GREY, linewidth=1)
        axes.plot([entry.paper_date], [height], "*", color=_GREY, markersize=7,
                  markerfacecolor=_GREY if one else "none")  # fmt: skip
    axes.plot([], [], "*", color=_GREY, linestyle="none", label="published results, 2018")


def _thresholds(axes: Any) -> None:
    low, high = axes.get_ylim()
    for flops, _, text in THRESHOLDS:
        axes.axhline(flops, color=_MARK, linewidth=1, linestyle="--")
        axes.annotate(text, (0.005, flops), (0, 2), size=7.5, color="#A34700",
                      xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    axes.set_ylim(low, max(high, 5 * THRESHOLDS[-1][0]))


def _frame(axes: Any, trend: Trend) -> None:
    """Take the limits from what can be right: one mistaken total would flatten all others."""
    heights = [dot.flops for dot in trend.dots if dot.kind != "overclaiming"]
    heights += [point.flops for point in trend.reference.points] if trend.reference else []
    if trend.appendix:
        heights += [float(entry.printed.pfs_days * PFS_DAY) for entry in load_appendix()]
    if heights:
        axes.set_ylim(float(min(heights)) / 2, float(max(heights)) * 3)


def _label(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    dates = ConciseDateFormatter(locator, usetex=False)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(dates)
    axes.set_ylabel("run compute, FLOP")
    right = axes.twinx()
    right.set_yscale("log")
    right.set_ylim([limit / PFS_DAY for limit in axes.get_ylim()])
    right.set_ylabel("petaflop/s-days")
    for each in (axes, right):
        each.minorticks_off()
        each.tick_params(labelsize=10)
        each.spines["top"].set_visible(False)


def _places(dots: Sequence[Dot]) -> tuple[list[datetime], list[float]]:
    return [_date(dot.when) for dot in dots], [dot.flops for dot in dots]


def _date(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC)


def _fitting(text: str) -> str:
    """Replace what the font lacks, and what matplotlib would take for a formula."""
    return "".join(_letters(text))


def _letters(text: str) -> Iterator[str]:
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(_FONT)).get_charmap()
    for letter in text:
        yield letter if ord(letter) in known else "\N{WHITE SQUARE}"
