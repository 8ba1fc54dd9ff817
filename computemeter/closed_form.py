"""The closed form of a step's FLOPs in the sizes of its batch, learned from counted steps.

The FLOPs of a training step are a polynomial in the batch size, the sequence length, ... as long
as nothing rounds, as a strided convolution does. A polynomial is known where it has been counted
often enough, and nowhere else: at a fixed batch size its growth with the batch size is anybody's
guess. So a shape is predicted only where the counted shapes leave no choice, in exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from operator import mul

from computemeter.closed_form_layout import MOST_VARIABLES, Layout, Sizes
from computemeter.closed_form_writing import solve, solve_in_proportion, write
from computemeter.row_space import RowSpace

# What is kept: at most 31 shapes whose monomials are independent, and these.
_MOST_CHECKS = 64
_MOST_PROOFS = 256
# With 3 unknowns in one variable, 5 counts of even and odd sizes never fit one polynomial by
# chance where odd and even differ: 3 of them are alike and fix it, and the others are off it.
_CONFIRMATIONS = 2
# Two strides of 2 can cost the same at two of four remainders.
_MODULUS = 4


class ClosedForm:
    """Learns the FLOPs of one family of steps: everything but the sizes of the batch is equal.

    Sizes that have varied are the variables, sizes that are always equal are one variable. The
    monomials are all products of powers of the variables up to a square each and to degree 3.

    A shape is predicted where all of this holds, else it has to be counted:

    - its monomials are a combination of those of counted shapes (so no batch size is predicted
      from counts at another one only, nor off B * T = constant from counts on it);
    - each count in that combination was confirmed by two further counts, at other shapes, that
      the same counts predict;
    - for each variable, a shape of this evidence has the same remainder modulo 4, and the size
      fits the greatest common divisor of the evidence's differences: lengths that were all odd,
      or all multiples of 16, say nothing about the others, where a stride may round;
    - the predicted values are whole and not negative.

    One count that contradicts a prediction breaks the form for good: the work is no polynomial
    of the sizes, or depends on the data, or on a switch of operators with size.

    Limits: patches of 16 look constant at lengths 16 to 31, so sizes beyond those counted are
    safe only where `wants_check` is followed; and several strides could by coincidence fit one
    polynomial at all shapes counted so far, which later checks find out. Attention over the
    pixels of an image is of degree 5, and breaks the form. So does an operator that gives way to
    another at one example or one token, as PyTorch's mm does to addmm, though the total stays
    the same: give values by operator a form of their own. More than 4 variables are never
    predicted.

    Attributes:
        broken: a count contradicted the others; nothing is predicted any more, and what was
            predicted before is in doubt.
    """

    def __init__(self) -> None:
        self.broken = False
        self._too_many = False
        self._occurrences = 0
        self._lowest: Sizes = ()
        self._highest: Sizes = ()
        self._forget()

    def observe(self, sizes: Sizes, values: Mapping[str, int]) -> None:
        """Learn from a counted step.

        Args:
            sizes: of the batch, see `sizes_of`.
            values: FLOPs, or calls, by any name; what is missing counts as 0.

        Raises:
            ValueError: another number of sizes than before: that is another family.
        """
        if self.broken or self._too_many:
            return
        if self._lowest and len(sizes) != len(self._lowest):
            raise ValueError(f"sizes={sizes!r}: accepted are {len(self._lowest)} sizes")
        observation = _Observation(sizes, dict(values))
        if self._layout.fits(sizes):
            self._take(observation)
        else:
            self._start_over(observation)
        self._lowest = tuple(map(min, self._lowest or sizes, sizes))
        self._highest = tuple(map(max, self._highest or sizes, sizes))

    def predict(self, sizes: Sizes) -> dict[str, int] | None:
        """Return the values of a step of these sizes, None where they do not follow from counts.

        The answer has every name ever observed; for a shape that was counted and kept it is its
        count. Each prediction is taken as used: it moves the schedule of `wants_check` on.
        """
        combination = self._combination(sizes)
        if combination is None:
            return None
        proven = self._proven(combination, sizes)
        if not proven and not self._was_counted(sizes):
            return None
        values = self._combine(combination)
        if proven and values is not None:
            self._occurrences += 1
        return values

    def wants_check(self, sizes: Sizes) -> bool:
        """Say whether a step should be counted even if it can be predicted.

        So are the shapes 1, 2, 4, 8, ... of those that can be predicted, and each with a size
        beyond those observed. Observing the count afterwards does the checking.
        """
        if self.broken or self._too_many:
            return False
        occurrence = self._occurrences + 1
        if occurrence & (occurrence - 1) == 0:
            return True
        ranges = zip(self._lowest, sizes, self._highest, strict=False)
        return not all(lowest <= size <= highest for lowest, size, highest in ranges)

    def formula(self, component: str, names: Sequence[str]) -> str | None:
        """Write a value as a Python expression, None where the counts leave a choice.

        It is written where every monomial is determined and confirmed. Where they are not, a
        form in proportion to one variable will do, if one value of it determines the form and
        all other counts fit: 32 and 7 examples that cost exactly 32 and 7 times as much mean
        `1152*B`. It holds for sizes of the remainders observed, and never has fractions: they
        mean that something rounds.

        Args:
            component: one of the names observed.
            names: of the sizes, one for each; of sizes that are one variable, the first is used.

        Raises:
            ValueError: not as many names as sizes.
        """
        places = self._layout.variables
        if not places or component not in self._columns:
            return None
        if len(names) != len(self._lowest):
            raise ValueError(f"names={names!r}: accepted are {len(self._lowest)} names")
        variables = [names[place] for place in places]
        if len(set(variables)) < len(variables):
            return None
        coefficients = self._coefficients(self._columns[component])
        return None if coefficients is None else write(coefficients, variables)

    def _forget(self) -> None:
        """Drop all that was learned."""
        self._use(Layout.of([]))

    def _use(self, layout: Layout) -> None:
        self._layout = layout
        self._space = RowSpace(len(layout.monomials))
        self._basis: list[_Observation] = []
        self._columns: dict[str, list[int]] = {}
        self._checks: list[_Check] = []
        self._proofs: dict[int, _Proof | None] = {}

    def _start_over(self, observation: _Observation) -> None:
        """Rebuild from what was kept: a size varies that did not, or two are no longer equal.

        Such an observation is never a combination of the old ones, so those in the basis always
        show which sizes vary.
        """
        kept = [*self._kept(), observation]
        layout = Layout.of([each.sizes for each in kept])
        if len(layout.variables) > MOST_VARIABLES:
            self._too_many = True
            self._forget()
            return
        self._use(layout)
        for each in kept:
            self._take(each)

    def _take(self, observation: _Observation) -> None:
        rest = self._space.reduce(self._layout.row(observation.sizes))
        if self._space.holds(rest):
            self._check(observation, self._space.combination(rest))
            return
        self._space.add(rest)
        for name in observation.values.keys() - self._columns.keys():
            self._columns[name] = [0] * len(self._basis)
        for name, column in self._columns.items():
            column.append(observation.values.get(name, 0))
        self._basis.append(observation)

    def _check(self, observation: _Observation, combination: list[int]) -> None:
        """Compare an observation with what the others say about it; keep it where it is news."""
        if not self._agrees(observation.values, combination):
            self.broken = True
            self._forget()
        elif self._proven(combination, observation.sizes):
            self._occurrences += 1
        # The very shape again says nothing about other shapes.
        elif not self._was_counted(observation.sizes) and len(self._checks) < _MOST_CHECKS:
            self._checks.append(_Check(observation, _mask(combination)))
            self._proofs.clear()

    def _agrees(self, values: Mapping[str, int], combination: list[int]) -> bool:
        if any(value for name, value in values.items() if name not in self._columns):
            return False
        scale = self._space.scale
        return all(
            sum(map(mul, combination, column)) == scale * values.get(name, 0)
            for name, column in self._columns.items()
        )

    def _was_counted(self, sizes: Sizes) -> bool:
        return any(each.sizes == sizes for each in self._kept())

    def _kept(self) -> list[_Observation]:
        return [*self._basis, *[check.observation for check in self._checks]]

    def _combination(self, sizes: Sizes) -> list[int] | None:
        """Return what to multiply the basis with, times the scale; None outside of its span."""
        if not self._basis or not self._layout.fits(sizes):
            return None
        rest = self._space.reduce(self._layout.row(sizes))
        return self._space.combination(rest) if self._space.holds(rest) else None

    def _combine(self, combination: list[int]) -> dict[str, int] | None:
        values = {}
        for name, column in self._columns.items():
            value, fraction = divmod(sum(map(mul, combination, column)), self._space.scale)
            if fraction or value < 0:
                return None
            values[name] = value
        return values

    def _proven(self, combination: list[int], sizes: Sizes) -> bool:
        used = _mask(combination)
        if used not in self._proofs:
            if len(self._proofs) >= _MOST_PROOFS:
                self._proofs.clear()
            self._proofs[used] = self._prove(used)
        proof = self._proofs[used]
        return proof is not None and proof.covers(self._layout.values(sizes))

    def _prove(self, used: int) -> _Proof | None:
        """Gather the evidence for a combination: the counts in it and those that follow from it.

        Counts that follow from others besides are no evidence: they would fit as well if the
        batch sizes of these counts and of the others followed different laws.
        """
        members = [at for at in range(len(self._basis)) if used >> at & 1]
        checks = [check for check in self._checks if not check.used & ~used]
        for at in members:
            if sum(check.used >> at & 1 for check in checks) < _CONFIRMATIONS:
                return None
        evidence = [self._basis[at] for at in members] + [check.observation for check in checks]
        return _Proof.of([self._layout.values(each.sizes) for each in evidence])

    def _coefficients(self, column: list[int]) -> dict[Sizes, Fraction] | None:
        layout, observed = self._layout, [each.sizes for each in self._basis]
        count = len(layout.monomials)
        if len(observed) == count and self._prove((1 << count) - 1):
            return solve(layout, observed, layout.monomials, column)
        return solve_in_proportion(layout, observed, column)


@dataclass(frozen=True, slots=True)
class _Observation:
    sizes: Sizes
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Check:
    """An observation that followed from others, and from which: a bit for each of the basis."""

    observation: _Observation
    used: int


@dataclass(frozen=True, slots=True)
class _Proof:
    """Which values of the variables the evidence for a combination speaks about."""

    origin: Sizes
    steps: Sizes
    remainders: tuple[frozenset[int], ...]

    @classmethod
    def of(cls, evidence: list[Sizes]) -> _Proof:
        origin = evidence[0]
        columns = list(zip(*evidence, strict=True))
        steps = [gcd(*[x - start for x in xs]) for start, xs in zip(origin, columns, strict=True)]
        remainders = [frozenset(x % _MODULUS for x in xs) for xs in columns]
        return cls(origin, tuple(steps), tuple(remainders))

    def covers(self, values: Sizes) -> bool:
        return all(
            (value == start if not step else (value - start) % step == 0)
            and value % _MODULUS in remainders
            for value, start, step, remainders in zip(
                values, self.origin, self.steps, self.remainders, strict=True
            )
        )


def _mask(combination: list[int]) -> int:
    return sum(1 << at for at, factor in enumerate(combination) if factor)
