"""The trend of a team's compute: how fast it doubles, and whether that can be told at all.

Least squares of log10 FLOP on time, as in "AI and compute" (OpenAI, 2018), with a bootstrap by
project for the interval. Pure numbers: which runs are fit to be fitted is the caller's decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from computemeter.trend.frontier import ERAS, Era, TrendPoint, choose, within
from computemeter.units import SECONDS_PER_DAY

__all__ = [
    "DAYS_PER_YEAR",
    "ERAS",
    "MOORES_LAW_SLOPE",
    "Era",
    "TooFewDatesError",
    "TrendFit",
    "TrendPoint",
    "choose",
    "fit_trend",
    "moores_law",
    "within",
]

DAYS_PER_YEAR = 365.25
"""A month is a twelfth of it; 30 days would make a doubling time 1.4 % too long in months."""
MOORES_LAW_SLOPE = math.log10(2) / 1.5
"""Doubling in 18 months, the source's comparison, in log10 a year."""

_SECONDS_PER_YEAR = DAYS_PER_YEAR * SECONDS_PER_DAY
_INTERVAL = (2.5, 97.5)
_FEWEST_DATES = 3
# Fewer points, or clusters, than this give an interval that is itself uncertain.
_FEW = 8
# Drawn as a whole, two clusters make three different samples.
_FEWEST_CLUSTERS = 3
_THEIL_SEN_POINTS = 2000


class TooFewDatesError(ValueError):
    """The points lie on fewer than three days, through which no trend is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendFit:
    """A fitted line, with how far to trust it; every interval is of 95 %.

    Attributes:
        frontier: which points were chosen; see `choose`.
        n: how many these were.
        clusters: how many different ones, a point without one counted as its own.
        first: time of the earliest, in seconds since the epoch.
        last: time of the latest.
        slope: log10 FLOP a year (365.25 days).
        slope_low: 2.5 % of the slopes of the resamples are below.
        slope_high: 2.5 % are above.
        intercept: log10 FLOP of the line at `first`.
        doubling_months: None where there is no trend; negative where compute falls, and then the
            time in which it halves.
        doubling_months_low: one end of its interval, the percentile of the slope inverted. Without
            a trend it is the fastest doubling that the points allow.
        doubling_months_high: the other; None where it has no end.
        growth_per_year: the factor by which the line grows in a year; infinite beyond any float.
        growth_per_year_low: from `slope_low`.
        growth_per_year_high: from `slope_high`.
        growth_since_first: the factor by which the line grows from `first` to `last`.
        r2: None where all have the same compute.
        residual_spread: standard deviation around the line in log10 FLOP.
        theil_sen_slope: median slope of pairs of points, which outliers hardly move; None where it
            was not computed.
        theil_sen_sampled: how many points it was computed from, where not from all.
        trend: whether the slope's interval leaves out 0.
        notes: what a reader must know, a sentence each.
        lines: slope and intercept of each resample.
    """

    frontier: str
    n: int
    clusters: int
    first: float
    last: float
    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    doubling_months: float | None
    doubling_months_low: float | None
    doubling_months_high: float | None
    growth_per_year: float
    growth_per_year_low: float
    growth_per_year_high: float
    growth_since_first: float
    r2: float | None
    residual_spread: float
    theil_sen_slope: float | None
    theil_sen_sampled: int | None
    trend: bool
    notes: tuple[str, ...]
    lines: tuple[tuple[float, float], ...] = field(repr=False)

    @property
    def headline(self) -> str:
        """The doubling time in words, or that there is none."""
        if not self.trend:
            return "no trend: the 95 % interval of the slope includes 0"
        months = [self.doubling_months, self.doubling_months_low, self.doubling_months_high]
        middle, *ends = (abs(value) for value in months if value is not None)
        verb = "doubles" if self.slope > 0 else "halves"
        return (
            f"{verb} every {middle:.3g} months (95 % interval {min(ends):.3g} to {max(ends):.3g})"
        )

    def predict(self, when: float) -> float:
        """Return the line's log10 FLOP at a time in seconds since the epoch."""
        return self.intercept + self.slope * (when - self.first) / _SECONDS_PER_YEAR

    def band(self, whens: Sequence[float]) -> tuple[list[float], list[float]]:
        """Return the lower and the upper end of the line's interval at each time, in log10 FLOP.

        It is an interval of the line, not of single runs: those scatter by `residual_spread` more.
        """
        import numpy as np

        slopes, intercepts = np.array(self.lines).T
        years = (np.array(whens, dtype=float) - self.first) / _SECONDS_PER_YEAR
        low, high = np.percentile(
            intercepts[:, None] + slopes[:, None] * years, _INTERVAL, axis=0
        ).tolist()
        return low, high


