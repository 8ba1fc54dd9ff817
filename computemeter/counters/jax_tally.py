"""What the equations of a JAX program add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from computemeter.records import Count


class Flops(NamedTuple):
    """FLOPs of one equation.

    Attributes:
        model: what the computation needs.
        recomputed: what a fused kernel computes once more, in hardware.
        causal: the part of `model` that a causal mask could skip, where the equation has one.
    """

    model: int
    recomputed: int = 0
    causal: int = 0


class Work(NamedTuple):
    """A kind of contraction: two equations of one kind do the same arithmetic on equal shapes."""

    operator: str
    dtype: str
    look: str


class Tally:
    """Adds up equations.

    Attributes:
        model: model FLOPs by kind of contraction.
        recomputed: FLOPs of whole equations that a checkpoint repeats, by kind.
        uncounted: calls by operator.
    """

    def __init__(self) -> None:
        self.model: Counter[Work] = Counter()
        self.recomputed: Counter[Work] = Counter()
        self.uncounted: Counter[str] = Counter()
        self._in_kernels = self._causal = 0

    def __bool__(self) -> bool:
        return bool(self.model or self.recomputed or self.uncounted)

    @property
    def hardware_flops(self) -> int:
        """Model FLOPs and everything that is computed once more."""
        return self.model.total() + self.recomputed.total() + self._in_kernels

    def book(self, work: Work, flops: Flops, times: int, *, recomputed: bool) -> None:
        """Add an equation that runs so many times."""
        self._in_kernels += flops.recomputed * times
        if recomputed:
            self.recomputed[work] += flops.model * times
            return
        self.model[work] += flops.model * times
        self._causal += flops.causal * times

    def add_most(self, branches: list[Tally]) -> None:
        """Add the dearest of several branches; what any of them leaves uncounted is on the list."""
        dearest = max(branches, key=lambda branch: branch.hardware_flops, default=Tally())
        self.model += dearest.model
        self.recomputed += dearest.recomputed
        self._in_kernels += dearest._in_kernels
        self._causal += dearest._causal
        uncounted: Counter[str] = Counter()
        for branch in branches:
            uncounted |= branch.uncounted
        self.uncounted += uncounted

    def reclaim(self, dead: Mapping[Work, int]) -> None:
        """Make a checkpoint's repetition model work where the first run was dead code.

        `jax.grad` without the value needs nothing of the last forward pass but its inputs: the
        repetition in the backward pass is then the only one that runs.
        """
        for work, flops in self.recomputed.items():
            only_run = min(flops, dead.get(work, 0))
            self.recomputed[work] -= only_run
            self.model[work] += only_run

    def count(self) -> Count:
        """Return the sums."""
        by_op: Counter[str] = Counter()
        by_dtype: Counter[str] = Counter()
        for work, flops in self.model.items():
            by_op[work.operator] += flops
            by_dtype[work.dtype] += flops
        return Count(
            model_flops=self.model.total(),
            hardware_flops=self.hardware_flops,
            by_op=dict(by_op),
            by_dtype=dict(by_dtype),
            uncounted_ops=dict(+self.uncounted),
            causal_flops=self._causal,
        )
