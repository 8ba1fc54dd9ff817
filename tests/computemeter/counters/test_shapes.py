"""The sizes in the signature of a batch, and the families of those that differ in them alone."""

import doctest

import numpy as np
import pytest

from computemeter.counters import shapes
from computemeter.counters.shapes import family_of, sizes_of
from computemeter.counters.signature import signature


def batch(b, t, rows=3):
    ids = np.zeros((b, t), np.int64)
    return {
        "ids": ids,
        "labels": [ids, np.zeros(b)],
        "scale": np.float32(1),
        "n": 5,
        "m": [0] * rows,
    }


def test_sizes_are_all_sizes_of_all_arrays_in_order():
    assert sizes_of(signature(batch(8, 128))) == (8, 128, 8, 128, 8)
    assert sizes_of(signature(np.zeros((2, 3, 4)))) == (2, 3, 4)
    assert sizes_of(signature([np.zeros((2, 0)), np.zeros(7)])) == (2, 0, 7)


@pytest.mark.parametrize("nothing", [None, [], "text", np.float64(1), {"n": 1}, [0] * 300, {1: 2}])
def test_what_has_no_array_has_no_sizes_and_is_its_own_family(nothing):
    assert sizes_of(signature(nothing)) == ()
    assert family_of(signature(nothing)) == signature(nothing)


def test_a_family_differs_in_nothing_but_sizes():
    family = family_of(signature(batch(8, 128)))
    assert family == family_of(signature(batch(1, 5)))
    assert isinstance(hash(family), int)
    others = [batch(8, 128, rows=4), {**batch(8, 128), "n": "x"}, {"ids": batch(8, 128)["ids"]}]
    assert all(family_of(signature(other)) != family for other in others)


def test_dtype_rank_and_nesting_are_other_families():
    one = np.zeros((2, 3))
    others = [np.zeros((2, 3), np.int8), np.zeros(6), np.zeros((1, 2, 3)), [one], [one, one]]
    families = {family_of(signature(each)) for each in [one, *others]}
    assert len(families) == 6


def test_the_length_of_a_huge_list_is_no_size():
    assert family_of(signature([0] * 300)) != family_of(signature([0] * 301))


def test_a_sequence_of_arrays_is_not_taken_for_an_array():
    # ((2, 3), dtype) is an array; a list of two is a pair as well.
    two = signature([np.zeros((2, 3)), np.zeros((4, 5))])
    assert sizes_of(two) == (2, 3, 4, 5)
    assert sizes_of(signature({(1, 2): [np.zeros(3)]})) == (3,)
    assert sizes_of(signature([[], "text"])) == ()


def test_the_examples_of_the_docstrings_run():
    results = doctest.testmod(shapes)
    assert results.attempted > 0
    assert results.failed == 0
