"""The coefficients of a closed form, and the form as a Python expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from computemeter.closed_form_layout import Layout, Sizes
from computemeter.row_space import RowSpace


def solve(
    layout: Layout, observed: Sequence[Sizes], monomials: Sequence[Sizes], values: list[int]
) -> dict[Sizes, Fraction] | None:
    """Find the combination of some monomials that has these values; None unless there is one.

    The unknowns are the monomials' columns: the values must lie in the span of these.

    Args:
        layout: of the sizes.
        observed: the sizes of the counts, of which no row of monomials follows from the others.
        monomials: of the layout.
        values: one for each count.
    """
    rows = [layout.row(sizes) for sizes in observed]
    space = RowSpace(len(rows))
    for powers in monomials:
        at = layout.monomials.index(powers)
        rest = space.reduce([row[at] for row in rows])
        if space.holds(rest):
            return None
        space.add(rest)
    rest = space.reduce(values)
    if not space.holds(rest):
        return None
    numerators = space.combination(rest)
    return {
        powers: Fraction(numerator, space.scale)
        for powers, numerator in zip(monomials, numerators, strict=False)
    }


def solve_in_proportion(
    layout: Layout, observed: Sequence[Sizes], values: list[int]
) -> dict[Sizes, Fraction] | None:
    """Find a form in proportion to one variable, which one value of that determines.

    Args:
        layout: of the sizes.
        observed: as for `solve`.
        values: one for each count.
    """
    for variable in range(len(layout.variables)):
        linear = [powers for powers in layout.monomials if powers[variable] == 1]
        # The counts have another value besides, or this would be no variable.
        if _known_at_a_value(layout, observed, variable, linear):
            found = solve(layout, observed, linear, values)
            if found is not None:
                return found
    return None


def _known_at_a_value(
    layout: Layout, observed: Sequence[Sizes], variable: int, linear: list[Sizes]
) -> bool:
    """Say whether, at one value of a variable, the counts leave no choice in the others."""
    spaces: dict[int, RowSpace] = {}
    for sizes in observed:
        space = spaces.setdefault(layout.values(sizes)[variable], RowSpace(len(linear)))
        row = layout.row(sizes)
        rest = space.reduce([row[layout.monomials.index(powers)] for powers in linear])
        if not space.holds(rest):
            space.add(rest)
    return any(space.rank == len(linear) for space in spaces.values())


def write(coefficients: Mapping[Sizes, Fraction], names: Sequence[str]) -> str | None:
    """Write the form as in `96*B*T**2 - B*T`; None where it has fractions."""
    if any(coefficient.denominator != 1 for coefficient in coefficients.values()):
        return None
    terms = [
        _term(coefficients[powers].numerator, powers, names)
        for powers in sorted(coefficients, key=lambda each: (sum(each), each), reverse=True)
        if coefficients[powers]
    ]
    return " + ".join(terms).replace("+ -", "- ") or "0"


def _term(coefficient: int, powers: Sizes, names: Sequence[str]) -> str:
    factors = [
        name if power == 1 else f"{name}**{power}"
        for name, power in zip(names, powers, strict=True)
        if power
    ]
    if not factors:
        return str(coefficient)
    if abs(coefficient) == 1:
        return ("-" if coefficient < 0 else "") + "*".join(factors)
    return "*".join([str(coefficient), *factors])
