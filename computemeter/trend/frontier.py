"""Which runs a trend is fitted to: all, the records, the largest; and the eras of the source.

The choice moves the fitted doubling time more than anything else does, so it has a name that goes
with the fit and stands beside the number.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One run, as a trend sees it.

    Attributes:
        when: seconds since the epoch.
        flops: its compute in FLOP.
        cluster: what its runs have in common, usually the project: the runs of a sweep say
            together little more than one of them. A point that names none stands for itself.
        label: told in messages about the point.
    """

    when: float
    flops: float
    cluster: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Era:
    """A stretch of time with a name.

    Attributes:
        name: in words.
        start: its first day (UTC); None: it has no beginning.
        end: the day after its last; None: it has no end.
        sentence: what was possible in it.
    """

    name: str
    start: date | None
    end: date | None
    sentence: str

    @property
    def window(self) -> tuple[float, float]:
        """Its beginning and its end in seconds since the epoch, infinite where it has none."""
        return (
            -math.inf if self.start is None else _seconds(self.start),
            math.inf if self.end is None else _seconds(self.end),
        )


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


ERAS = (
    Era(
        "before 2012",
        None,
        date(2012, 1, 1),
        "Few trained on GPUs: none of the results in the chart could easily have been reached.",
    ),
    Era(
        "2012 to 2014",
        date(2012, 1, 1),
        date(2014, 1, 1),
        "Few could train on many GPUs: most results took 1 to 8 GPUs of 1 to 2 TFLOP/s, "
        "0.001 to 0.1 pfs-days.",
    ),
    Era(
        "2014 to 2016",
        date(2014, 1, 1),
        date(2016, 1, 1),
        "Large results took 10 to 100 GPUs of 5 to 10 TFLOP/s, 0.1 to 10 pfs-days; data "
        "parallelism brought less and less beyond that.",
    ),
    Era(
        "2016 to 2017",
        date(2016, 1, 1),
        date(2018, 1, 1),
        "Huge batches, architecture search and expert iteration, TPUs and faster interconnects "
        "lifted the limit, at least for some applications.",
    ),
)
"""Of "AI and compute" (OpenAI, 2018), in short; it names years, here from January to December."""

_PERIODS: dict[str, Callable[[datetime], tuple[int, int]]] = {
    "month": lambda day: (day.year, day.month),
    "quarter": lambda day: (day.year, (day.month - 1) // 3),
    "year": lambda day: (day.year, 0),
}
# 0001-01-01 and 10000-01-01, between which the calendar is defined.
_FIRST_SECOND, _AFTER_LAST_SECOND = -62_135_596_800, 253_402_300_800


def choose(points: Iterable[TrendPoint], frontier: str) -> list[TrendPoint]:
    """Return the points that a trend is fitted to, the earliest first.

    Args:
        points: in any order.
        frontier: "all"; "records": larger than everything before; "top-3", or another number:
            among the three largest up to its own time; "largest-per-month", "-quarter" or
            "-year" of the calendar in UTC.

    Raises:
        ValueError: there is no such frontier; or a point's compute is no positive number, or its
            time is none: leaving points out is for whoever can say how many and why.
    """
    select = _selection(frontier)
    checked = [_checked(point) for point in points]
    # Of one instant the largest comes first: papers are dated by the day, and the other is no
    # record. The rest makes the result independent of the order of the input.
    return select(sorted(checked, key=lambda at: (at.when, -at.flops, at.cluster, at.label)))


def within(points: Iterable[TrendPoint], window: tuple[float, float]) -> list[TrendPoint]:
    """Return the points from the window's first second until before its last."""
    start, end = window
    return [point for point in points if start <= point.when < end]


def _checked(point: TrendPoint) -> TrendPoint:
    try:
        usable = math.isfinite(point.flops) and point.flops > 0
        dated = _FIRST_SECOND <= point.when < _AFTER_LAST_SECOND
    except (OverflowError, TypeError):  # an integer that no float holds; None, or a word
        usable = dated = False
    if usable and dated:
        return point
    raise ValueError(
        f"no point of a trend: {point.label[:80]!r}, {point.flops!r} FLOP at "
        f"{point.when!r} s; compute must be positive, and its time in years 1 to 9999"
    )


def _selection(frontier: str) -> Callable[[list[TrendPoint]], list[TrendPoint]]:
    if frontier == "all":
        return list
    if frontier == "records":
        return lambda points: _top(points, 1)
    kind, _, last = frontier.rpartition("-")
    if kind == "top" and last.isascii() and last.isdigit() and int(last):
        return lambda points: _top(points, int(last))
    if kind == "largest-per" and last in _PERIODS:
        return lambda points: _largest(points, _PERIODS[last])
    raise ValueError(
        f"no such frontier: {frontier!r}; there are all, records, top-3 (or another number), "
        "largest-per-month, largest-per-quarter and largest-per-year"
    )


def _top(points: list[TrendPoint], count: int) -> list[TrendPoint]:
    largest: list[float] = []
    chosen = []
    for point in points:
        if len(largest) < count:
            heapq.heappush(largest, point.flops)
        elif point.flops > largest[0]:
            heapq.heapreplace(largest, point.flops)
        else:
            continue
        chosen.append(point)
    return chosen


def _largest(
    points: list[TrendPoint], period: Callable[[datetime], tuple[int, int]]
) -> list[TrendPoint]:
    best: dict[tuple[int, int], TrendPoint] = {}
    for point in points:
        key = period(datetime.fromtimestamp(point.when, UTC))
        if key not in best or point.flops > best[key].flops:
            best[key] = point
    return list(best.values())
