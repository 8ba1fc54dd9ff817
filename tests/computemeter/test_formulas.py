"""The FLOPs of every contraction from its shapes, expected numbers derived by hand."""

import doctest

import pytest

from computemeter import formulas
from computemeter.formulas import (
    GATES,
    attention,
    attention_backward,
    attention_recompute,
    convolution,
    matmul,
    recurrent,
    recurrent_backward,
)


def test_the_examples_of_the_docstrings_run():
    results = doctest.testmod(formulas)
    assert results.attempted > 0
    assert results.failed == 0


def test_a_matrix_product_is_two_flops_per_multiply_add():
    # 3 * 5 = 15 elements, each a sum of 4 products: 60 multiply-adds
    assert matmul(3, 4, 5) == 120
    assert matmul(3, 4, 5, batch=7) == 840
    # a vector is a matrix of one column, a dot product one of one row as well
    assert matmul(3, 4, 1) == 24
    assert matmul(1, 4, 1) == 8


@pytest.mark.parametrize("sizes", [(0, 4, 5), (3, 0, 5), (3, 4, 0), (3, 4, 5, 0)])
def test_an_empty_matrix_takes_no_work(sizes):
    assert matmul(*sizes) == 0


def test_products_past_int64_are_exact():
    # 2 * (2^30 + 1)^3 = 2 * (2^90 + 3 * 2^60 + 3 * 2^30 + 1)
    assert matmul(2**30 + 1, 2**30 + 1, 2**30 + 1) == 2**91 + 6 * 2**60 + 6 * 2**30 + 2


@pytest.mark.parametrize(
    ("batch", "positions", "weight", "flops"),
    [
        # 16 x 3 x 3x3 = 432 weights, each used at 32*32 = 1,024 places of 32 examples: 14,155,776
        pytest.param(32, (32, 32), (16, 3, 3, 3), 28_311_552, id="2d"),
        # stride 2 leaves 16*16 = 256 places: 2 * 32 * 256 * (32*16*9 = 4,608)
        pytest.param(32, (16, 16), (32, 16, 3, 3), 75_497_472, id="strided"),
        # 10 - 3 + 1 = 8 places, 4*3*3 = 36 weights: 2 * 2 * 8 * 36
        pytest.param(2, (8,), (4, 3, 3), 1_152, id="1d"),
        # 4*5*6 = 120 places, 4*3*8 = 96 weights: 2 * 2 * 120 * 96
        pytest.param(2, (4, 5, 6), (4, 3, 2, 2, 2), 46_080, id="3d"),
        # one filter per channel, 16*1*9 = 144 weights: 2 * 32 * 1,024 * 144
        pytest.param(32, (32, 32), (16, 1, 3, 3), 9_437_184, id="depthwise"),
        # 16 -> 32 channels in 4 groups, 32*4*9 = 1,152 weights: 2 * 32 * 1,024 * 1,152,
        # a quarter of the 301,989,888 of the same convolution without groups
        pytest.param(32, (32, 32), (32, 4, 3, 3), 75_497_472, id="grouped"),
        # transposed: every element of the *input* is spread by 32*16*9 = 4,608 weights
        pytest.param(32, (32, 32), (32, 16, 3, 3), 301_989_888, id="transposed"),
        # transposed in 4 groups: (in, out / groups) = (32, 4), 1,152 weights
        pytest.param(32, (32, 32), (32, 4, 3, 3), 75_497_472, id="transposed, grouped"),
        # a kernel of one tap is a matrix product over places: 2 * (5 * 6) * 3 * 4
        pytest.param(5, (6,), (4, 3, 1), matmul(5 * 6, 3, 4), id="pointwise"),
        pytest.param(0, (32, 32), (16, 3, 3, 3), 0, id="no examples"),
    ],
)
def test_a_convolution_uses_every_weight_at_every_place(batch, positions, weight, flops):
    assert convolution(batch, positions, weight) == flops


def test_attention_is_two_products():
    # 32 * 4 = 128 heads; scores (16 x 16) times 16 wide, then the same for the values:
    # 2 * (128 * 256 * 16) = 1,048,576 each
    assert attention(32, 4, 16, 16, 16, 16) == 2 * 1_048_576
    # cross attention of 3 queries to 5 keys, values of their own width:
    # scores 2 * 2 * 3*5 * 7 = 420, values 2 * 2 * 3*5 * 11 = 660
    assert attention(1, 2, 3, 5, 7, 11) == 1_080


def test_attention_backward_is_four_products():
    # forward 420 + 660; dV = scores^T dO and dScores = dO V^T take 660 each, dQ and dK 420 each
    assert attention_backward(1, 2, 3, 5, 7, 11) == 2 * 660 + 2 * 420


def test_a_fused_backward_computes_the_scores_once_more():
    # the 420 of the scores; the width of the values has no part in it
    assert attention_recompute(1, 2, 3, 5, 7) == 420
    assert attention_recompute(32, 4, 16, 16, 16) == 1_048_576


def test_gates():
    assert GATES == {"lstm": 4, "gru": 3, "rnn": 1}


@pytest.mark.parametrize(
    ("cell", "projection", "flops"),
    [
        # 640 steps x examples; input 16 and state 32 to 4 * 32 gates: 2 * 640 * 48 * 128
        pytest.param("lstm", 0, 7_864_320, id="LSTM"),
        # 3 * 32 gates: 2 * 640 * 48 * 96
        pytest.param("gru", 0, 5_898_240, id="GRU"),
        # 2 * 640 * 48 * 32
        pytest.param("rnn", 0, 1_966_080, id="RNN"),
        # the state fed back is 8 wide: 2 * 640 * (16 + 8) * 128 = 3,932,160,
        # and made from the 32 units: 2 * 640 * 32 * 8 = 327,680
        pytest.param("lstm", 8, 4_259_840, id="LSTM with a projection"),
    ],
)
def test_a_recurrent_layer(cell, projection, flops):
    assert recurrent(cell, 20 * 32, 16, 32, projection) == flops
    # each product has two factors and so two gradients
    assert recurrent_backward(cell, 20 * 32, 16, 32, projection) == 2 * flops


def test_an_unknown_cell_is_an_error_and_no_zero():
    with pytest.raises(KeyError, match="mamba"):
        recurrent("mamba", 1, 1, 1)


def test_results_are_plain_ints():
    results = [
        matmul(1, 2, 3),
        convolution(1, (2,), (3, 4, 5)),
        attention(1, 1, 1, 1, 1, 1),
        attention_recompute(1, 1, 1, 1, 1),
        recurrent("gru", 1, 1, 1),
    ]
    assert {type(result) for result in results} == {int}
