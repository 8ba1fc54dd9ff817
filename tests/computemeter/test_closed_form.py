"""The closed form of a step's FLOPs: exact where it follows from counts, silent elsewhere.

The transformer has 2 layers of width 64 and a head of 1,488 words, B sequences of T tokens.
Weights: 2 * 12*64*64 + 64*1488 = 193,536, each 6 FLOPs per token (forward, two gradients):
1,161,216*B*T. Attention: two products of 2*B*T*T*64 a layer, 3 times with gradients: 1,536*B*T*T.
"""

import doctest
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from computemeter import closed_form as module
from computemeter.closed_form import ClosedForm
from computemeter.closed_form_layout import monomials_of
from computemeter.counters import shapes
from computemeter.counters.shapes import family_of, sizes_of
from computemeter.counters.signature import signature
from computemeter.row_space import RowSpace

FORMULA = "1536*B*T**2 + 1161216*B*T"


def transformer(b, t):
    return 1_536 * b * t**2 + 1_161_216 * b * t


def model(flops):
    return {"model": flops}


def learn(function, shapes, form=None):
    """Observe every shape."""
    form = form or ClosedForm()
    for sizes in shapes:
        form.observe(sizes, model(function(*sizes)))
    return form


def answer(form, *sizes):
    values = form.predict(sizes)
    return None if values is None else values["model"]


def walk(function, shapes, *, checking):
    """Meet shapes as a run does, counting those that cannot be predicted.

    Return the form, how many shapes were counted, and those predicted wrongly.
    """
    form, counted, wrong = ClosedForm(), 0, []
    for sizes in shapes:
        checked = checking and form.wants_check(sizes)
        predicted = None if checked else answer(form, *sizes)
        if predicted is None:
            counted += 1
            form.observe(sizes, model(function(*sizes)))
        elif predicted != function(*sizes):
            wrong.append(sizes)
    return form, counted, wrong


def chooser(seed):
    return random.Random(seed)


def pairs(seed, number):
    chosen = chooser(seed)
    return [(chosen.randint(1, 64), chosen.randint(1, 512)) for _ in range(number)]


# Signatures.


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


# What is predicted.


def test_a_transformer_is_exact_elsewhere():
    form = learn(transformer, pairs(0, 16))
    elsewhere = [(b, t) for b in range(1, 80, 3) for t in range(1, 2000, 61)]
    assert all(answer(form, b, t) == transformer(b, t) for b, t in elsewhere)
    assert form.formula("model", ["B", "T"]) == FORMULA
    assert not form.broken


def test_nothing_is_known_at_first():
    form = ClosedForm()
    assert form.predict((8, 128)) is None
    assert form.predict(()) is None
    assert form.formula("model", ["B", "T"]) is None
    assert form.wants_check((8, 128))


@pytest.mark.parametrize("seed", range(5))
def test_500_shapes_from_20_counts(seed):
    form, counted, wrong = walk(transformer, pairs(seed, 500), checking=False)
    assert counted <= 20
    assert wrong == []
    assert not form.broken


@pytest.mark.parametrize("seed", range(5))
def test_500_shapes_with_checks(seed):
    # 8 that are independent and 2 to confirm; checks at 1, 2, 4, ..., 256; new longest, shortest
    # and largest: about the logarithm of 500, each.
    _, counted, wrong = walk(transformer, pairs(seed, 500), checking=True)
    assert counted <= 40
    assert wrong == []


def test_one_size_needs_three_counts_two_confirmations_and_its_remainder():
    form = ClosedForm()
    for t in (4, 8, 16, 12):
        assert answer(form, 8, 20) is None
        form.observe((8, t), model(transformer(8, t)))
    assert answer(form, 8, 20) is None
    form.observe((8, 24), model(transformer(8, 24)))
    # 4, 8, 16 are independent, 12 and 24 confirm them. All are multiples of 4.
    assert answer(form, 8, 20) == transformer(8, 20)
    assert answer(form, 8, 18) is None
    assert answer(form, 8, 19) is None
    form.observe((8, 19), model(transformer(8, 19)))
    assert answer(form, 8, 35) == transformer(8, 35)
    assert answer(form, 8, 34) is None
    assert answer(form, 8, 33) is None


