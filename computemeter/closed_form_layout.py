"""Which sizes of a batch vary, and the monomials in them that a closed form is made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Self, TypeAlias

Sizes: TypeAlias = tuple[int, ...]
"""Of a batch, of its variables, or the powers of these in a monomial."""

MOST_VARIABLES = 4
# Attention is B * T**2, a contrastive loss B**2, an image B * H * W: no more is needed in practice.
_LARGEST_POWER = 2
_LARGEST_DEGREE = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """Which sizes are variables, and the monomials in them.

    Attributes:
        size_count: how many sizes a batch has.
        fixed: place and value of the sizes that never varied.
        equal: place of a size, and of the variable that it always equals.
        variables: places of the variables.
        monomials: the powers of the variables; the first is the constant 1.
        products: how to make each further monomial: an earlier one times a variable.
    """

    size_count: int
    fixed: tuple[tuple[int, int], ...]
    equal: tuple[tuple[int, int], ...]
    variables: Sizes
    monomials: tuple[Sizes, ...]
    products: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, observed: list[Sizes]) -> Self:
        """Tell from the sizes observed which are fixed, equal to another, or variables."""
        first: dict[Sizes, int] = {}
        fixed, equal = [], []
        columns = list(zip(*observed, strict=True))
        for place, column in enumerate(columns):
            if len(set(column)) == 1:
                fixed.append((place, column[0]))
            elif first.setdefault(column, place) != place:
                equal.append((place, first[column]))
        variables = tuple(first.values())
        # Too many are the caller's to refuse; their monomials would be very many.
        monomials = monomials_of(len(variables)) if len(variables) <= MOST_VARIABLES else ()
        products = tuple(_as_product(powers, monomials) for powers in monomials[1:])
        return cls(len(columns), tuple(fixed), tuple(equal), variables, monomials, products)

    def fits(self, sizes: Sizes) -> bool:
        """Say whether only variables differ from what was observed."""
        return (
            len(sizes) == self.size_count
            and all(sizes[place] == value for place, value in self.fixed)
            and all(sizes[place] == sizes[other] for place, other in self.equal)
        )

    def values(self, sizes: Sizes) -> Sizes:
        """Return the values of the variables."""
        return tuple([sizes[place] for place in self.variables])

    def row(self, sizes: Sizes) -> list[int]:
        """Return the values of the monomials."""
        values, row = self.values(sizes), [1]
        for earlier, variable in self.products:
            row.append(row[earlier] * values[variable])
        return row


def monomials_of(variables: int) -> tuple[Sizes, ...]:
    """Return all monomials in so many variables, the constant first, by degree."""
    powers = product(range(_LARGEST_POWER + 1), repeat=variables)
    return tuple(sorted((each for each in powers if sum(each) <= _LARGEST_DEGREE), key=sum))


def _as_product(powers: Sizes, monomials: tuple[Sizes, ...]) -> tuple[int, int]:
    variable = next(at for at, power in enumerate(powers) if power)
    earlier = tuple(power - (at == variable) for at, power in enumerate(powers))
    return monomials.index(earlier), variable
