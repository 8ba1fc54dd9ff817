"""Counting live PyTorch: real forward and backward passes against numbers derived by hand.

A linear layer of B rows from I to O takes 2*B*I*O forward, the same for the gradient of its weight
and the same again for that of its input, which nobody computes where nobody needs it: in all models
here the input is data, so the first layer has no input gradient.
"""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from computemeter import Meter

BATCH = 32
CLASSES = 10


def count_step(model, *inputs):
    """Count one forward pass and the backward pass of the cross entropy."""
    labels = torch.randint(0, CLASSES, (inputs[0].shape[0],))
    return Meter.count(lambda: F.cross_entropy(model(*inputs), labels).backward())


class LastStep(nn.Module):
    """A recurrent layer and a classifier on its last output."""

    def __init__(self, rnn, width):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class SelfAttention(nn.Module):
    """Multi-head attention on itself, averaged over time."""

    def __init__(self, *, need_weights):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.head = nn.Linear(64, CLASSES)
        self.need_weights = need_weights

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=self.need_weights)[0].mean(1))


def mlp():
    return nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)
    )


def strided_cnn():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def valid_cnn():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def mixed_cnn():
    return nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 32, 3, padding=1, groups=4),
        nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


# The whole steps.


def test_mlp():
    # Layers of 2 * 32 * ... = 784*256: 12,845,056; 256*256: 4,194,304; 256*10: 163,840.
    # Forward all; weights all; inputs of the last two: 2 * 17,203,200 + 4,358,144
    count = count_step(mlp(), torch.randn(BATCH, 784))
    assert count.model_flops == count.hardware_flops == 38_764_544
    assert count.uncounted_ops == {}
    # nn.Linear runs as addmm forward and as mm backward.
    assert count.by_op == {"aten::addmm": 17_203_200, "aten::mm": 17_203_200 + 4_358_144}
    assert count.by_dtype == {"float32": 38_764_544}


def test_strided_convolutions():
    # First: 32*32 places, 16*3*9 = 432 weights: 2*32*1,024*432 = 28,311,552, no input gradient.
    # Second: 16*16 places, 32*16*9 = 4,608 weights: 2*32*256*4,608 = 75,497,472.
    # Head: 2*32*32*10 = 20,480. In all 2 * 28,311,552 + 3 * (75,497,472 + 20,480)
    count = count_step(strided_cnn(), torch.randn(BATCH, 3, 32, 32))
    assert count.model_flops == count.hardware_flops == 283_176_960
    assert sum(count.by_op.values()) == 283_176_960


def test_valid_convolutions():
    # 30*30 places: 2*32*900*432 = 24,883,200; 28*28 places: 2*32*784*4,608 = 231,211,008;
    # head 20,480: 2 * 24,883,200 + 3 * (231,211,008 + 20,480)
    count = count_step(valid_cnn(), torch.randn(BATCH, 3, 32, 32))
    assert count.model_flops == 743_460_864


def test_depthwise_grouped_and_transposed_convolutions():
    # All at 32*32 places of the stride-1 side, 2*32*1,024 = 65,536 times the weights:
    # first 16*8*9 = 1,152: 75,497,472; depthwise 16*1*9 = 144: 9,437,184;
    # grouped 32*4*9 = 1,152: 75,497,472; transposed 32*16*9 = 4,608, places of the input:
    # 301,989,888. Head 2*32*16*10 = 10,240. Batch norm is no contraction.
    # 2 * 75,497,472 + 3 * (9,437,184 + 75,497,472 + 301,989,888 + 10,240)
    count = count_step(mixed_cnn(), torch.randn(BATCH, 8, 32, 32))
    assert count.model_flops == count.hardware_flops == 1_311_799_296
    assert count.uncounted_ops == {}


def test_grouped_weight_gradient_is_not_counted_once_per_group():
    # 8 groups of 2 -> 4 channels: 32*2*9 = 576 weights at 8*8 places of 2 examples:
    # 2*2*64*576 = 147,456, three times; the input is trained, too.
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    conv = nn.Conv2d(16, 32, 3, padding=1, groups=8)
    assert Meter.count(lambda: conv(x).sum().backward()).model_flops == 3 * 147_456


def test_lstm_of_one_fused_kernel():
    # 20 steps * 32 examples = 640, (16 + 32) inputs to 4*32 gates: 2*640*48*128 = 7,864,320.
    # oneDNN's backward kernel has both data gradients and both weight gradients: twice that,
    # although the first layer's input needs none. Head: 3 * 2*32*32*10 = 61,440.
    model = LastStep(nn.LSTM(16, 32, batch_first=True), 32)
    count = count_step(model, torch.randn(BATCH, 20, 16))
    assert count.model_flops == 3 * 7_864_320 + 61_440 == 23_654_400
    assert count.by_op["aten::mkldnn_rnn_layer"] == 7_864_320
    assert count.by_op["aten::mkldnn_rnn_layer_backward"] == 2 * 7_864_320
    assert count.uncounted_ops == {}


def test_lstm_of_two_layers_in_both_directions():
    # First layer: 2 directions * 7,864,320. The second reads 2*32 = 64 features:
    # 2 directions * 2*640*(64 + 32)*128 = 2 * 15,728,640. Head: 3 * 2*32*64*10 = 122,880
    model = LastStep(nn.LSTM(16, 32, 2, batch_first=True, bidirectional=True), 64)
    count = count_step(model, torch.randn(BATCH, 20, 16))
    forward = 2 * 7_864_320 + 2 * 15_728_640
    assert count.model_flops == 3 * forward + 122_880 == 141_680_640


