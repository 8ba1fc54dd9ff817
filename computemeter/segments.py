"""Segments added up to runs, whatever source told of them.

A run's segments may be known from its ledgers and from trackers at once. They are told apart by
their ids, never by a name, so that each counts once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, get_args

from computemeter.records import Cause, RunRecord, Verdict
from computemeter.units import PFS_DAY, SECONDS_PER_HOUR

_UNKNOWN = (None, "", "unknown")
_ABSURD = 1e40
"""More FLOP than all computers together have done: a total above it is none."""
_VERDICTS: Mapping[str, Verdict] = {word: word for word in get_args(Verdict)}
_CAUSES: Mapping[str, Cause] = {word: word for word in get_args(Cause)}
# What a tracker may know of a run and a ledger not, and the other way round.
_FACTS = ("url", "name", "user", "project", "team", "device_name", "device_count", "category")


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """One launch's part of a run, as its totals say in a ledger or a tracker.

    Attributes:
        id: see `computemeter.ledger_writer.new_segment_id`; ids sort by time.
        steps: training steps that ran.
        model_flops: method 1.
        gpu_time_flops: method 2.
        possible_flops: device seconds x peak.
        device_seconds: training seconds x devices; None for a launch that died before its first
            record, which says nothing about the run's compute.
        run_flops: the run's work in the weights at this segment's end.
        lineage_flops: the same with the base.
        verdict: of the run, as of this segment.
        cause: of the run, as of this segment.
        energy_joules: drawn by the GPUs trained on; None where it was not measured.
    """

    id: str
    steps: int | None = None
    model_flops: int | None = None
    gpu_time_flops: int | None = None
    possible_flops: int | None = None
    device_seconds: float | None = None
    run_flops: int | None = None
    lineage_flops: int | None = None
    verdict: Verdict = "unknown"
    cause: Cause = "none"
    energy_joules: float | None = None

    @classmethod
    def from_totals(cls, segment: str, totals: Mapping[str, Any]) -> Self:
        """Read the totals of a ledger, an MLflow tag or a W&B summary; no value is trusted."""
        return cls(
            id=segment,
            steps=whole(totals.get("steps")),
            model_flops=whole(totals.get("model_flops")),
            gpu_time_flops=whole(totals.get("gpu_time_flops")),
            possible_flops=_possible(totals),
            device_seconds=number(totals.get("device_seconds")),
            run_flops=whole(totals.get("run_flops")),
            lineage_flops=whole(totals.get("lineage_flops")),
            verdict=a_verdict(totals.get("verdict")),
            cause=a_cause(totals.get("cause")),
            energy_joules=number(totals.get("energy_joules")),
        )


@dataclass(frozen=True, slots=True)
class SegmentedRun(RunRecord):
    """A run of which the segments are known, and so can be told from another source's.

    Attributes:
        parts: in the order of their launch.
    """

    parts: tuple[SegmentRecord, ...] = ()


def add_up(parts: Iterable[SegmentRecord]) -> dict[str, Any]:
    """Add segments up to the fields of a `SegmentedRun` that follow from them.

    A segment seen twice counts once: the later state of it, which has more steps.
    """
    latest: dict[str, SegmentRecord] = {}
    for part in parts:
        known = latest.get(part.id)
        latest[part.id] = part if known is None else _later(known, part)
    ordered = sorted(latest.values(), key=lambda part: part.id)
    measured = [part for part in ordered if _measured(part)]
    last = measured[-1] if measured else SegmentRecord("")
    spent, gpu_time = _sum(measured, "model_flops"), _sum(measured, "gpu_time_flops")
    possible = _sum(measured, "possible_flops")
    return {
        "run_flops": last.run_flops,
        "spent_flops": spent,
        "lineage_flops": last.lineage_flops,
        "gpu_time_flops": gpu_time,
        "ratio": gpu_time / spent if spent and gpu_time is not None else None,
        "verdict": last.verdict,
        "cause": last.cause,
        # Above 1 it is an error to explain, never a utilisation to show.
        "mfu": spent / possible if spent is not None and possible and spent <= possible else None,
        "device_seconds": _sum(measured, "device_seconds"),
        "segments": len(ordered),
        "steps": _sum(measured, "steps"),
        "possible_flops": possible,
        "parts": tuple(ordered),
    }


def latest(metrics: Mapping[str, Any], *, verdict: object, cause: object) -> dict[str, Any]:
    """Take the fields of a `SegmentedRun` from the newest metrics of a run without segments.

    Such a run was killed before a tracker had its totals.
    """
    run_flops, hours = (
        whole(metrics.get("compute/flops")),
        number(metrics.get("compute/device_hours")),
    )
    spent = _flops(metrics.get("compute/spent_pfs_days"))
    return {
        "run_flops": run_flops,
        # It is logged only where it differs.
        "spent_flops": run_flops if spent is None else spent,
        "lineage_flops": _flops(metrics.get("compute/lineage_pfs_days")),
        "gpu_time_flops": _flops(metrics.get("compute/pfs_days_gpu_time")),
        "ratio": number(metrics.get("compute/ratio")),
        "verdict": a_verdict(verdict),
        "cause": a_cause(cause),
        "mfu": None,  # the metric is over the last interval alone
        "device_seconds": None if hours is None else SECONDS_PER_HOUR * hours,
        "segments": 1,
    }


def segment_records(
    texts: Mapping[str, Any], on_unreadable: Callable[[str], None]
) -> Iterator[SegmentRecord]:
    """Read the totals of segments as trackers keep them: JSON by the segment's id.

    Args:
        texts: nothing in it is trusted.
        on_unreadable: takes the id of each segment that is no JSON object.
    """
    for segment, text in texts.items():
        try:
            totals = dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            on_unreadable(segment)
        else:
            yield SegmentRecord.from_totals(segment, totals)


def merge(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Make one record of those that tell of one run, in the order the runs started.

    They do where they have a run id or a segment in common: a ledger that was pushed has its own
    id, and the tracker another. What one source does not know is taken from the next.
    """
    merged = [_merge_run(group) for group in _groups(records)]
    return sorted(merged, key=lambda record: record.started or 0.0)


