"""One method worked out: factors with their units, and what they multiply to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from computemeter.units import (
    PFS_DAY,
    SECONDS_PER_DAY,
    format_compute,
    format_flops,
    format_pfs_days,
    format_seconds,
    pfs_days,
)

_PFS_DAY = f"{PFS_DAY / 10**19:g}e19"


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor with its unit.

    Attributes:
        value: the number.
        text: the number with its unit, as it is read.
        gives: unit of the product up to and including this factor; "" where it has no name.
    """

    value: float
    text: str
    gives: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    """One method worked out.

    Attributes:
        name: "operations" (method 1) or "gpu_time" (method 2).
        factors: in the order in which they are read.
        flops: their product, exact.
        assumptions: what it rests on, a sentence each.
        utilization: share of peak that method 2 assumes; None for method 1.
    """

    name: Literal["operations", "gpu_time"]
    factors: tuple[Factor, ...]
    flops: int
    assumptions: tuple[str, ...] = ()
    utilization: float | None = None

    @property
    def pfs_days(self) -> float:
        """The product in petaflop/s-days."""
        return pfs_days(self.flops)

    def __str__(self) -> str:
        """Write it in one line, as the appendix does."""
        return f"{' x '.join(each.text for each in self.factors)} = {format_compute(self.flops)}"

    def steps(self) -> Iterator[str]:
        """Write it a factor a line, each with the product so far."""
        product = 1.0
        for position, each in enumerate(self.factors):
            product *= each.value
            line = f"x {each.text}" if position else each.text
            yield f"{line} = {format_flops(product, each.gives)}" if each.gives else line
        yield f"/ {_PFS_DAY} FLOP per pfs-day = {format_pfs_days(self.pfs_days)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for `json.dumps`; FLOP are exact."""
        lines = {"text": str(self), "steps": list(self.steps())}
        return {**asdict(self), "pfs_days": self.pfs_days, **lines}


def count(value: float) -> str:
    """Write a count as it is read aloud, to six digits.

    >>> count(90), count(7.5), count(1.2e6), count(3.3e12)
    ('90', '7.5', '1.2M', '3.3T')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.6g}{letter}"
    return f"{value:,.6g}"


def duration(seconds: float) -> str:
    """Write a time as it is read, long ones in days.

    >>> duration(11_520), duration(241_153_846)
    ('3 h 12 min', '2,791 days')
    """
    days = seconds / SECONDS_PER_DAY
    if days < 2:
        return format_seconds(seconds)
    return f"{days:,.0f} days" if days >= 99.5 else f"{days:.3g} days"
