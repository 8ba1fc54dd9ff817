"""What a model's entries come to: totals by category, base models, thresholds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from computemeter._version import __version__
from computemeter.disclosure import DisclosureError
from computemeter.disclosure.entries import Base, Entry

ONE_THIRD = Fraction(1, 3)
"""Whoever modifies a model with more than this share of the compute that made it is taken for the
provider of a new one (guidelines, section on downstream modifiers)."""

THRESHOLDS: tuple[tuple[int, str], ...] = (
    (10**23, "EU: indicative criterion of a general-purpose AI model"),
    (10**25, "EU: presumption of systemic risk; the Commission is to be notified within 2 weeks"),
    (10**26, "California SB 53 and New York: frontier model"),
)


@dataclass(frozen=True, slots=True)
class Amount:
    """A sum of FLOP.

    Attributes:
        flops: what is known; None where nothing is.
        missing: names of what is not known, so that `flops` is less than all (untrusted text).
    """

    flops: int | None
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.flops is not None and not self.missing

    def above(self, limit: int) -> bool | None:
        """Whether it is more than a limit; None where it cannot be said."""
        if self.flops is not None and self.flops > limit:
            return True
        return False if self.complete else None


def amount(parts: Iterable[tuple[str, int | None]]) -> Amount:
    """Add up what is known; nothing to add is a known zero."""
    listed = list(parts)
    known = [flops for _, flops in listed if flops is not None]
    missing = tuple(name for name, flops in listed if flops is None)
    return Amount(sum(known) if known or not missing else None, missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """A model's compute.

    Attributes:
        name: of the model (untrusted text).
        entries: runs and figures given by hand, each once.
        bases: models that runs started from and that are no entry, each once.
        scope: what the user says about what is in it (untrusted text).
        notes: what was found out in putting it together.
        created: seconds since the epoch.
        version: of computemeter.
    """

    name: str
    entries: tuple[Entry, ...]
    bases: tuple[Base, ...] = ()
    scope: str = ""
    notes: tuple[str, ...] = ()
    created: float = field(default_factory=time.time)
    version: str = __version__

    def of(self, category: str) -> list[Entry]:
        """Return the entries of one category."""
        return [entry for entry in self.entries if entry.category == category]

    @property
    def counted(self) -> list[Entry]:
        """The entries that are part of the model's compute."""
        return [entry for entry in self.entries if entry.counts]

    @property
    def training(self) -> Amount:
        """Training, in the final weights."""
        return amount((entry.name, entry.flops) for entry in self.of("training"))

    @property
    def synthetic_data(self) -> Amount:
        """Data generation, discarded samples included."""
        return amount((entry.name, entry.flops) for entry in self.of("synthetic_data"))

    @property
    def own(self) -> Amount:
        """Both: what was done to the bases, where there are any."""
        return amount((entry.name, entry.flops) for entry in self.counted)

    @property
    def base(self) -> Amount:
        """The base models."""
        return amount(self._of_bases())

    @property
    def total(self) -> Amount:
        """All that made the weights."""
        own = ((entry.name, entry.flops) for entry in self.counted)
        return amount([*own, *self._of_bases()])

    @property
    def projected(self) -> Amount | None:
        """The same when all planned steps have run; None where no plan is given."""
        if all(entry.planned_steps is None for entry in self.counted):
            return None
        return amount([*self._planned(), *self._of_bases()])

    def _planned(self) -> list[tuple[str, int | None]]:
        return [(entry.name, entry.projected) for entry in self.counted]

    @property
    def thrown_away(self) -> Amount:
        """What crashes and restarts lost: in no total."""
        return amount((entry.name, entry.thrown_away) for entry in self.of("training"))

    @property
    def recomputed(self) -> Amount:
        """What was computed again, as activation checkpointing does: in no total."""
        metered = [entry for entry in self.counted if entry.run is not None]
        return amount((entry.name, entry.recomputed) for entry in metered)

    @property
    def device_seconds_per_flop(self) -> float | None:
        """The mean over the metered training runs."""
        both = [
            (entry.device_seconds, entry.operations)
            for entry in self.of("training")
            if entry.device_seconds and entry.operations
        ]
        flops = sum(operations for _, operations in both)
        return sum(seconds for seconds, _ in both) / flops if flops else None

    def _of_bases(self) -> list[tuple[str, int | None]]:
        return [(base.name or "a base without a name", base.flops) for base in self.bases]

    @property
    def modifications(self) -> list[Modification]:
        """The one-third test against each base."""
        planned = None if self.projected is None else amount(self._planned())
        return [Modification(base, self.own, planned) for base in self.bases]


