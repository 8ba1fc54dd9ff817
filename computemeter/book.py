"""The book of training steps: what was counted, what follows from it, and what to count next.

Steps with the same key (shapes, dtypes, what requires a gradient, ...) do the same work, so one of
them is counted as it runs and the rest are booked by their key. What a step shows only afterwards
(which optimizer stepped) parts the steps of a key into variants. Now and then a key is counted
again: where its counts differ, its work depends on the data, and its steps are booked at the mean.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import deepcopy
from dataclasses import dataclass, field
from math import sqrt

from computemeter.families import Families
from computemeter.records import Count

_KEYS_KEPT = 4096
_COUNTS_FREE = 20
_RECOUNT_SHARE = 0.002
# Kinds of step that are new are counted, up to a point: where every step is one of its own, most
# are booked at the mean of the counted ones.
_NEW_FREE = 200
_NEW_SHARE = 0.05
# Steps of a key that are counted in a row to meet a variant that was seen and never counted.
_TRIES = 16
_NEVER = 1 << 62


@dataclass(slots=True)
class Sums:
    """FLOPs added up; `add` scales what it adds, exactly where the ratio divides it."""

    model_flops: int = 0
    hardware_flops: int = 0
    by_op: dict[str, int] = field(default_factory=dict)
    by_dtype: dict[str, int] = field(default_factory=dict)
    uncounted_ops: dict[str, int] = field(default_factory=dict)
    causal_flops: int = 0
    contractions: int = 0
    contraction_bytes: int = 0

    def add(self, other: Sums | Count, times: int = 1, per: int = 1) -> None:
        self.model_flops += _divide(other.model_flops * times, per)
        self.hardware_flops += _divide(other.hardware_flops * times, per)
        self.causal_flops += _divide(other.causal_flops * times, per)
        self.contractions += _divide(other.contractions * times, per)
        self.contraction_bytes += _divide(other.contraction_bytes * times, per)
        for mine, theirs in (
            (self.by_op, other.by_op),
            (self.by_dtype, other.by_dtype),
            (self.uncounted_ops, other.uncounted_ops),
        ):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0) + _divide(value * times, per)

    def freeze(self) -> Count:
        return Count(
            self.model_flops,
            self.hardware_flops,
            self.by_op,
            self.by_dtype,
            self.uncounted_ops,
            self.causal_flops,
            self.contractions,
            self.contraction_bytes,
        )


@dataclass(slots=True)
class _Variant:
    """Steps of one key that looked the same afterwards; the sums are over its counted steps."""

    steps: int = 0
    counted: int = 0
    squared_flops: int = 0
    sums: Sums = field(default_factory=Sums)

    def book(self, count: Count) -> None:
        self.counted += 1
        self.sums.add(count)
        self.squared_flops += count.model_flops**2

    def varies(self) -> bool:
        return self.counted * self.squared_flops != self.sums.model_flops**2

    def variance(self) -> float:
        """Variance of the FLOPs booked for the steps that were not counted."""
        if not self.varies():
            return 0.0
        n, unseen = self.counted, self.steps - self.counted
        deviations = (n * self.squared_flops - self.sums.model_flops**2) / n
        return deviations / (n - 1) * unseen * (1 + unseen / n)


@dataclass(slots=True)
class _Entry:
    """All steps of one key."""

    steps: int = 0
    samples: int | None = None
    count_at: int = 1
    tries: int = _TRIES
    predicted: Count | None = None
    sure: bool = True
    variants: dict[Hashable, _Variant] = field(default_factory=dict)

    def counted(self) -> bool:
        return any(variant.counted for variant in self.variants.values())

    def misses_one(self) -> bool:
        """Whether a variant was seen that no count has met, and it is still worth trying."""
        if len(self.variants) < 2 or not self.tries:
            return False
        met = [bool(variant.counted) for variant in self.variants.values()]
        return any(met) and not all(met)


@dataclass(slots=True)
class _Tally:
    """Entries added up."""

    steps: int = 0
    known_steps: int = 0
    counted: int = 0
    recounts: int = 0
    estimated: int = 0
    variance: float = 0.0
    samples: int | None = 0
    sums: Sums = field(default_factory=Sums)
    as_counted: Sums = field(default_factory=Sums)

    def add(self, entry: _Entry, *, sure: bool = True) -> None:
        """Add an entry; `sure` says whether its prediction, if it is one, still holds."""
        self.steps += entry.steps
        if self.samples is None or entry.samples is None:
            self.samples = None
        else:
            self.samples += entry.steps * entry.samples
        known, sums = 0, Sums()
        for variant in entry.variants.values():
            if variant.counted:
                known += variant.steps
                sums.add(variant.sums, variant.steps, variant.counted)
                self._note(variant)
        if entry.predicted is not None and not known:
            known = entry.steps
            sums.add(entry.predicted, entry.steps)
            self.estimated += 0 if sure else entry.steps
        # The rest is booked at the mean of the key; of all steps, where the key has none.
        self.estimated += entry.steps - known
        if known:
            self.known_steps += entry.steps
            self.sums.add(sums, entry.steps, known)

    def _note(self, variant: _Variant) -> None:
        self.counted += variant.counted
        self.recounts += variant.counted - 1
        self.as_counted.add(variant.sums)
        self.variance += variant.variance()
        if variant.varies():
            self.estimated += variant.steps - variant.counted


@dataclass(frozen=True, slots=True)
class Totals:
    """The book's sums over all steps.

    Attributes:
        steps: all of them.
        count: FLOPs and uncounted calls of all steps.
        as_counted: of the counted steps alone, as they ran, in this process.
        counted_steps: counted as they ran.
        predicted_steps: not counted, but the counts of steps like them agree.
        estimated_steps: booked at a mean, of their key or of all steps.
        standard_error: of the model FLOPs where counts of one kind differ, else None.
        samples: examples, None where a batch could not be measured.
        recounts: counts of steps like one that had been counted.
    """

    steps: int
    count: Count
    counted_steps: int
    predicted_steps: int
    estimated_steps: int
    standard_error: float | None
    samples: int | None
    as_counted: Count = field(default_factory=Count)
    recounts: int = 0


class StepBook:
    """Books steps by key and says which are worth counting.

    Args:
        elapsed: seconds since the run began; after the first 20 counts, counting a key again
            takes at most 0.2 % of it, and after the first 200 counting new keys 5 %.

    Attributes:
        recounts: whether counting a key again can show anything new.
    """

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self.recounts = True
        self._elapsed = elapsed
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._families = Families()
        self._dropped = _Tally()
        self._counts = 0
        self._recount_seconds = self._new_seconds = 0.0
        self._checking = False
        self._last_key: Hashable = None
        self._last_entry: _Entry | None = None
        # The book's own generator: the user's random state is never touched.
        self._random = random.Random(0)  # noqa: S311 - picks steps to recount, guards no secret

    def wants_count(self, key: Hashable) -> bool:
        """Say whether the step about to run should be counted."""
        entry = self._entry(key)
        if entry is None:
            return not self._predict(key) and self._can_afford_new()
        due = entry.steps + 1 >= entry.count_at
        return (due or entry.misses_one()) and self._can_afford(entry)

    def add(
        self,
        key: Hashable,
        count: Count | None,
        seconds: float,
        samples: Callable[[], int | None] = lambda: None,
        seen: Hashable = (),
    ) -> bool:
        """Book a step that has run; say whether it is the first of its key.

        Args:
            key: facts that decide how much work a step is.
            count: what was counted, None where it was not.
            seconds: how long the step took.
            samples: measures the examples in the step's batch; called once for a key.
            seen: facts known only now; steps of a key that differ in them are booked apart.
        """
        entry = self._entry(key) or self._new_entry(key)
        if len(self._entries) >= _KEYS_KEPT:
            self._entries.move_to_end(key)
        first = not entry.steps
        if first:
            entry.samples = samples()
        variant = entry.variants.get(seen) or entry.variants.setdefault(seen, _Variant())
        entry.steps += 1
        variant.steps += 1
        if entry.misses_one():
            entry.tries -= 1
        if count is not None:
            self._spend(entry, seconds)
            variant.book(count)
            self._families.observe(key, seen, count)
        if entry.steps >= entry.count_at:
            self._schedule(entry)
        return first

    def give_up(self, key: Hashable) -> None:
        """Count steps of this key no more."""
        entry = self._entries.get(key) or self._new_entry(key)
        entry.tries, entry.count_at = 0, _NEVER

    def totals(self) -> Totals:
        """Sum up; steps of a key that was never counted are booked at the mean of the others."""
        tally = deepcopy(self._dropped) if self._dropped.steps else _Tally()
        for key, entry in self._entries.items():
            tally.add(entry, sure=self._is_sure(key, entry))
        sums = Sums()
        sums.add(tally.sums, tally.steps, tally.known_steps or 1)
        return Totals(
            steps=tally.steps,
            count=sums.freeze(),
            counted_steps=tally.counted,
            predicted_steps=tally.steps - tally.counted - tally.estimated,
            estimated_steps=tally.estimated,
            standard_error=sqrt(tally.variance) if tally.variance else None,
            samples=tally.samples if tally.steps else None,
            as_counted=tally.as_counted.freeze(),
            recounts=tally.recounts,
        )

    def formula(self) -> str | None:
        """Return the closed form of a step's model FLOPs in the sizes of its batch, if known."""
        return self._families.formula()

    def _predict(self, key: Hashable) -> bool:
        """Book a new key by what its family says, without a count; False where it cannot."""
        predicted = self._families.predict(key)
        if predicted is None:
            return False
        check = self._families.wants_check(key)
        if check and self._within_budget():
            self._checking = True
            return False
        entry = self._new_entry(key)
        # A check that cannot be afforded leaves an estimate.
        entry.predicted, entry.sure = predicted, not check
        self._schedule(entry)
        return True

    def _is_sure(self, key: Hashable, entry: _Entry) -> bool:
        return entry.predicted is None or (entry.sure and self._families.holds(key))

    def _entry(self, key: Hashable) -> _Entry | None:
        """Find an entry; mostly it is the last one, and comparing costs less than hashing."""
        if self._last_entry is None or key != self._last_key:
            self._last_key, self._last_entry = key, self._entries.get(key)
        return self._last_entry

    def _new_entry(self, key: Hashable) -> _Entry:
        self._last_entry = None
        if len(self._entries) >= _KEYS_KEPT:
            dropped, oldest = self._entries.popitem(last=False)
            self._dropped.add(oldest, sure=self._is_sure(dropped, oldest))
        return self._entries.setdefault(key, _Entry())

    def _spend(self, entry: _Entry, seconds: float) -> None:
        if self._checking or entry.predicted is not None or entry.counted():
            self._recount_seconds += seconds
        else:
            self._new_seconds += seconds
        self._checking = False
        self._counts += 1

    def _schedule(self, entry: _Entry) -> None:
        """Plan the key's next count: somewhere in the next octave (2-3, 4-7, 8-15, ...).

        At fixed occurrences a count could fall into step with a pattern in the data.
        """
        entry.tries = _TRIES
        if not self.recounts:
            entry.count_at = _NEVER
            return
        octave = 1 << entry.steps.bit_length()
        entry.count_at = self._random.randrange(octave, 2 * octave)

    def _can_afford(self, entry: _Entry) -> bool:
        if entry.counted() or entry.predicted is not None:
            return self._within_budget()
        return self._can_afford_new()

    def _can_afford_new(self) -> bool:
        return self._counts < _NEW_FREE or self._new_seconds <= _NEW_SHARE * self._elapsed()

    def _within_budget(self) -> bool:
        if self._counts < _COUNTS_FREE:
            return True
        return self._recount_seconds <= _RECOUNT_SHARE * self._elapsed()


def _divide(numerator: int, denominator: int) -> int:
    """Divide ints, rounding to the nearest."""
    return (2 * numerator + denominator) // (2 * denominator)