def fit_trend(
    points: Iterable[TrendPoint],
    *,
    frontier: str = "all",
    window: tuple[float, float] | None = None,
    seed: int = 0,
    resamples: int = 4000,
) -> TrendFit:
    """Fit the trend of the chosen points.

    The interval comes from samples of whole clusters, drawn with replacement. With one or two
    clusters there are no samples to speak of: single points are drawn instead, and a note says so.

    Args:
        points: in any order; see `choose` for what they must be.
        frontier: see `choose`.
        window: only what lies in it is fitted, an `Era`'s for instance; what is a record, or among
            the largest, follows from all points before it too.
        seed: of the resamples; the user's random numbers are not touched.
        resamples: how many.

    Raises:
        TooFewDatesError: the chosen points lie on fewer than three days (UTC).
        ValueError: see `choose`.
        ModuleNotFoundError: numpy is not installed (`computemeter[trend]`).
    """
    chosen = choose(points, frontier)
    chosen = within(chosen, window) if window else chosen
    days = len({point.when // SECONDS_PER_DAY for point in chosen})
    if days < _FEWEST_DATES:
        raise TooFewDatesError(
            f"a trend needs runs on {_FEWEST_DATES} days, and these lie on {days}"
        )
    return _fit(chosen, frontier, seed, resamples)


def _fit(chosen: list[TrendPoint], frontier: str, seed: int, resamples: int) -> TrendFit:
    import numpy as np

    from computemeter.trend import regression

    first, last, n = chosen[0].when, chosen[-1].when, len(chosen)
    x = (np.array([point.when for point in chosen], dtype=float) - first) / _SECONDS_PER_YEAR
    y = np.log10(np.array([point.flops for point in chosen], dtype=float))
    units, clusters = _units(chosen)
    line = regression.least_squares(x, y)
    slopes, intercepts = regression.resampled_lines(
        x, y, np.array(units), resamples=resamples, seed=seed
    )
    low, high = np.percentile(slopes, _INTERVAL).tolist()
    trend = min(low, line.slope) > 0 or max(high, line.slope) < 0
    months_low, months_high = _months_interval(low, high, trend)
    return TrendFit(
        frontier=frontier,
        n=n,
        clusters=clusters,
        first=first,
        last=last,
        slope=line.slope,
        slope_low=low,
        slope_high=high,
        intercept=line.intercept,
        doubling_months=_months(line.slope) if trend else None,
        doubling_months_low=months_low,
        doubling_months_high=months_high,
        growth_per_year=_factor(line.slope),
        growth_per_year_low=_factor(low),
        growth_per_year_high=_factor(high),
        growth_since_first=_factor(line.slope * float(x[-1])),
        r2=line.r2,
        residual_spread=line.spread,
        theil_sen_slope=regression.theil_sen(x, y, most=_THEIL_SEN_POINTS, seed=seed),
        theil_sen_sampled=_THEIL_SEN_POINTS if n > _THEIL_SEN_POINTS else None,
        trend=trend,
        notes=tuple(_notes(chosen, frontier, clusters, 1 - len(slopes) / resamples)),
        lines=tuple(zip(slopes.tolist(), intercepts.tolist(), strict=True)),
    )


def _units(chosen: list[TrendPoint]) -> tuple[list[int], int]:
    """Number what is drawn as a whole, and count the clusters."""
    numbers: dict[str | int, int] = {}
    units = [
        numbers.setdefault(point.cluster or index, len(numbers))
        for index, point in enumerate(chosen)
    ]
    few = len(numbers) < _FEWEST_CLUSTERS
    return list(range(len(chosen))) if few else units, len(numbers)


def _months(slope: float) -> float:
    return 12 * math.log10(2) / slope


def _months_interval(low: float, high: float, trend: bool) -> tuple[float | None, float | None]:
    if trend:
        return _months(high), _months(low)
    return _months(high) if high > 0 else None, None


def _factor(exponent: float) -> float:
    try:
        return math.pow(10, exponent)
    except OverflowError:
        return math.inf


def _notes(
    chosen: list[TrendPoint], frontier: str, clusters: int, undefined: float
) -> Iterator[str]:
    n, seconds = len(chosen), chosen[-1].when - chosen[0].when
    if n < _FEW:
        yield f"Only {n} points: slope and interval are rough."
    if seconds < _SECONDS_PER_YEAR:
        yield f"The points span {seconds / SECONDS_PER_DAY:.0f} days, less than a year."
    if clusters < _FEWEST_CLUSTERS:
        yield (
            f"The points come from {clusters} project{'s' * (clusters > 1)}: the interval is that "
            "of single runs, and too narrow where a project's runs resemble each other."
        )
    elif clusters < min(n, _FEW):
        yield f"The interval rests on {clusters} projects: it is rough, and rather too narrow."
    if frontier == "records" or frontier.startswith("top-"):
        yield (
            "Records can only rise: a trend among the largest runs says nothing about all of them."
        )
    if undefined > 0.01:
        yield f"{undefined:.0%} of the resamples fell on one date and were left out."
    if n > _THEIL_SEN_POINTS:
        yield f"The Theil-Sen slope is that of {_THEIL_SEN_POINTS:,} points drawn from {n:,}."


def moores_law(when: float, *, from_when: float, from_log10: float) -> float:
    """Return log10 FLOP at a time, of a line that doubles in 18 months from where it starts.

    >>> moores_law(1.5 * 365.25 * 86400, from_when=0.0, from_log10=18.0) - 18  # log10 of 2
    0.301029995663981...
    """
    return from_log10 + MOORES_LAW_SLOPE * (when - from_when) / _SECONDS_PER_YEAR