def number(value: object) -> float | None:
    """Take a number of what can only grow from a file; an int stays an int.

    None for what is no number, negative, not finite, or above 1e40.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= _ABSURD else None  # false for NaN


def whole(flops: object) -> int | None:
    """Take a whole number from a file; see `number`."""
    known = number(flops)
    return None if known is None else int(known)


def a_verdict(word: object) -> Verdict:
    """Take a verdict from a file only where it is one of ours."""
    return _VERDICTS.get(word, "unknown") if isinstance(word, str) else "unknown"


def a_cause(word: object) -> Cause:
    """Take a cause from a file only where it is one of ours."""
    return _CAUSES.get(word, "none") if isinstance(word, str) else "none"


def _flops(pfs_days: object) -> int | None:
    days = number(pfs_days)
    return None if days is None else whole(days * PFS_DAY)


def _possible(totals: Mapping[str, Any]) -> int | None:
    """Device seconds x peak; where there is no peak, method 2 without its discount."""
    seconds, peak = number(totals.get("device_seconds")), number(totals.get("peak_flops"))
    if seconds is not None and peak:
        return whole(seconds * peak)
    gpu_time = number(totals.get("gpu_time_flops"))
    share = number(totals.get("assumed_utilization"))
    return whole(gpu_time / share) if gpu_time and share else None


def _later(one: SegmentRecord, other: SegmentRecord) -> SegmentRecord:
    """Return the later state of a segment; of one state told twice, what either knows."""
    if _age(one) != _age(other):
        return max(one, other, key=_age)
    facts = {each.name: _first([one, other], each.name) for each in fields(one)}
    # It goes on to be drawn while no step runs, as during the last validation.
    joules = [part.energy_joules for part in (one, other) if part.energy_joules is not None]
    return replace(one, **{**facts, "energy_joules": max(joules, default=None)})


def _age(part: SegmentRecord) -> tuple[int, float]:
    return part.steps or 0, part.device_seconds or 0.0


def _sum(parts: Sequence[SegmentRecord], total: str) -> Any:
    """Add a total up; None where one segment lacks it, so that both methods cover the same."""
    values = [getattr(part, total) for part in parts]
    return sum(values) if values and None not in values else None


def _groups(records: Iterable[RunRecord]) -> Iterable[list[RunRecord]]:
    groups: dict[int, list[RunRecord]] = {}
    group_of: dict[str, int] = {}
    for position, record in enumerate(records):
        keys = _keys(record)
        # A record may join groups that had nothing in common before.
        joined = sorted({group_of[key] for key in keys if key in group_of})
        before = [each for old in joined for each in groups.pop(old)]
        groups[position] = [*before, record]
        for each in before:
            keys |= _keys(each)
        group_of.update(dict.fromkeys(keys, position))
    return groups.values()


def _keys(record: RunRecord) -> set[str]:
    parts = _parts(record)
    return {record.run_id, *[part.id for part in parts]} if parts else {record.run_id}


def _parts(record: RunRecord) -> tuple[SegmentRecord, ...]:
    return record.parts if isinstance(record, SegmentedRun) else ()


def _measured(part: SegmentRecord) -> bool:
    return part.device_seconds is not None


def _merge_run(records: list[RunRecord]) -> RunRecord:
    if len(records) == 1:
        return records[0]
    # A receipt names its segments, and has no totals of each.
    measured = [record for record in records if any(map(_measured, _parts(record)))]
    known = [record for record in records if record.spent_flops is not None]
    base = next(iter([*measured, *known, *records]))
    totals = add_up(part for each in records for part in _parts(each)) if measured else {}
    starts = [record.started for record in records if record.started is not None]
    ended = next((record for record in records if record.status != "unknown"), base)
    facts = {name: _first([*records, base], name) for name in _FACTS}
    facts["tags"] = {key: text for each in reversed(records) for key, text in each.tags.items()}
    facts["started"] = min(starts, default=None)
    return replace(base, **facts, **totals, status=ended.status, ended=ended.ended)


def _first(records: Sequence[object], name: str) -> Any:
    """Return what the first that knows says, else what the last says."""
    values = [getattr(record, name) for record in records]
    return next((value for value in values if value not in _UNKNOWN), values[-1])
