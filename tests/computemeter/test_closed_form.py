"""The closed form of a step's FLOPs: exact where it follows from counts, silent elsewhere."""

import pytest
from learned_forms import FORMULA, answer, chooser, learn, model, pairs, transformer, walk

from computemeter.closed_form import ClosedForm

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
