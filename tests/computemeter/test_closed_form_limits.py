"""What is no polynomial is not predicted; when to count again; how much is kept."""

import pickle

import pytest
from learned_forms import answer, chooser, learn, model, pairs, transformer, walk

from computemeter import closed_form as module

# What is no polynomial.


def strided(t):
    """Cost a convolution of kernel 3, stride 2, padding 1, from 1 channel to 16, and its gradient.

    It has (t - 1) // 2 + 1 positions, each 2*3*16 = 96 FLOPs, and again for the weight.
    """
    return 192 * ((t - 1) // 2 + 1)


def strided_attention(t):
    """Cost attention over the strided positions."""
    return strided(t) + 768 * ((t - 1) // 2 + 1) ** 2


@pytest.mark.parametrize("function", [strided, strided_attention])
@pytest.mark.parametrize("checking", [True, False])
def test_a_stride_of_two_is_found_out_before_any_prediction(function, checking):
    # 5 counts at least, 3 of them all odd or all even: they fix the polynomial of their kind, and
    # that of the others is nowhere equal to it.
    for seed in range(300):
        shapes = chooser(seed).sample([(t,) for t in range(1, 65)], 64)
        form, _, wrong = walk(function, shapes, checking=checking)
        assert form.broken
        assert wrong == []


def test_a_stride_of_two_with_batch_sizes():
    for seed in range(50):
        form, _, wrong = walk(lambda b, t: b * strided(t), pairs(seed, 100), checking=False)
        assert form.broken
        assert wrong == []


@pytest.mark.parametrize("patch", [3, 4, 8, 14, 16, 32])
def test_patches_are_found_out_by_following_the_checks(patch):
    for seed in range(100):
        shapes = chooser(seed).sample([(t,) for t in range(1, 129)], 128)
        form, _, wrong = walk(lambda t: 864 * -(-t // patch), shapes, checking=True)
        assert form.broken
        assert wrong == []


def test_lengths_that_are_all_odd_say_nothing_about_even_ones():
    form = learn(strided, [(t,) for t in range(1, 64, 2)])
    assert answer(form, 99) == strided(99)
    assert answer(form, 64) is None
    assert not form.broken
    form.observe((64,), model(strided(64)))
    assert form.broken


@pytest.mark.parametrize("patch", [3, 7, 14, 16])
def test_multiples_of_a_patch_say_nothing_about_other_sizes(patch):
    form = learn(lambda t: 864 * (t // patch), [(t * patch,) for t in range(1, 30)])
    assert answer(form, 50 * patch) == 864 * 50
    assert [answer(form, 50 * patch + rest) for rest in range(1, patch)] == [None] * (patch - 1)


def test_two_strides_that_cost_alike_at_two_of_four_remainders():
    # Two strides of 2, twice the cost at the second: t even or odd, 2 and 3 modulo 4 give t + 1,
    # but 0 gives t and 1 gives t + 2.
    def two_strides(t):
        return -(-t // 2) + 2 * -(-t // 4)

    form = learn(two_strides, [(t,) for t in range(1, 60) if t % 4 > 1])
    assert not form.broken
    assert [answer(form, t) for t in (60, 61, 62, 63)] == [None, None, 63, 64]


def test_a_step_longer_than_the_range_is_left_to_the_checks():
    # Patches of 16 at lengths 16 to 31: always one. This limit is documented.
    form = learn(lambda t: 864 * (t // 16), [(t,) for t in range(16, 32)])
    assert answer(form, 32) == 864 != 864 * 2
    assert form.wants_check((32,))
    assert form.wants_check((15,))
    form.observe((32,), model(864 * 2))
    assert form.broken


def test_broken_is_for_good():
    form = learn(transformer, pairs(0, 16))
    form.observe((9, 99), model(transformer(9, 99) + 1))
    assert form.broken
    learn(transformer, pairs(1, 30), form)
    assert form.broken
    assert answer(form, 9, 99) is None
    assert answer(form, 10, 100) is None
    assert form.formula("model", "BT") is None
    assert not form.wants_check((9, 99))


def test_work_that_depends_on_the_data_breaks_the_form():
    form = learn(transformer, [(8, 16)])
    form.observe((8, 16), model(transformer(8, 16) + 2))
    assert form.broken


def test_a_degree_beyond_the_monomials_breaks_the_form():
    # Attention over pixels: (H*W)**2.
    shapes = [(h, w) for h in range(8, 16) for w in range(8, 16)]
    form, _, wrong = walk(lambda h, w: (h * w) ** 2, shapes, checking=False)
    assert form.broken
    assert wrong == []


def test_a_prediction_is_not_negative():
    form = learn(lambda t: 10_000 - 100 * t, [(t,) for t in range(1, 50)])
    assert answer(form, 100) == 0
    assert answer(form, 101) is None


def test_a_prediction_is_whole():
    # Squares are 1 modulo 3 but at multiples of 3, none of which was counted.
    form = learn(lambda t: (t * t - 1) // 3, [(t,) for t in range(1, 50) if t % 3])
    assert answer(form, 100) == 3_333
    assert answer(form, 99) is None
    assert form.formula("model", "T") is None
    form = learn(lambda t: t * (t - 1) // 2, [(t,) for t in range(1, 50)])
    assert answer(form, 101) == 5_050
    assert form.formula("model", "T") is None


# When to count again.


def test_checks_at_predictions_1_2_4_8():
    # 1, 100 and 20 are independent, 21 and 22 confirm them, 23 has the last remainder.
    form = learn(transformer, [(8, t) for t in (1, 100, 20, 21, 22, 23)])
    checked = []
    for number in range(1, 70):
        sizes = (8, 24 + number)
        if form.wants_check(sizes):
            checked.append(number)
            form.observe(sizes, model(transformer(*sizes)))
        else:
            assert answer(form, *sizes) == transformer(*sizes)
    assert checked == [1, 2, 4, 8, 16, 32, 64]


def test_sizes_beyond_those_counted_are_checked():
    form = learn(transformer, [(8, t) for t in [10, 100, *range(20, 31)]])
    form._occurrences = 20  # the next is no power of two
    assert [form.wants_check((8, t)) for t in (9, 10, 50, 100, 101)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert form.wants_check((9, 50))
    learn(transformer, [(8, 200)], form)
    assert not form.wants_check((8, 101))


# Memory.


def test_memory_is_bounded_over_10_000_counts():
    shapes = pairs(7, 10_000)
    form = learn(transformer, shapes[:300])
    size = len(pickle.dumps(form))
    learn(transformer, shapes[300:], form)
    assert len(pickle.dumps(form)) < 1.2 * size
    assert len(form._kept()) <= 31 + 64
    assert not form.broken


def test_no_more_checks_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr(module, "_MOST_CHECKS", 1)
    form = learn(transformer, pairs(0, 100))
    assert len(form._kept()) == 8 + 1
    assert answer(form, 9, 99) is None  # confirmed once only
    assert not form.broken


def test_no_more_proofs_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PROOFS", 3)
    form = learn(transformer, [(b, t) for b in range(1, 9) for t in range(1, 9)])
    for b, t in pairs(0, 200):
        assert answer(form, b, t) in {None, transformer(b, t)}
        assert len(form._proofs) <= 3
    assert answer(form, 9, 99) == transformer(9, 99)
