"""What a trend's fit says, in sentences: never a doubling time without what it was made on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from computemeter.trend.fit import TrendFit
from computemeter.wording import counted

_SETS = {"all": "all runs", "records": "the runs that set a record"}


def set_name(frontier: str) -> str:
    """Say which runs a frontier takes.

    >>> set_name("largest-per-month"), set_name("top-3")
    ('the largest run of each month', 'the runs among the 3 largest up to their time')
    """
    if frontier.startswith("largest-per-"):
        return f"the largest run of each {frontier.removeprefix('largest-per-')}"
    if frontier.startswith("top-"):
        return f"the runs among the {frontier.removeprefix('top-')} largest up to their time"
    return _SETS.get(frontier, frontier)


def headline(fit: TrendFit | str) -> str:
    """Say the doubling time with its interval, or why there is none.

    Args:
        fit: the fit, or the reason why there is none.
    """
    if isinstance(fit, str):
        return f"Too few runs for a trend: {fit}."
    if not fit.trend:
        ends = (_factor(fit.growth_per_year_low), _factor(fit.growth_per_year_high))
        return f"{fit.headline.capitalize()}, {ends[0]} to {ends[1]} a year."
    return (
        f"Compute per run {fit.headline}, {_factor(fit.growth_per_year)} a year,"
        f" {_factor(fit.growth_since_first)} since the first of the fitted runs."
    )


def details(fit: TrendFit | str, frontier: str, *, include_estimated: bool) -> list[str]:
    """Say what the fit was made on, how well it describes it, and what else is to be known."""
    what = set_name(frontier) + (", estimated runs included" if include_estimated else "")
    if isinstance(fit, str):
        return [f"The fit would take {what}."]
    r2 = "unknown" if fit.r2 is None else f"{fit.r2:.2f}"
    window = f"{_day(fit.first)} to {_day(fit.last)}"
    spread = f"{fit.residual_spread:.2f} decades, a factor of {10**fit.residual_spread:.2g}"
    return [
        f"Fitted: {what}; n = {fit.n:,} in {counted(fit.clusters, 'project')}, {window}.",
        f"R² {r2}; residual spread {spread}.{_theil_sen(fit)}",
        *fit.notes,
    ]


def left_out(counts: Mapping[str, int]) -> list[str]:
    """Write reasons with their counts, the most frequent first.

    >>> left_out({"whose compute is not known": 2, "source that is down": 1})
    ['2 runs whose compute is not known', '1 source that is down']
    """
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return [
        f"{count:,} {reason}"
        if reason.startswith("source")
        else f"{counted(count, 'run')} {reason}"
        for reason, count in ordered
    ]


def _factor(factor: float) -> str:
    if math.isinf(factor):
        return "beyond any number"
    if factor >= 9.95:
        return f"{factor:,.0f}x" if factor < 1e7 else f"{factor:.1e}x"
    return f"{factor:.2g}x"


def _theil_sen(fit: TrendFit) -> str:
    if fit.theil_sen_slope is None or not fit.trend:
        return ""
    if not fit.theil_sen_slope:
        return " The Theil-Sen line is level."
    months = 12 * math.log10(2) / fit.theil_sen_slope
    verb = "doubles" if months > 0 else "halves"
    return f" The Theil-Sen line {verb} every {abs(months):.3g} months."


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