def test_gru_as_matrix_products():
    # 3*32 = 96 gates. Input 2*640*16*96 = 1,966,080; state 2*32*32*96 = 196,608 for each of
    # 20 steps. Weights: the same again. Data: the input needs none, the first state none:
    # 19 * 196,608. Head: 61,440.
    model = LastStep(nn.GRU(16, 32, batch_first=True), 32)
    count = count_step(model, torch.randn(BATCH, 20, 16))
    forward = 1_966_080 + 20 * 196_608
    assert count.model_flops == 2 * forward + 19 * 196_608 + 61_440 == 15_593_472
    assert set(count.by_op) == {"aten::mm", "aten::addmm"}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_lstm_with_a_projection():
    # State of 8. Input 2*640*16*128 = 2,621,440; state 2*32*8*128 = 65,536 a step; projection
    # 2*32*32*8 = 16,384 a step. Weights: the same again. Data: 19 states, 20 projections.
    # Head: 3 * 2*32*8*10 = 15,360
    model = LastStep(nn.LSTM(16, 32, batch_first=True, proj_size=8), 8)
    count = count_step(model, torch.randn(BATCH, 20, 16))
    forward = 2_621_440 + 20 * (65_536 + 16_384)
    expected = 2 * forward + 19 * 65_536 + 20 * 16_384 + 15_360
    assert count.model_flops == expected == 10_107_904


def test_attention_in_one_fused_kernel():
    # Four projections of 32*16 = 512 rows: 2*512*64*64 = 4,194,304 each; forward, weights, and
    # the input of the last: 9 of them. Attention: 32*4 heads, scores and values
    # 2*128*16*16*16 = 1,048,576 each: 2 forward, 4 backward. Head: 3 * 2*32*64*10 = 122,880.
    # The fused backward computes the scores once more: 1,048,576 in hardware.
    count = count_step(SelfAttention(need_weights=False), torch.randn(BATCH, 16, 64))
    assert count.model_flops == 9 * 4_194_304 + 6 * 1_048_576 + 122_880 == 44_163_072
    assert count.hardware_flops == 44_163_072 + 1_048_576
    assert count.by_op["aten::_scaled_dot_product_flash_attention_for_cpu"] == 2 * 1_048_576
    assert sum(count.by_op.values()) == count.model_flops


def test_attention_as_products_of_its_own_recomputes_nothing():
    # The same step with the weights asked for runs as bmm: the scores are kept.
    count = count_step(SelfAttention(need_weights=True), torch.randn(BATCH, 16, 64))
    assert count.model_flops == count.hardware_flops == 44_163_072


@pytest.mark.parametrize("causal", [False, True])
def test_attention_counts_dense_whatever_the_mask(causal):
    # 2 heads of 2 examples, scores 16*16*8 and values 16*16*8: 2 * 4 * 256 * 16
    q = torch.randn(2, 2, 16, 8)
    count = Meter.count(F.scaled_dot_product_attention, q, q, q, is_causal=causal)
    assert count.model_flops == 32_768


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_of_grouped_queries_counts_every_query_head(backend):
    # 4 heads of queries share 2 of keys: 2 * 4 * 16*16 * (8 + 8)
    q, kv = torch.randn(1, 4, 16, 8), torch.randn(1, 2, 16, 8)
    with sdpa_kernel(backend):
        count = Meter.count(F.scaled_dot_product_attention, q, kv, kv, enable_gqa=True)
    assert count.model_flops == 32_768


# What is frozen is not trained.


def four_layers(*, frozen):
    layers = [nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, CLASSES)]
    for index in frozen:
        layers[index].requires_grad_(requires_grad=False)
    relu = nn.ReLU()
    return nn.Sequential(layers[0], relu, layers[1], relu, layers[2], relu, layers[3])


# One layer of 64 to 64 is 2*32*64*64 = 262,144, the last 2*32*64*10 = 40,960.
@pytest.mark.parametrize(
    ("frozen", "flops"),
    [
        # forward 3 + 1, weights 3 + 1, inputs of the 2nd, 3rd and last: 8 * 262,144 + 3 * 40,960
        pytest.param((), 8 * 262_144 + 3 * 40_960, id="nothing"),
        # forward all; the 3rd layer's weight and not its input; all of the last:
        # 4 * 262,144 + 3 * 40,960
        pytest.param((0, 1), 4 * 262_144 + 3 * 40_960, id="first half"),
        # forward all; inputs of the 2nd, 3rd and last; weights of the first two:
        # (3 + 2 + 2) * 262,144 + 2 * 40,960
        pytest.param((2, 3), 7 * 262_144 + 2 * 40_960, id="second half"),
        # the gradient only passes through the 2nd and 3rd to the first: (3 + 2 + 1) * 262,144
        pytest.param((1, 2, 3), 6 * 262_144 + 2 * 40_960, id="all but the first"),
    ],
)
def test_frozen_layers(frozen, flops):
    model = four_layers(frozen=frozen)
    assert count_step(model, torch.randn(BATCH, 64)).model_flops == flops


def test_training_the_input_costs_the_first_input_gradient():
    # 8 * 262,144 + 3 * 40,960 without; one more layer of 262,144 with
    x = torch.randn(BATCH, 64, requires_grad=True)
    count = count_step(four_layers(frozen=()), x)
    assert count.model_flops == 9 * 262_144 + 3 * 40_960
