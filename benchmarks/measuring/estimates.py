"""A median with its interval, and what is concluded from it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

SEED = 20
RESAMPLES = 4000

Verdict = Literal["met", "missed", "not resolved"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, measured: Iterable[float | None]) -> Estimate:
        """Estimate the median of what was measured; None was not."""
        return bootstrap(median, [value for value in measured if value is not None])

    @property
    def farthest(self) -> float:
        """How far from zero the interval reaches: of a comparison with itself, its spread."""
        return max(abs(self.low), abs(self.high))

    def show(self, digits: int = 1, sign: str = "") -> str:
        """Return it with its interval."""
        value, low, high = (f"{x:{sign}.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def bootstrap(
    statistic: Callable[..., float], *samples: Sequence[float], resamples: int = RESAMPLES
) -> Estimate:
    """Estimate a statistic of one or more samples, each drawn again with replacement.

    The interval is that of the percentiles: Efron and Tibshirani, "An Introduction to the
    Bootstrap" (1993), chapter 13.
    """
    chance = random.Random(SEED)  # noqa: S311 - resamples, not secrets
    again = sorted(
        statistic(*(chance.choices(sample, k=len(sample)) for sample in samples))
        for _ in range(resamples)
    )
    cut = resamples // 40
    return Estimate(statistic(*samples), again[cut], again[-cut - 1])


@dataclass(frozen=True, slots=True)
class Target:
    """A target and what was measured.

    Attributes:
        what: is measured, with its unit.
        most: the target.
        found: the measurement.
        spread: how far "nothing" was from itself, in the same unit.
        verdict: "not resolved" where the interval holds the target, or the spread reaches it.
    """

    what: str
    most: float
    found: Estimate
    spread: float
    verdict: Verdict = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", self._judge())

    def _judge(self) -> Verdict:
        if self.most <= self.spread or self.found.low <= self.most < self.found.high:
            return "not resolved"
        return "met" if self.found.high <= self.most else "missed"
