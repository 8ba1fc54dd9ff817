"""What the segments of a run hand on to the next, through a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from computemeter.base_model import BaseModel
from computemeter.records import SegmentTotals

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Carried:
    """What earlier segments of the run hand on to this one.

    Attributes:
        run_flops: the work in the weights this segment starts from; None where it is not known.
        run: the run's id; None for a run's first segment.
        parent: the segment that wrote the checkpoint.
        segments: totals of every earlier segment, by its id; a crash may have thrown its work away.
        base: the model the run started from; None where there is none.
        trackers: the run's id in each tracker, by name of the sink.
    """

    run_flops: int | None = 0
    run: str | None = None
    parent: str | None = None
    segments: Mapping[str, SegmentTotals] = field(default_factory=dict)
    base: BaseModel | None = None
    trackers: Mapping[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Training steps of those segments."""
        return sum(each.steps for each in self.segments.values())

    @property
    def training_seconds(self) -> float:
        """First step to last of each, added up."""
        return sum(each.training_seconds for each in self.segments.values())

    @property
    def spent_flops(self) -> int | None:
        """Everything burned in them; None where it is not known of one."""
        return _whole(each.model_flops for each in self.segments.values())

    @property
    def gpu_time_flops(self) -> int | None:
        """Method 2 over them; None where one has no peak."""
        return _whole(each.gpu_time_flops for each in self.segments.values())

    @property
    def device_seconds(self) -> float:
        """Their training seconds x devices."""
        return sum(each.device_seconds for each in self.segments.values())

    @property
    def busy_device_seconds(self) -> float | None:
        """Their busy seconds x devices; None where one has none."""
        return _sum(each.busy_device_seconds for each in self.segments.values())

    @property
    def energy_joules(self) -> float | None:
        """Drawn by their GPUs; None where it was not measured in one."""
        return _sum(each.energy_joules for each in self.segments.values())

    def with_segments(self, found: Mapping[str, SegmentTotals]) -> Self:
        """Add what is known of segments from elsewhere; of one known twice the later state holds.

        A checkpoint knows a segment as it was when the checkpoint was made, its ledger as it ended.
        """
        segments = dict(self.segments)
        for name, totals in found.items():
            segments[name] = max(totals, segments.get(name, totals), key=lambda each: each.steps)
        return replace(self, segments=segments)

    def to_state(self) -> dict[str, Any]:
        """Return it as plain ints, floats, texts and dicts, which any checkpoint can hold."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def unknown(cls) -> Self:
        """Hand on that there was work before, and nobody knows how much."""
        return cls(run_flops=None, segments={"unknown": SegmentTotals()})

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Read what `to_state` wrote.

        Raises:
            ValueError: the state was written by a newer version, or is none.
        """
        names = {each.name for each in fields(cls)}
        if missing := {"schema", *names} - state.keys():
            raise ValueError(f"this is no meter's state: it lacks {', '.join(sorted(missing))}")
        if state["schema"] > SCHEMA:
            raise ValueError(
                f"the state has schema {state['schema']}, this version reads up to {SCHEMA}: "
                "update computemeter"
            )
        known = {name: state[name] for name in names - {"base", "segments"}}
        try:
            base = None if state["base"] is None else BaseModel(**state["base"])
            segments = {
                name: SegmentTotals.from_mapping(totals)
                for name, totals in state["segments"].items()
            }
        except (AttributeError, TypeError) as error:
            raise ValueError(f"this is no meter's state: {error}") from None
        return cls(**known, base=base, segments=segments)


def _whole(parts: Iterable[int | None]) -> int | None:
    total = _sum(parts)
    return None if total is None else int(total)


def _sum(parts: Iterable[float | None]) -> float | None:
    """Add up; None where one is not known."""
    total: float = 0
    for part in parts:
        if part is None:
            return None
        total += part
    return total
