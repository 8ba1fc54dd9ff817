"""The curve of a run's loss against the compute it used, from the ledgers of its segments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from computemeter.ledger import Ledger, Progress
from computemeter.units import pfs_days

_MOST_POINTS = 2000


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The loss of the weights that a run ended with, at the compute they had taken by then.

    Attributes:
        name: of the run (untrusted text).
        pfs_days: compute, rising.
        loss: at the same points; None where it was NaN or infinite, which leaves a gap.
        steps: the tracker's, at the same points.
        gaps: how many losses were NaN or infinite, before the points were thinned.
        left_out: how many points are not shown because a crash threw their work away.
    """

    name: str
    pfs_days: tuple[float, ...]
    loss: tuple[float | None, ...]
    steps: tuple[int, ...]
    gaps: int = 0
    left_out: int = 0


def loss_curve(ledgers: Iterable[Ledger]) -> LossCurve | None:
    """Join the segments of one run to the curve of its loss against its compute.

    Work that a crash threw away is no part of the run's compute, and would draw a second line over
    the one that replaced it: its points are left out and counted.

    Args:
        ledgers: of one run, in any order; of copies of a segment the longest counts.

    Returns:
        At most about 2,000 points, with the lowest and highest losses among them; None where
        fewer than two points have both loss and compute.
    """
    segments = _in_order(ledgers)
    points: list[_Point] = []
    left_out = 0
    for segment in segments:
        start = _compute_at_start(segment)
        while points and start is not None and points[-1].pfs_days > start:
            points.pop()
            left_out += 1
        points.extend(_points(segment))
    if sum(point.loss is not None for point in points) < 2:
        return None
    shown = _thinned(points)
    return LossCurve(
        name=segments[-1].header.name,
        pfs_days=tuple(point.pfs_days for point in shown),
        loss=tuple(point.loss for point in shown),
        steps=tuple(point.step for point in shown),
        gaps=sum(point.loss is None for point in points),
        left_out=left_out,
    )


class _Point(NamedTuple):
    step: int
    pfs_days: float
    loss: float | None


def _in_order(ledgers: Iterable[Ledger]) -> list[Ledger]:
    longest: dict[str, Ledger] = {}
    for ledger in ledgers:
        known = longest.setdefault(ledger.header.segment, ledger)
        if len(ledger.progress) > len(known.progress):
            longest[ledger.header.segment] = ledger
    return sorted(longest.values(), key=lambda each: (each.header.started, each.header.segment))


def _compute_at_start(segment: Ledger) -> float | None:
    """Return the pfs-days in the weights that a segment began with; None where not known."""
    for record in segment.progress:
        run, own = record.totals.get("run_flops"), record.totals.get("model_flops")
        if isinstance(run, int) and isinstance(own, int):
            return pfs_days(run - own)
    return None


def _points(segment: Ledger) -> Iterator[_Point]:
    for record in segment.progress:
        compute = _number(record, "compute/pfs_days")
        # No loss was read at a step without one; a loss of null was NaN or infinite. Zero compute
        # has no place on a logarithmic axis.
        if compute is not None and compute > 0 and "compute/loss" in record.metrics:
            yield _Point(record.step, compute, _number(record, "compute/loss"))


def _number(record: Progress, metric: str) -> float | None:
    value = record.metrics.get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _thinned(points: list[_Point]) -> list[_Point]:
    """Keep what can be seen: of each group of neighbours the lowest, the highest and a gap.

    Groups of equal number serve the linear axis, groups of equal ratios of compute the
    logarithmic one.
    """
    if len(points) <= _MOST_POINTS:
        return points
    # Two divisions, and up to three points of each group.
    groups = _MOST_POINTS // 6 - 1
    low, high = math.log(points[0].pfs_days), math.log(points[-1].pfs_days)
    per_group, width = len(points) / groups, (high - low) / groups or 1.0
    kept = {0, len(points) - 1}
    kept |= _extremes(points, lambda index: int(index / per_group))
    kept |= _extremes(points, lambda index: int((math.log(points[index].pfs_days) - low) / width))
    return [points[index] for index in sorted(kept)]


def _extremes(points: list[_Point], group_of: Callable[[int], int]) -> set[int]:
    kept: set[int] = set()
    for _, group in groupby(range(len(points)), key=group_of):
        members = list(group)
        known = [index for index in members if points[index].loss is not None]
        if known:
            kept.add(min(known, key=lambda index: points[index].loss or 0.0))
            kept.add(max(known, key=lambda index: points[index].loss or 0.0))
        kept.update([index for index in members if points[index].loss is None][:1])
    return kept