def test_a_shape_that_was_counted_is_known():
    form = learn(transformer, [(8, 4), (8, 8)])
    assert answer(form, 8, 4) == transformer(8, 4)
    assert answer(form, 8, 12) is None


def test_a_shape_seen_again_confirms_nothing():
    form = learn(transformer, [(8, 4), (8, 8), (8, 16)] * 5)
    assert answer(form, 8, 12) is None
    learn(transformer, [(8, 20)] * 5, form)
    assert answer(form, 8, 12) is None
    learn(transformer, [(8, 24)], form)
    assert answer(form, 8, 12) == transformer(8, 12)


def test_at_a_fixed_batch_size_no_other_is_predicted():
    form = learn(transformer, [(8, t) for t in range(1, 100)])
    assert answer(form, 8, 1000) == transformer(8, 1000)
    assert [answer(form, b, 50) for b in (1, 7, 9, 16, 80)] == [None] * 5


def test_at_a_constant_number_of_tokens_no_other_is_predicted():
    # Fitted with the six monomials, this trap was 6.4x wrong on a partial batch.
    tokens = 5_040
    shapes = [(b, tokens // b) for b in range(1, tokens) if tokens % b == 0]
    left_out = [(12, 420), (15, 336), (60, 84)]
    form = learn(transformer, [each for each in shapes if each not in left_out])
    assert all(answer(form, *each) == transformer(*each) for each in left_out)
    assert [answer(form, b, t) for b, t in [(12, 419), (5, 336), (60, 85), (1, 1)]] == [None] * 4
    assert form.formula("model", ["B", "T"]) is None


def test_nearly_constant_tokens_are_no_trap():
    # As many examples as fit into 4,096 tokens: the product is 3,850 to 4,096.
    shapes = [(4096 // t, t) for t in chooser(0).sample(range(20, 270), 200)]
    _, _, wrong = walk(transformer, shapes, checking=False)
    assert wrong == []


def test_a_partial_batch_is_predicted_from_partial_batches_only():
    form = learn(transformer, [(32, t) for t in range(1, 20)])
    learn(transformer, [(7, t) for t in (5, 6, 7, 8)], form)
    assert answer(form, 32, 50) == transformer(32, 50)
    assert answer(form, 7, 9) is None  # 5, 6, 7 are independent, and only 8 has confirmed them
    learn(transformer, [(7, 10)], form)
    assert answer(form, 7, 50) == transformer(7, 50)
    assert answer(form, 16, 50) is None
    assert form.formula("model", ["B", "T"]) == FORMULA


def test_evidence_at_one_batch_size_is_none_at_another():
    # Multiples of 8 at 32 examples; odd lengths at 7 only. A stride would round at (32, 15).
    form = learn(transformer, [(32, t) for t in (8, 16, 24, 32, 40)])
    learn(transformer, [(7, t) for t in (13, 15, 17, 19, 21)], form)
    assert answer(form, 7, 23) == transformer(7, 23)
    assert answer(form, 32, 48) == transformer(32, 48)
    assert answer(form, 32, 15) is None
    assert answer(form, 7, 16) is None


# Which sizes are variables.


def test_sizes_that_are_always_equal_are_one_variable():
    form = ClosedForm()
    for b, t in pairs(1, 16):
        form.observe((b, t, b, t, 3), model(transformer(b, t)))
    assert answer(form, 9, 33, 9, 33, 3) == transformer(9, 33)
    assert form.formula("model", ["B", "T", "b", "t", "C"]) == FORMULA


def test_a_tie_that_breaks_is_a_new_variable():
    form = ClosedForm()
    for b, t in pairs(1, 16):
        form.observe((b, t, b, t, 3), model(transformer(b, t)))
    assert answer(form, 9, 33, 9, 32, 3) is None
    assert answer(form, 9, 33, 8, 33, 3) is None
    assert answer(form, 9, 33, 9, 33, 4) is None
    assert not form.broken
    # Labels of another length. On equal lengths T * T * t is T**3, one monomial more than before.
    form.observe((9, 33, 9, 32, 3), model(transformer(9, 33) + 5))
    for b, t in pairs(2, 4):
        form.observe((b, t, b, t, 3), model(transformer(b, t)))
    assert answer(form, 10, 34, 10, 34, 3) == transformer(10, 34)
    assert answer(form, 10, 34, 10, 33, 3) is None


def test_a_size_that_is_always_one_less_needs_no_counts_of_its_own_kind():
    # Labels are one shorter: in B and T the space has 9 dimensions, T**3 from T**2 * (T-1) besides.
    form, counted, wrong = ClosedForm(), 0, 0
    for b, t in pairs(2, 300):
        predicted = answer(form, b, t, b, t - 1)
        if predicted is None:
            counted += 1
            form.observe((b, t, b, t - 1), model(transformer(b, t)))
        else:
            wrong += predicted != transformer(b, t)
    assert (wrong, form.broken) == (0, False)
    assert counted <= 20
    assert form.formula("model", ["B", "T", "b", "t"]) is None  # T or t: the counts leave a choice


def test_the_length_alone():
    # A tokenizer's model at 8 sequences: 8 * 1,536 = 12,288 and 8 * 1,161,216 = 9,289,728.
    form = learn(transformer, [(8, t) for t in (17, 5, 130, 44, 99, 3, 61)])
    assert answer(form, 8, 64) == transformer(8, 64) == 12_288 * 64**2 + 9_289_728 * 64
    assert form.formula("model", ["B", "T"]) == "12288*T**2 + 9289728*T"


def encoder_decoder(b, t, s):
    """Cost self-attention of either length and attention of one to the other, width 64."""
    return 768 * b * (t**2 + s**2 + t * s) + 294_912 * b * t + 393_216 * b * s


def test_three_variables():
    chosen = chooser(3)
    shapes = [tuple(chosen.randint(1, 300) for _ in range(3)) for _ in range(400)]
    form, counted, wrong = walk(encoder_decoder, shapes, checking=False)
    # 1, B, T, S; 6 of degree 2; BTS and 6 with a square: 17, and 2 to confirm.
    assert 19 <= counted <= 23
    assert (wrong, form.broken) == ([], False)
    assert form.formula("model", ["B", "T", "S"]) == (
        "768*B*T**2 + 768*B*T*S + 768*B*S**2 + 294912*B*T + 393216*B*S"
    )


def test_images():
    # A 3x3 convolution of 3 into 16 channels, padded: 2*27*16 = 864 FLOPs a pixel, and its weight's
    # gradient again; a 1x1 to 10 classes over the mean of all pixels: 3 * 2*16*10 = 960 an image.
    def net(b, h, w):
        return 1_728 * b * h * w + 960 * b

    chosen = chooser(4)
    sides = [(chosen.randint(1, 32), *chosen.choices(range(32, 256), k=2)) for _ in range(300)]
    form, counted, wrong = walk(lambda b, _c, h, w: net(b, h, w), insert(sides, 3), checking=False)
    assert counted <= 23
    assert (wrong, form.broken) == ([], False)
    assert form.formula("model", "BCHW") == "1728*B*H*W + 960*B"


def insert(shapes, channels):
    return [(b, channels, h, w) for b, h, w in shapes]


def test_four_variables_are_learned_and_five_are_not():
    def product_of_sums(b, *lengths):
        return 6 * b * sum(lengths) ** 2

    chosen = chooser(5)
    four = [tuple(chosen.randint(1, 99) for _ in range(4)) for _ in range(120)]
    form, counted, wrong = walk(product_of_sums, four, checking=False)
    assert 33 <= counted <= 45
    assert wrong == []
    five = [tuple(chosen.randint(1, 99) for _ in range(5)) for _ in range(200)]
    form = learn(product_of_sums, five)
    assert not form.broken
    assert [form.predict(sizes) for sizes in five] == [None] * 200
    assert not form.wants_check(five[0])
    assert form.formula("model", "BTSUV") is None


def test_another_number_of_sizes_is_another_family():
    form = learn(transformer, pairs(0, 16))
    assert form.predict((3,)) is None
    assert form.predict((3, 4, 5)) is None
    with pytest.raises(ValueError, match="accepted are 2 sizes"):
        form.observe((3, 4, 5), model(1))


def test_batches_without_arrays_are_all_alike():
    form = ClosedForm()
    form.observe((), model(7))
    assert form.predict(()) == model(7)
    form.observe((), model(8))
    assert form.broken


# Components.


def test_components_are_predicted_together():
    def values(b, t):
        return {"model": transformer(b, t), "aten::bmm": 1_536 * b * t**2, "calls": 14}

    form = ClosedForm()
    for sizes in pairs(0, 16):
        form.observe(sizes, values(*sizes))
    assert form.predict((9, 99)) == values(9, 99)
    assert form.formula("aten::bmm", "BT") == "1536*B*T**2"
    assert form.formula("calls", "BT") == "14"
    assert form.formula("other", "BT") is None


def test_what_is_missing_counts_as_zero():
    # (T - 4) * (T - 8) * B: no FLOPs at two lengths, where the operator may as well be missing.
    form = ClosedForm()
    for t in (4, 8, 12, 16, 20, 24):
        flops = 2 * (t - 4) * (t - 8)
        form.observe((t,), {"model": 3 * t} | ({"op": flops} if flops else {}))
    assert form.predict((28,)) == {"model": 84, "op": 960}  # 2 * 24 * 20
    assert not form.broken


def test_an_operator_that_appears_with_size_breaks_the_form():
    # The total is what it was, but it is mm now and was addmm.
    form = learn(transformer, pairs(0, 16))
    form.observe((9, 99), {"model": transformer(9, 99), "aten::mm": 5})
    assert form.broken


def test_an_operator_that_disappears_breaks_the_form():
    form = ClosedForm()
    for t in range(4, 20):
        form.observe((t,), {"model": 3 * t, "op": t})
    form.observe((99,), {"model": 297})
    assert form.broken


@pytest.mark.parametrize("factor", [2**31, 2**63, 2**100, 864 * 10**17])
def test_numbers_of_any_size_are_exact(factor):
    def huge(b, t):
        return factor * transformer(b, t) + b

    form = learn(huge, [(b * 4096, t * 65_536 + 1) for b, t in pairs(0, 20)])
    assert answer(form, 4096, 65_537) == factor * transformer(4096, 65_537) + 4096


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


# Formulas.


def test_a_formula_is_python():
    def odd(b, t):
        return 3 * b**2 * t - 2 * b * t + t**2 - b + 7

    # Read from the form, it gives what the form gives.
    form = learn(lambda b, t: odd(b, t) + 10**6, pairs(0, 20))
    text = form.formula("model", ["B", "T"])
    assert text == "3*B**2*T - 2*B*T + T**2 - B + 1000007"
    assert eval(text, {"B": 17, "T": 33}) == odd(17, 33) + 10**6  # noqa: S307 - our own text


def test_a_formula_in_proportion_to_the_batch_needs_only_two_batch_sizes():
    # 32 examples and a partial batch of 7: with B**2 and a constant, 3 would be needed.
    form = learn(lambda b: 1_152 * b, [(32,), (7,)])
    assert form.formula("model", "B") == "1152*B"
    assert answer(form, 16) is None
    form = learn(lambda b: 1_152 * b + 64, [(32,), (7,)])
    assert form.formula("model", "B") is None
    form = learn(lambda b: 2 * b * b, [(32,), (7,)])
    assert form.formula("model", "B") is None


def test_no_formula_where_nothing_varied_or_too_little_was_counted():
    assert learn(transformer, [(8, 16)] * 9).formula("model", "BT") is None
    assert learn(transformer, [(8, 4), (8, 8), (8, 16)]).formula("model", "BT") is None
    assert learn(transformer, [(8, t) for t in (4, 8, 16, 12)]).formula("model", "BT") is None
    assert (
        learn(transformer, [(8, t) for t in (4, 8, 16, 12, 24)]).formula("model", "BT") is not None
    )


def test_no_formula_with_one_name_for_two_variables():
    form = learn(transformer, pairs(0, 16))
    assert form.formula("model", ["N", "N"]) is None
    with pytest.raises(ValueError, match="accepted are 2 names"):
        form.formula("model", ["B"])


def test_a_component_that_is_always_zero():
    form = learn(lambda _t: 0, [(t,) for t in range(1, 9)])
    assert form.formula("model", "T") == "0"
    assert answer(form, 20) == 0


# Whatever the polynomial.

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


def test_the_examples_of_the_docstrings_run():
    results = doctest.testmod(shapes)
    assert results.attempted > 0
    assert results.failed == 0
