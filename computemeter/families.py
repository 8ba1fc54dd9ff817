"""Families of steps: of one structure, different only in the sizes of their batches.

What was counted in a family says, often enough, what a step of another size in it costs; see
`computemeter.closed_form`. A family keeps two forms, one for the totals and one for the split by
operator: at a batch of one PyTorch runs other operators for the same work, which breaks the second
form and not the first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from computemeter.closed_form import ClosedForm
from computemeter.counters.shapes import family_of, names_of, sizes_of
from computemeter.records import Count

_FAMILIES_KEPT = 256
_SPLITS = ("by_op", "by_dtype", "uncounted_ops")
PREDICTED_OP = "(predicted)"
"""Stands in `Count.by_op` for FLOPs whose split by operator is not known."""


class StepKey(NamedTuple):
    """What decides how much work a step is: the signature of its batch, and all the rest."""

    batch: Hashable
    rest: Hashable


@dataclass(slots=True)
class _Family:
    names: list[str]
    totals: ClosedForm = field(default_factory=ClosedForm)
    splits: ClosedForm = field(default_factory=ClosedForm)
    seen: Hashable = None
    mixed: bool = False
    steps_counted: int = 0

    @property
    def usable(self) -> bool:
        return self.steps_counted > 0 and not (self.mixed or self.totals.broken)

    def observe(self, sizes: tuple[int, ...], seen: Hashable, count: Count) -> None:
        if self.steps_counted and seen != self.seen:
            # What tells such steps apart is seen only after they ran: too late for a prediction.
            self.mixed = True
        self.seen = seen
        self.steps_counted += 1
        totals = {
            "model": count.model_flops,
            "hardware": count.hardware_flops,
            "causal": count.causal_flops,
        }
        self.totals.observe(sizes, totals)
        self.splits.observe(sizes, _flatten(count))

    def predict(self, sizes: tuple[int, ...]) -> Count | None:
        totals = self.totals.predict(sizes)
        if totals is None:
            return None
        splits = None if self.splits.broken else self.splits.predict(sizes)
        return Count(
            model_flops=totals["model"],
            hardware_flops=totals["hardware"],
            causal_flops=totals["causal"],
            **_unflatten(splits, totals["model"]),
        )


class Families:
    """Predicts what a step of a size not met yet costs, where counts of its family leave no choice.

    Keys that are not a `StepKey` have no family.
    """

    def __init__(self) -> None:
        self._families: OrderedDict[Hashable, _Family] = OrderedDict()

    def observe(self, key: Hashable, seen: Hashable, count: Count) -> None:
        """Learn from a counted step; `seen` is what it showed only afterwards."""
        if isinstance(key, StepKey):
            self._family(key).observe(sizes_of(key.batch), seen, count)

    def predict(self, key: Hashable) -> Count | None:
        """Return what a step costs; None where it has to be counted."""
        if not isinstance(key, StepKey):
            return None
        family = self._family(key)
        return family.predict(sizes_of(key.batch)) if family.usable else None

    def wants_check(self, key: Hashable) -> bool:
        """Say whether a predicted step should be counted all the same, if that can be afforded."""
        if not isinstance(key, StepKey):
            return False
        return self._family(key).totals.wants_check(sizes_of(key.batch))

    def holds(self, key: Hashable) -> bool:
        """Say whether the form that predicted a step has not been contradicted since."""
        return isinstance(key, StepKey) and self._family(key).usable

    def formula(self) -> str | None:
        """Write the closed form of the family with most counts; None where it is not known."""
        usable = [family for family in self._families.values() if family.usable]
        if not usable:
            return None
        family = max(usable, key=lambda each: each.steps_counted)
        return family.totals.formula("model", family.names)

    def _family(self, key: StepKey) -> _Family:
        name = (family_of(key.batch), key.rest)
        family = self._families.get(name)
        if family is None:
            if len(self._families) >= _FAMILIES_KEPT:
                self._families.popitem(last=False)
            family = self._families[name] = _Family(names_of(key.batch))
        return family


def _flatten(count: Count) -> dict[str, int]:
    return {
        f"{split} {name}": value
        for split in _SPLITS
        for name, value in getattr(count, split).items()
    }


def _unflatten(values: Mapping[str, int] | None, model_flops: int) -> dict[str, Any]:
    if values is None:
        return {"by_op": {PREDICTED_OP: model_flops}, "by_dtype": {}}
    splits: dict[str, dict[str, int]] = {split: {} for split in _SPLITS}
    for name, value in values.items():
        split, _, bare = name.partition(" ")
        if value:
            splits[split][bare] = value
    return splits
