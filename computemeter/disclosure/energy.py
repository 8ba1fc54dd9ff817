"""The energy of a disclosure: what the meter read of the GPUs, or a figure given by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from computemeter.disclosure.entries import NOT_MEASURED, Entry, added
from computemeter.energy import kwh
from computemeter.segments import SegmentRecord

BOARDS = "from NVML: the GPU boards alone"
_PARTLY = "not measured for all segments"


def energy_joules(launches: Iterable[SegmentRecord]) -> float | None:
    """Add up what the launches of a run drew; None where it was not measured in one."""
    trained = [launch for launch in launches if launch.device_seconds is not None]
    total: float | None = added(*(launch.energy_joules for launch in trained))
    return total


def energy_of(launches: Collection[SegmentRecord]) -> dict[str, Any]:
    """Return the fields of an `Entry` that say what a run drew."""
    joules = energy_joules(launches)
    if joules is not None:
        return {"energy_kwh": kwh(joules), "energy_source": BOARDS}
    some = any(launch.energy_joules is not None for launch in launches)
    return {"energy_source": _PARTLY if some else NOT_MEASURED}


def energy_text(entries: Sequence[Entry]) -> str:
    """Add up what the entries drew, by who says so; nothing stands for what is not known."""
    by_source: dict[str, float] = {}
    for entry in entries:
        if entry.energy_kwh is not None:
            known = by_source.get(entry.energy_source, 0.0)
            by_source[entry.energy_source] = known + entry.energy_kwh
    unknown = [entry.energy_source for entry in entries if entry.energy_kwh is None]
    if not by_source:
        return ", ".join(dict.fromkeys(unknown)) or NOT_MEASURED
    parts = [f"{drawn:,.4g} kWh {source}" for source, drawn in by_source.items()]
    whole = f"{sum(by_source.values()):,.4g} kWh: " if len(parts) > 1 else ""
    rest = f"; of {len(unknown)} more not known" if unknown else ""
    return f"{whole}{', '.join(parts)}{rest}"
