"""Whatever the polynomial: no prediction is wrong, and none goes beyond what was counted."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_forms import chooser, learn, transformer, walk

from computemeter.closed_form_layout import monomials_of
from computemeter.row_space import RowSpace

COEFFICIENTS = st.integers(0, 2**80)
SEEDS = st.integers(0, 2**32)


def polynomial(coefficients, monomials):
    def value(*sizes):
        return sum(
            coefficient
            * int(
                np.prod(
                    [size**power for size, power in zip(sizes, powers, strict=True)], dtype=object
                )
            )
            for coefficient, powers in zip(coefficients, monomials, strict=True)
        )

    return value


@settings(deadline=None)
@given(st.data(), st.integers(1, 3), SEEDS, st.booleans())
def test_a_polynomial_is_never_predicted_wrongly(data, variables, seed, checking):
    monomials = monomials_of(variables)
    number = len(monomials)
    coefficients = data.draw(st.lists(COEFFICIENTS, min_size=number, max_size=number))
    largest = data.draw(st.integers(3, 600))
    chosen = chooser(seed)
    shapes = [tuple(chosen.randint(1, largest) for _ in range(variables)) for _ in range(60)]
    form, _, wrong = walk(polynomial(coefficients, monomials), shapes, checking=checking)
    assert wrong == []
    assert not form.broken


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=40), SEEDS)
def test_whatever_is_predicted_lies_in_the_span(shapes, seed):
    # Add to the polynomial one that is 0 at all shapes counted: it must be 0 at all predicted.
    form = learn(transformer, shapes)
    rows = [[b**i * t**j for i, j in monomials_of(2)] for b, t in shapes]
    if form._layout.monomials != monomials_of(2):
        return
    chosen = chooser(seed)
    rank = np.linalg.matrix_rank(np.array(rows, float))
    for _ in range(20):
        b, t = chosen.randint(0, 12), chosen.randint(0, 12)
        if form.predict((b, t)) is not None:
            more = [*rows, [b**i * t**j for i, j in monomials_of(2)]]
            assert np.linalg.matrix_rank(np.array(more, float)) == rank


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-9, 9), min_size=4, max_size=4), max_size=12))
def test_elimination_is_exact(rows):
    space, added = RowSpace(4), []
    for row in rows:
        rest = space.reduce(row)
        if not space.holds(rest):
            space.add(rest)
            added.append(row)
            continue
        factors = space.combination(rest)
        sums = [
            sum(f * known[at] for f, known in zip(factors, added, strict=True)) for at in range(4)
        ]
        assert sums == [space.scale * entry for entry in row]
    expected = np.linalg.matrix_rank(np.array(rows, float)) if rows else 0
    assert len(added) == expected
