"""What the ranks of a run tell each other, and how that is added up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import hypot
from types import MappingProxyType

from computemeter.book import Sums, Totals
from computemeter.records import Count

_NAMES_KEPT = 256
NOT_MEASURED: Mapping[str, float] = MappingProxyType({})
"""The energy of a rank that cannot read its GPU's."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one rank tells: its own sums so far.

    Attributes:
        known: False where steps ran and none could be counted.
        ended: whether it is its last.
        device: what it trains on; empty before that is known.
        energy: joules by the UUID of its GPU; empty where they are not measured.
    """

    steps: int
    known: bool
    ended: bool
    count: Count
    samples: int | None
    standard_error: float | None
    device: str = ""
    energy: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        totals: Totals,
        *,
        ended: bool = False,
        device: str = "",
        energy: Mapping[str, float] = NOT_MEASURED,
    ) -> Report:
        """Sum up a rank's own book."""
        return cls(
            device=device,
            energy=dict(energy),
            steps=totals.steps,
            known=totals.estimated_steps < totals.steps or not totals.steps,
            ended=ended,
            count=_bounded_names(totals.count),
            samples=totals.samples,
            standard_error=totals.standard_error,
        )

    @classmethod
    def from_json(cls, text: bytes | str) -> Report:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "count": Count(**fields["count"])})

    def to_json(self) -> str:
        """Return a text, in which ints are exact at any size."""
        return json.dumps(asdict(self), separators=(",", ":"))


def merge_reports(own: Totals, others: Iterable[Report], world_size: int) -> Totals:
    """Add up ranks; those without a count are taken at the mean of those with one."""
    mine = Report.of(own)
    known = [report for report in (mine, *others) if report.known]
    if not known:
        return own
    sums, scaled = Sums(), Sums()
    for report in known:
        sums.add(report.count)
    scaled.add(sums, world_size, len(known))
    return replace(
        own,
        count=scaled.freeze(),
        samples=_samples(known, world_size),
        standard_error=_standard_error(known, world_size),
    )


def add_energy(ranks: Iterable[Mapping[str, float]]) -> float | None:
    """Add up joules by GPU; None where one rank has none.

    A GPU that several ranks share counts once, with the longest reading of it.

    >>> add_energy([{"GPU-a": 5.0}, {"GPU-a": 6.0}, {"GPU-b": 2.0}])
    8.0
    >>> add_energy([{"GPU-a": 5.0}, {}]) is None
    True
    """
    drawn: dict[str, float] = {}
    for rank in ranks:
        if not rank:
            return None
        for gpu, joules in rank.items():
            drawn[gpu] = max(drawn.get(gpu, 0.0), joules)
    return sum(drawn.values())


def _samples(known: list[Report], world_size: int) -> int | None:
    samples = [report.samples for report in known if report.steps]
    if not samples or None in samples:
        return None
    return sum(filter(None, samples)) * world_size // len(known)


def _standard_error(known: list[Report], world_size: int) -> float | None:
    """Add the ranks' errors, which are independent, and scale them for ranks not heard of."""
    error = hypot(*(report.standard_error or 0.0 for report in known))
    return error * world_size / len(known) or None


def _bounded_names(count: Count) -> Count:
    """Keep a report small whatever ran: the largest entries by name, the rest as one."""
    return replace(
        count,
        by_op=_largest(count.by_op),
        by_dtype=_largest(count.by_dtype),
        uncounted_ops=_largest(count.uncounted_ops),
    )


def _largest(counts: Mapping[str, int]) -> Mapping[str, int]:
    if len(counts) <= _NAMES_KEPT:
        return counts
    ordered = sorted(counts.items(), key=lambda item: item[1], reverse=True)
    rest = sum(value for _, value in ordered[_NAMES_KEPT:])
    return {**dict(ordered[:_NAMES_KEPT]), "other": rest}
