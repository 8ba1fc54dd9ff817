"""What the segments of a run hand on to the next, through a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Carried:
    """What earlier segments of the run hand on to this one (through a checkpoint).

    Attributes:
        run_flops: the work in the weights this segment starts from; None where it is not known.
        spent_flops: everything burned in those segments; None where it is not known.
        gpu_time_flops: method 2 over them; None where one of them has no peak.
        device_seconds: their training seconds x devices.
        busy_device_seconds: their busy seconds x devices; None where one of them has none.
        run: the run's id; None for a run's first segment.
        parent: the segment that wrote the checkpoint.
    """

    run_flops: int | None = 0
    spent_flops: int | None = 0
    gpu_time_flops: int | None = 0
    device_seconds: float = 0.0
    busy_device_seconds: float | None = 0.0
    run: str | None = None
    parent: str | None = None

    def to_state(self) -> dict[str, Any]:
        """Return it as plain ints, floats and texts, which any checkpoint can hold."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Read what `to_state` wrote.

        Raises:
            ValueError: the state was written by a newer version, or is none.
        """
        names = {field.name for field in fields(cls)}
        if missing := {"schema", *names} - state.keys():
            raise ValueError(f"this is no meter's state: it lacks {', '.join(sorted(missing))}")
        if state["schema"] > SCHEMA:
            raise ValueError(
                f"the state has schema {state['schema']}, this version reads up to {SCHEMA}: "
                "update computemeter"
            )
        return cls(**{name: state[name] for name in names})
