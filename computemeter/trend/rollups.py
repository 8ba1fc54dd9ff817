"""What a team's runs add up to, per user, project or week.

Only what one run burned itself is added: run and spent compute. Lineage holds the base model's
compute, which every run that started from it would bring in again, so it is never summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from computemeter.records import RunRecord


@dataclass(frozen=True, slots=True)
class RollUp:
    """The sums over one group of runs; a total is None where it is known of no run.

    Attributes:
        name: the user, the project or the week's Monday (untrusted text); None where not known.
        runs: all runs of the group.
        run_flops: work in final weights, of the metered runs.
        spent_flops: everything these burned.
        lost_flops: spent - run, over the runs of which both are known.
        estimated_flops: method 2 of the runs that have no method 1; in no other column.
        device_seconds: training seconds x devices.
        mfu: spent / what the devices could have done, over the runs of which both are known.
        unknown: runs without any compute, in no sum.
        overclaiming: runs that claim more than their devices can do, in no sum.
    """

    name: str | None
    runs: int
    run_flops: int | None
    spent_flops: int | None
    lost_flops: int | None
    estimated_flops: int | None
    device_seconds: float | None
    mfu: float | None
    unknown: int
    overclaiming: int


def by_user(run: RunRecord) -> str | None:
    """Return who started a run."""
    return run.user or None


def by_project(run: RunRecord) -> str | None:
    """Return a run's project."""
    return run.project or None


def by_week(run: RunRecord) -> str | None:
    """Return the Monday (UTC) of the week in which a run started."""
    if run.started is None:
        return None
    return _monday(run.started // 86_400)


@lru_cache(4096)
def _monday(days: float) -> str | None:
    try:
        day = datetime.fromtimestamp(86_400 * days, UTC).date()
        return (day - timedelta(days=day.weekday())).isoformat()
    except (OverflowError, ValueError, OSError):  # no such year
        return None


def roll_up(
    records: Iterable[RunRecord], group_of: Callable[[RunRecord], str | None]
) -> list[RollUp]:
    """Add runs up by group, the one that spent most first."""
    groups: dict[str | None, list[RunRecord]] = {}
    for run in records:
        groups.setdefault(group_of(run), []).append(run)
    sums = [_sums(name, runs) for name, runs in groups.items()]
    return sorted(sums, key=lambda each: (-(each.spent_flops or 0), each.name or ""))


def is_estimated(run: RunRecord) -> bool:
    """Tell whether all that is known of a run's compute is method 2."""
    operations = run.run_flops is not None or run.spent_flops is not None
    return run.gpu_time_flops is not None and (run.estimated or not operations)


def _sums(name: str | None, runs: Sequence[RunRecord]) -> RollUp:
    sane = [run for run in runs if not run.overclaims]
    metered: list[RunRecord] = []
    estimated: list[RunRecord] = []
    for run in sane:
        (estimated if is_estimated(run) else metered).append(run)
    both = [run for run in metered if run.run_flops is not None and run.spent_flops is not None]
    return RollUp(
        name=name,
        runs=len(runs),
        run_flops=_total(run.run_flops for run in metered),
        spent_flops=_total(run.spent_flops for run in metered),
        lost_flops=_total((run.spent_flops or 0) - (run.run_flops or 0) for run in both),
        estimated_flops=_total(run.gpu_time_flops for run in estimated),
        device_seconds=_seconds(sane),
        mfu=_mfu(metered),
        unknown=sum(run.spent_flops is None and run.run_flops is None for run in metered),
        overclaiming=len(runs) - len(sane),
    )


def _total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _seconds(runs: Iterable[RunRecord]) -> float | None:
    known = [run.device_seconds for run in runs if run.device_seconds is not None]
    return sum(known) if known else None


def _mfu(runs: Iterable[RunRecord]) -> float | None:
    known = [
        (run.spent_flops, run.possible_flops)
        for run in runs
        if run.spent_flops is not None and run.possible_flops
    ]
    # Of whole numbers: a total may be larger than any float.
    possible = sum(each for _, each in known)
    return sum(each for each, _ in known) / possible if possible else None