@dataclass(frozen=True, slots=True)
class Modification:
    """The one-third test: what was done to a model, against what had made it.

    Attributes:
        base: the model.
        own: what was done.
        planned: what will have been done when all planned steps have run; None without a plan.
    """

    base: Base
    own: Amount
    planned: Amount | None = None

    @property
    def limits(self) -> tuple[int, ...]:
        """A third of the original's compute; where that is unknown, of each EU threshold.

        The guidelines take the threshold of systemic risk where the original has one, else that of
        a general-purpose model.
        """
        if self.base.flops is not None:
            return (int(self.base.flops * ONE_THIRD),)
        return tuple(int(flops * ONE_THIRD) for flops, _ in THRESHOLDS[:2])

    @property
    def share(self) -> float | None:
        """What was done / what had made the model; None where that is not known."""
        if not self.base.flops or self.own.flops is None:
            return None
        return self.own.flops / self.base.flops

    def above(self, limit: int) -> bool | None:
        """Whether what was done is more; None where it cannot be said."""
        return self.own.above(limit)


def assemble(
    name: str, entries: Sequence[Entry], bases: Sequence[Base] = (), *, scope: str = ""
) -> Disclosure:
    """Put a model together, and check that nothing counts twice and nothing is impossible.

    Args:
        name: of the model.
        entries: in the order in which they are to be listed.
        bases: that the user named; those that the runs know of come to them.
        scope: the user's words.

    Raises:
        DisclosureError: a run is in it twice, claims more than its devices could do, or there is
            nothing in it.
    """
    if not entries and not bases:
        raise DisclosureError("nothing to report: no run, no base and no figure is named")
    _check_once(entries)
    for entry in entries:
        _check_possible(entry)
    found, notes = _bases(entries, bases)
    return Disclosure(name=name, entries=tuple(entries), bases=found, scope=scope, notes=notes)


def _check_once(entries: Sequence[Entry]) -> None:
    seen: dict[str, Entry] = {}
    for entry in entries:
        for key in {key for key in (entry.run, *entry.segments) if key}:
            if key in seen:
                raise DisclosureError(
                    f"run {entry.run} is there twice: from {seen[key].source} and from "
                    f"{entry.source}"
                )
            seen[key] = entry


def _check_possible(entry: Entry) -> None:
    claimed = entry.operations or 0
    if entry.counts and entry.possible is not None and claimed > entry.possible:
        raise DisclosureError(
            f"{entry.name} claims {claimed / max(1, entry.possible):.3g}x what its devices can do "
            "at their peak in that time: a count or a peak is wrong, and nothing is reported"
        )


def _bases(
    entries: Sequence[Entry], given: Sequence[Base]
) -> tuple[tuple[Base, ...], tuple[str, ...]]:
    """Return each base once, without those that are entries themselves."""
    found: list[Base] = list(given)
    notes: list[str] = []
    for entry in entries:
        base = entry.base
        if base is None or not entry.counts:
            continue
        others = [other for other in entries if other is not entry]
        if (inside := _entry_of(base, others)) is not None:
            notes.append(f"{entry.name} starts from {inside.name}, which is counted above: once")
            continue
        known = next((each for each in found if _same(each, base)), None)
        if known is None:
            found.append(base)
        else:
            found[found.index(known)] = _agreed(known, base)
    return tuple(found), tuple(notes)


def _entry_of(base: Base, entries: Sequence[Entry]) -> Entry | None:
    """Find the entry that a base is: by its receipt, else by name and compute."""
    for entry in entries:
        if not entry.counts or entry.origin == "manual":
            continue
        if base.receipt and base.receipt == entry.receipt:
            return entry
        named = bool(base.name) and base.name in {entry.name, entry.run}
        if named and base.flops in {None, entry.lineage_flops}:
            return entry
    return None


def _same(one: Base, other: Base) -> bool:
    if one.receipt and other.receipt:
        return one.receipt == other.receipt
    if one.name or other.name:
        return one.name == other.name
    return one.flops == other.flops  # a tracker knows a base by its compute alone


def _agreed(one: Base, other: Base) -> Base:
    if None not in (one.flops, other.flops) and one.flops != other.flops:
        raise DisclosureError(
            f"base model {one.name!r} has {one.flops} FLOP by {one.source or 'one account'} and "
            f"{other.flops} by {other.source or 'another'}"
        )
    flops = other.flops if one.flops is None else one.flops
    return replace(one, flops=flops, receipt=one.receipt or other.receipt)
