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
"""Guidelines, section 3.2 (paragraph 63 of C(2025) 5045): that a modification took more than this
share of the compute which had made the model is an indicative criterion that who modified it is the
provider of the modified model."""

GENERAL_PURPOSE, SYSTEMIC = 10**23, 10**25
"""Training compute (FLOP) above which a model is taken for a general-purpose one (guidelines,
paragraph 17), and above which it is presumed to have systemic risk (Article 51(2) AI Act)."""

THRESHOLDS: tuple[tuple[int, str], ...] = (
    (GENERAL_PURPOSE, "EU: indicative criterion of a general-purpose AI model"),
    (SYSTEMIC, "EU: presumption of systemic risk; the Commission is to be notified within 2 weeks"),
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
        filer: who files it (untrusted text).
        created: seconds since the epoch.
        version: of computemeter.
    """

    name: str
    entries: tuple[Entry, ...]
    bases: tuple[Base, ...] = ()
    scope: str = ""
    notes: tuple[str, ...] = ()
    filer: str = ""
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
        planned = ((entry.name, entry.projected) for entry in self.counted)
        return amount([*planned, *self._of_bases()])

    def towards(self, limit: int) -> tuple[Amount, Amount | None]:
        """Return what is compared with a threshold: as it is, and as planned (None without a plan).

        Up to the presumption of systemic risk the guidelines take for training compute what
        directly updates parameters; from there on synthetic data too (annex A.1, paragraphs 118
        and 119 of C(2025) 5045).
        """
        bases = self._of_bases()
        return self._done(self.counted if limit > GENERAL_PURPOSE else self.of("training"), bases)

    def _done(
        self, entries: Sequence[Entry], bases: Sequence[tuple[str, int | None]] = ()
    ) -> tuple[Amount, Amount | None]:
        done = amount([*((entry.name, entry.flops) for entry in entries), *bases])
        planned = amount([*((entry.name, entry.projected) for entry in entries), *bases])
        return done, None if self.projected is None else planned

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
        return [Modification(base, self._thirds(base.flops)) for base in self.bases]

    def _thirds(self, original: int | None) -> tuple[Third, ...]:
        """Return what to compare with; both thresholds where the original's compute is unknown."""
        limits = (GENERAL_PURPOSE, SYSTEMIC) if original is None else (original,)
        return tuple(self._third(limit, systemic=limit >= SYSTEMIC) for limit in limits)

    def _third(self, original: int, *, systemic: bool) -> Third:
        # As `towards`: what training compute is depends on which kind of model it made.
        entries = self.counted if systemic else self.of("training")
        return Third(int(original * ONE_THIRD), *self._done(entries))


@dataclass(frozen=True, slots=True)
class Third:
    """A third of a model's training compute, and what was done to the model.

    Attributes:
        flops: the third.
        done: the training compute of what was done.
        planned: the same when all planned steps have run; None without a plan.
    """

    flops: int
    done: Amount
    planned: Amount | None = None

    @property
    def above(self) -> bool | None:
        """Whether what was done is more; None where it cannot be said."""
        return self.done.above(self.flops)

    @property
    def above_as_planned(self) -> bool | None:
        """The same when all planned steps have run; None also without a plan."""
        return None if self.planned is None else self.planned.above(self.flops)


@dataclass(frozen=True, slots=True)
class Modification:
    """The one-third test: what was done to a model, against what had made it.

    Attributes:
        base: the model.
        thirds: one; where the model's compute is unknown and cannot be estimated, a third of the
            threshold of a general-purpose model and, for an original with systemic risk, of that
            (guidelines, section 3.2, paragraph 64 of C(2025) 5045).
    """

    base: Base
    thirds: tuple[Third, ...]

    @property
    def share(self) -> float | None:
        """What was done / what had made the model; None where that is not known."""
        done = self.thirds[0].done.flops
        return done / self.base.flops if self.base.flops and done is not None else None


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
    """Find the entry that a base is: by the run's id, its receipt, else by name and compute."""
    for entry in entries:
        if not entry.counts or entry.origin == "manual":
            continue
        # A run's id is the name of a base that was a checkpoint of it before its receipt was there.
        if base.name and base.name == entry.run:
            return entry
        if base.receipt and base.receipt == entry.receipt:
            return entry
        # A tracker knows a base by its compute alone.
        named = base.name in {entry.name, entry.run} if base.name else base.flops is not None
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
    flops = other.flops if one.flops is None else one.flops
    if one.flops is not None and other.flops is not None and one.flops != other.flops:
        if one.receipt and one.receipt == other.receipt:
            # Checkpoints of one run: the work in the earlier is in the later.
            return one if one.flops > other.flops else other
        raise DisclosureError(
            f"base model {one.name!r} has {one.flops} FLOP by {one.source or 'one account'} and "
            f"{other.flops} by {other.source or 'another'}"
        )
    return replace(one, flops=flops, receipt=one.receipt or other.receipt)
