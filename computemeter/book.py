"""The book of training steps: what was counted, what follows from it, and what to count next.

Steps with the same key (shapes, dtypes, what requires a gradient, ...) do the same work, so one of
them is counted as it runs and the rest are booked by their key. Now and then a key is counted
again: where its counts differ, its work depends on the data, and its steps are booked at the mean.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import deepcopy
from dataclasses import dataclass, field
from math import sqrt

from computemeter.records import Count

_KEYS_KEPT = 4096
_COUNTS_FREE = 20
_RECOUNT_SHARE = 0.002


@dataclass(slots=True)
class _Sums:
    """FLOPs added up; `add` scales what it adds, exactly where the ratio divides it."""

    model_flops: int = 0
    hardware_flops: int = 0
    by_op: dict[str, int] = field(default_factory=dict)
    by_dtype: dict[str, int] = field(default_factory=dict)
    uncounted_ops: dict[str, int] = field(default_factory=dict)

    def add(self, other: _Sums | Count, times: int = 1, per: int = 1) -> None:
        self.model_flops += _divide(other.model_flops * times, per)
        self.hardware_flops += _divide(other.hardware_flops * times, per)
        for mine, theirs in (
            (self.by_op, other.by_op),
            (self.by_dtype, other.by_dtype),
            (self.uncounted_ops, other.uncounted_ops),
        ):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0) + _divide(value * times, per)

    def freeze(self) -> Count:
        return Count(
            self.model_flops, self.hardware_flops, self.by_op, self.by_dtype, self.uncounted_ops
        )


@dataclass(slots=True)
class _Entry:
    """All steps of one key; the sums are over its counted steps."""

    steps: int = 0
    counted: int = 0
    squared_flops: int = 0
    count_at: int = 1
    samples: int | None = None
    sums: _Sums = field(default_factory=_Sums)

    def varies(self) -> bool:
        return self.counted * self.squared_flops != self.sums.model_flops**2

    def variance(self) -> float:
        """Variance of the FLOPs booked for the steps that were not counted."""
        if not self.varies():
            return 0.0
        n, unseen = self.counted, self.steps - self.counted
        deviations = (n * self.squared_flops - self.sums.model_flops**2) / n
        return deviations / (n - 1) * unseen * (1 + unseen / n)

    def estimated(self) -> int:
        return self.steps - self.counted if self.varies() else 0


@dataclass(slots=True)
class _Tally:
    """Entries added up."""

    steps: int = 0
    known_steps: int = 0
    counted: int = 0
    estimated: int = 0
    variance: float = 0.0
    samples: int | None = 0
    sums: _Sums = field(default_factory=_Sums)

    def add(self, entry: _Entry) -> None:
        self.steps += entry.steps
        if self.samples is None or entry.samples is None:
            self.samples = None
        else:
            self.samples += entry.steps * entry.samples
        if not entry.counted:
            self.estimated += entry.steps
            return
        self.known_steps += entry.steps
        self.counted += entry.counted
        self.estimated += entry.estimated()
        self.variance += entry.variance()
        self.sums.add(entry.sums, entry.steps, entry.counted)


@dataclass(frozen=True, slots=True)
class Totals:
    """The book's sums over all steps.

    Attributes:
        steps: all of them.
        count: FLOPs and uncounted calls of all steps.
        counted_steps: counted as they ran.
        predicted_steps: not counted, but the counts of their key agree.
        estimated_steps: booked at a mean, of their key or of all steps.
        standard_error: of the model FLOPs where counts of one key differ, else None.
        samples: examples, None where a batch could not be measured.
    """

    steps: int
    count: Count
    counted_steps: int
    predicted_steps: int
    estimated_steps: int
    standard_error: float | None
    samples: int | None


class StepBook:
    """Books steps by key and says which are worth counting.

    Args:
        elapsed: seconds since the run began; after the first 20 counts, counting a key again
            takes at most 0.2 % of it.
    """

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._dropped = _Tally()
        self._counts = 0
        self._recount_seconds = 0.0
        # The book's own generator: the user's random state is never touched.
        self._random = random.Random(0)  # noqa: S311 - picks steps to recount, guards no secret

    def wants_count(self, key: Hashable) -> bool:
        """Say whether the step about to run should be counted."""
        entry = self._entries.get(key)
        if entry is None:
            return True
        return entry.steps + 1 >= entry.count_at and self._can_afford(entry)

    def add(
        self,
        key: Hashable,
        count: Count | None,
        seconds: float,
        samples: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Book a step that has run.

        Args:
            key: facts that decide how much work a step is.
            count: what was counted, None where it was not.
            seconds: how long the step took.
            samples: measures the examples in the step's batch; called once for a key.
        """
        entry = self._entries.get(key) or self._new_entry(key, samples())
        entry.steps += 1
        if count is not None:
            self._book(entry, count, seconds)
        if entry.steps >= entry.count_at:
            self._schedule(entry)

    def totals(self) -> Totals:
        """Sum up; steps of a key that was never counted are booked at the mean of the others."""
        tally = deepcopy(self._dropped)
        for entry in self._entries.values():
            tally.add(entry)
        sums = _Sums()
        sums.add(tally.sums, tally.steps, tally.known_steps or 1)
        return Totals(
            steps=tally.steps,
            count=sums.freeze(),
            counted_steps=tally.counted,
            predicted_steps=tally.steps - tally.counted - tally.estimated,
            estimated_steps=tally.estimated,
            standard_error=sqrt(tally.variance) if tally.variance else None,
            samples=tally.samples if tally.steps else None,
        )

    def _new_entry(self, key: Hashable, samples: int | None) -> _Entry:
        if len(self._entries) >= _KEYS_KEPT:
            _, oldest = self._entries.popitem(last=False)
            self._dropped.add(oldest)
        return self._entries.setdefault(key, _Entry(samples=samples))

    def _book(self, entry: _Entry, count: Count, seconds: float) -> None:
        if entry.counted:
            self._recount_seconds += seconds
        self._counts += 1
        entry.counted += 1
        entry.sums.add(count)
        entry.squared_flops += count.model_flops**2

    def _schedule(self, entry: _Entry) -> None:
        """Plan the key's next count: somewhere in the next octave (2-3, 4-7, 8-15, ...).

        At fixed occurrences a count could fall into step with a pattern in the data.
        """
        octave = 1 << entry.steps.bit_length()
        entry.count_at = self._random.randrange(octave, 2 * octave)

    def _can_afford(self, entry: _Entry) -> bool:
        if not entry.counted or self._counts < _COUNTS_FREE:
            return True
        return self._recount_seconds <= _RECOUNT_SHARE * self._elapsed()


def _divide(numerator: int, denominator: int) -> int:
    """Divide ints, rounding to the nearest."""
    return (2 * numerator + denominator) // (2 * denominator)
