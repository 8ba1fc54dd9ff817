"""Which of a batch's sizes are variables of its closed form."""

import pytest
from learned_forms import FORMULA, answer, chooser, learn, model, pairs, transformer, walk

from computemeter.closed_form import ClosedForm


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
