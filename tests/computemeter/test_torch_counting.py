"""Counting live PyTorch: real forward and backward passes against numbers derived by hand.

A linear layer of B rows from I to O takes 2*B*I*O forward, the same for the gradient of its weight
and the same again for that of its input, which nobody computes where nobody needs it: in all models
here the input is data, so the first layer has no input gradient.
"""

import threading

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

from computemeter import Meter
from computemeter.counters.torch_ops import is_uncounted

BATCH = 32
CLASSES = 10


@pytest.fixture(autouse=True)
def no_mode_is_left():
    """A counting mode that stays on would make every later test slow and wrong."""
    torch.manual_seed(0)
    assert _get_current_dispatch_mode() is None
    yield
    left = _get_current_dispatch_mode()
    while (mode := _get_current_dispatch_mode()) is not None:
        mode.__exit__(None, None, None)
    assert left is None


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


# Single operators. r(2, 3) is a matrix of 2 rows and 3 columns.

r = torch.randn

PRODUCTS = {
    # (2, 3, 4) x (4, 5): 2*3*5 = 30 sums of 4 products = 120 multiply-adds
    "linear": (lambda: F.linear(r(2, 3, 4), r(5, 4), r(5)), 240),
    "matmul": (lambda: r(2, 3, 4) @ r(4, 5), 240),
    # broadcast to 2*6 matrices of 3x4 by 4x5: 12 * 2*60
    "matmul, broadcast": (lambda: r(2, 1, 3, 4) @ r(6, 4, 5), 1_440),
    "matmul, by a vector": (lambda: r(2, 3, 4) @ r(4), 48),
    "einsum": (lambda: torch.einsum("bij,bjk->bik", r(2, 3, 4), r(2, 4, 5)), 240),
    "einsum, to a scalar": (lambda: torch.einsum("i,i->", r(4), r(4)), 8),
    "tensordot": (lambda: torch.tensordot(r(3, 4), r(4, 5), 1), 120),
    # (3x4 * 4x5) = 60, then (3x5 * 5x6) = 90 multiply-adds, fewer than the other order's 240
    "multi_dot": (lambda: torch.linalg.multi_dot([r(3, 4), r(4, 5), r(5, 6)]), 300),
    "mm": (lambda: torch.mm(r(3, 4), r(4, 5)), 120),
    "mm, out": (lambda: torch.mm(r(3, 4), r(4, 5), out=r(3, 5)), 120),
    "bmm": (lambda: torch.bmm(r(2, 3, 4), r(2, 4, 5)), 240),
    "baddbmm": (lambda: torch.baddbmm(r(2, 3, 5), r(2, 3, 4), r(2, 4, 5)), 240),
    "addbmm": (lambda: torch.addbmm(r(3, 5), r(2, 3, 4), r(2, 4, 5)), 240),
    "mv": (lambda: torch.mv(r(3, 4), r(4)), 24),
    "addmv": (lambda: torch.addmv(r(3), r(3, 4), r(4)), 24),
    "dot": (lambda: torch.dot(r(4), r(4)), 8),
    "vdot": (lambda: torch.vdot(r(4), r(4)), 8),
    "addr": (lambda: torch.addr(r(3, 4), r(3), r(4)), 24),
    "addmm_": (lambda: r(3, 5).addmm_(r(3, 4), r(4, 5)), 120),
    "addmv_": (lambda: r(3).addmv_(r(3, 4), r(4)), 24),
    "addr_": (lambda: r(3, 4).addr_(r(3), r(4)), 24),
    "baddbmm_": (lambda: r(2, 3, 5).baddbmm_(r(2, 3, 4), r(2, 4, 5)), 240),
    "addbmm_": (lambda: r(3, 5).addbmm_(r(2, 3, 4), r(2, 4, 5)), 240),
    # 10 - 3 + 1 = 8 places, 4*3*3 = 36 weights, 2 examples
    "conv1d": (lambda: F.conv1d(r(2, 3, 10), r(4, 3, 3)), 1_152),
    # 4*5*6 = 120 places, 4*3*8 = 96 weights, 2 examples
    "conv3d": (lambda: F.conv3d(r(2, 3, 5, 6, 7), r(4, 3, 2, 2, 2)), 46_080),
    # 10 places of the input, 3*4*3 = 36 weights, 2 examples
    "conv_transpose1d": (lambda: F.conv_transpose1d(r(2, 3, 10), r(3, 4, 3)), 1_440),
    # 3*3 places, 4*3*9 = 108 weights, one example without a batch dimension
    "conv2d, no batch": (lambda: F.conv2d(r(3, 5, 5), r(4, 3, 3, 3)), 1_944),
    "empty": (lambda: torch.mm(r(0, 4), r(4, 5)), 0),
    "in a script": (lambda: torch.jit.script(nn.Linear(4, 5))(r(3, 4)), 120),
    "in vmap": (lambda: torch.vmap(torch.mv)(r(5, 3, 4), r(5, 4)), 120),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_spelling_of_a_product(name):
    function, flops = PRODUCTS[name]
    count = Meter.count(function)
    assert (count.model_flops, count.hardware_flops) == (flops, flops)
    assert count.uncounted_ops == {}


def test_a_complex_multiply_add_is_8_flops():
    # (a + bi)(c + di): 4 multiplications and 2 additions, 2 more to add to the sum
    c = torch.randn(2, 3, dtype=torch.complex64)
    d = torch.randn(3, 4, dtype=torch.complex64)
    count = Meter.count(torch.mm, c, d)
    assert count.model_flops == 8 * 2 * 3 * 4
    assert count.by_dtype == {"complex64": 192}
    assert Meter.count(torch.dot, d[:, 0], d[:, 1]).model_flops == 8 * 3


SPARSE = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])  # 3 stored elements of 6
LAYOUTS = {
    "coo": torch.Tensor.to_sparse,
    "csr": torch.Tensor.to_sparse_csr,
    "csc": torch.Tensor.to_sparse_csc,
}


@pytest.mark.filterwarnings("ignore:Sparse C:UserWarning")  # "support is in beta"
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sparse_factor_counts_what_it_stores(layout):
    sparse = LAYOUTS[layout](SPARSE)
    # every stored element meets the 4 columns of the other: 2 * 3 * 4, where dense is 2 * 6 * 4
    assert Meter.count(lambda: sparse @ r(3, 4)).model_flops == 24
    # and one element of a vector
    assert Meter.count(lambda: sparse @ r(3)).model_flops == 6


def test_sparse_mm_forward_and_backward():
    # 24 forward; the gradient of the dense factor is sparse^T times (2, 4): 24 again
    sparse, dense = SPARSE.to_sparse(), r(3, 4, requires_grad=True)
    count = Meter.count(lambda: torch.sparse.mm(sparse, dense).sum().backward())
    assert count.model_flops == 48
    assert dense.grad is not None


@pytest.mark.filterwarnings("ignore:Sparse C:UserWarning")
@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_sparse_right_factor_counts_what_it_stores(layout):
    # 4 rows meet every stored element: 2 * 4 * 3
    sparse = LAYOUTS[layout](SPARSE)
    assert Meter.count(lambda: r(4, 2) @ sparse).model_flops == 24


@pytest.mark.filterwarnings("ignore:Sparse C:UserWarning")
def test_a_sparse_factor_in_inference_mode():
    @torch.inference_mode()
    def product():
        return SPARSE.to_sparse_csr() @ r(3, 4)

    assert Meter.count(product).model_flops == 24


# Inference mode shows operators whole that otherwise arrive in parts.


def infer(function, *inputs):
    @torch.inference_mode()
    def run():
        function(*inputs)

    return Meter.count(run)


def test_linear_in_inference_mode():
    count = infer(nn.Linear(4, 5), r(2, 3, 4))
    assert count.model_flops == 2 * 6 * 4 * 5
    assert set(count.by_op) == {"aten::linear"}
    assert infer(torch.matmul, r(2, 1, 3, 4), r(6, 4, 5)).model_flops == 1_440
    assert infer(torch.matmul, r(3), r(3, 4)).model_flops == 24
    assert infer(torch.matmul, r(3), r(3)).model_flops == 6


def test_convolution_in_inference_mode():
    # 6*6 places, 4*3*9 = 108 weights, 2 examples: 2*2*36*108
    assert infer(nn.Conv2d(3, 4, 3), r(2, 3, 8, 8)).model_flops == 15_552
    # "same" keeps 8*8 places
    assert infer(nn.Conv2d(3, 4, 3, padding="same"), r(2, 3, 8, 8)).model_flops == 27_648


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_recurrent_layers_in_inference_mode():
    x = r(20, BATCH, 16)
    # see the steps above: 2*640*48*128, both directions of two layers, 3 gates, a projection
    assert infer(nn.LSTM(16, 32), x).model_flops == 7_864_320
    assert infer(nn.LSTM(16, 32, 2, bidirectional=True), x).model_flops == 47_185_920
    assert infer(nn.GRU(16, 32), x).model_flops == 5_898_240
    assert infer(nn.LSTM(16, 32, proj_size=8), x).model_flops == 4_259_840


def test_counting_in_inference_mode_changes_no_bit():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.Flatten(), nn.Linear(512, 7))
    x, results = r(2, 3, 8, 8), []
    with torch.inference_mode():
        plain = model(x)
    infer(lambda: results.append(model(x)))
    assert torch.equal(results[0], plain)


# Precisions.


def test_autocast_books_the_precision_that_ran():
    # 5 rows, 8 -> 16 -> 4: layers of 1,280 and 640: 2 * 1,280 + 3 * 640, all in bfloat16
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(r(5, 8)), torch.zeros(5, dtype=torch.long))
        loss.backward()

    count = Meter.count(step)
    assert count.model_flops == 4_480
    assert count.by_dtype == {"bfloat16": 4_480}


def test_mixed_precisions_are_told_apart():
    # 4 rows, 8 -> 8: 512 a product. The first layer in bfloat16 without an input gradient: 1,024;
    # the second in float32 with one: 1,536
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = first(r(4, 8)).float()
        second(y).sum().backward()

    count = Meter.count(step)
    assert count.by_dtype == {"bfloat16": 1_024, "float32": 1_536}
    assert sum(count.by_dtype.values()) == count.model_flops


def test_double_precision():
    assert Meter.count(torch.mm, r(2, 3).double(), r(3, 4).double()).by_dtype == {"float64": 48}


# Recomputation is hardware work and not the model's.


def two_linears():
    # 4 rows, 8 -> 8 -> 8: 512 a product; forward 2, weights 2, inputs 2
    return nn.Linear(8, 8), nn.Linear(8, 8), r(4, 8, requires_grad=True)


@pytest.mark.parametrize(
    ("reentrant", "recomputed"),
    [
        # the whole block runs again: both layers
        pytest.param(True, 2 * 512, id="reentrant"),
        # it stops once the last saved tensor is there: the output of the second is not needed
        pytest.param(False, 512, id="non-reentrant"),
    ],
)
def test_activation_checkpointing_adds_hardware_flops_only(reentrant, recomputed):
    first, second, x = two_linears()

    def step():
        block = lambda y: second(torch.relu(first(y)))  # noqa: E731
        checkpoint(block, x, use_reentrant=reentrant).sum().backward()

    count = Meter.count(step)
    assert count.model_flops == 6 * 512
    assert count.hardware_flops == 6 * 512 + recomputed


def test_a_gradient_penalty_is_model_work():
    # y = Wx: forward 512; dx = W^T dy: 512; its derivative by W: 512, nothing else depends on x
    layer, x = nn.Linear(8, 8), r(4, 8, requires_grad=True)

    def step():
        (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        gradient.pow(2).sum().backward()

    count = Meter.count(step)
    assert count.model_flops == count.hardware_flops == 3 * 512


# What has no formula is listed; what is no contraction is not.

LISTED = {
    "svd": (lambda: torch.linalg.svd(r(3, 3)), {"aten::_linalg_svd": 1}),
    "eigh": (lambda: torch.linalg.eigh(torch.eye(3)), {"aten::_linalg_eigh": 1}),
    "pdist": (lambda: F.pdist(r(5, 3)), {"aten::_pdist_forward": 1}),
    "cdist of few": (lambda: torch.cdist(r(2, 3), r(4, 3)), {"aten::_cdist_forward": 1}),
}


@pytest.mark.filterwarnings("ignore:Sparse C:UserWarning")
@pytest.mark.parametrize("name", LISTED)
def test_arithmetic_without_a_formula_is_listed_with_its_calls(name):
    function, listed = LISTED[name]
    count = Meter.count(function)
    assert count.uncounted_ops == listed
    assert count.model_flops == 0


def test_the_cdist_of_many_rows_is_no_silent_zero():
    # Beyond 25 rows cdist runs as one matrix product, in a single operator.
    count = Meter.count(torch.cdist, r(30, 3), r(40, 3))
    assert count.model_flops or count.uncounted_ops


@pytest.mark.parametrize(
    "name",
    [
        "aten::_grouped_mm",
        "aten::_weight_int8pack_mm",
        "aten::_transformer_encoder_layer_fwd",
        "aten::_native_multi_head_attention",
        "aten::_cslt_sparse_mm",
        "aten::linear_backward",
        "quantized::linear_dynamic",
        "quantized::conv2d_relu",
        "onednn::qlinear_pointwise",
        "mkldnn_prepacked::conv2d_run",
        "xformers::efficient_attention_forward_cutlass",
        "my_kernels::swish",  # nobody's business but its author's: it may do anything
        "quantized::linear_dynamic_fp16_unpacked_weight",
        "aten::_wrapped_quantized_linear_prepacked",
    ],
)
def test_contractions_of_other_hardware_are_listed(name):
    assert is_uncounted(name)


@pytest.mark.parametrize(
    "name",
    [
        "aten::add",
        "aten::lgamma_",
        "aten::hamming_window",
        "aten::resolve_conj",
        "aten::upsample_bilinear2d",
        "aten::_convert_indices_from_csr_to_coo",
        "aten::linalg_vector_norm",
        "quantized::linear_prepack",
        "c10d::allreduce_",
        "fsdp::all_gather_copy_in",
        "profiler::_record_function_enter_new",
    ],
)
def test_what_only_looks_like_a_contraction_is_not_listed(name):
    assert not is_uncounted(name)


ZEROS = {
    "vector norm": lambda: torch.linalg.vector_norm(r(5)),
    "embedding": lambda: F.embedding(torch.tensor([1, 2]), r(3, 4, requires_grad=True)),
    "embedding bag": lambda: F.embedding_bag(torch.tensor([[1, 2]]), r(3, 4)),
    "layer norm": lambda: F.layer_norm(r(2, 4, requires_grad=True), (4,)).sum().backward(),
    "batch norm": lambda: nn.BatchNorm1d(4)(r(8, 4)).sum().backward(),
    "rms norm": lambda: F.rms_norm(r(2, 4), (4,)),
    "softmax": lambda: r(2, 4).softmax(-1),
    "pooling": lambda: F.max_pool2d(r(1, 1, 4, 4), 2),
    "upsampling": lambda: F.interpolate(r(1, 1, 4, 4), scale_factor=2, mode="bilinear"),
    "dropout": lambda: F.dropout(r(8)),
    "cross entropy": lambda: F.cross_entropy(r(2, 3), torch.tensor([0, 1])),
    "clipping": lambda: nn.utils.clip_grad_norm_([with_gradient()], 1.0),
}


def with_gradient():
    parameter = nn.Parameter(r(3, 3))
    parameter.grad = r(3, 3)
    return parameter


@pytest.mark.parametrize("name", ZEROS)
def test_work_that_is_no_contraction_is_a_known_zero(name):
    count = Meter.count(ZEROS[name])
    assert (count.model_flops, count.uncounted_ops) == (0, {})


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_an_optimizer_step_is_a_known_zero(optimizer, options):
    parameter = with_gradient()
    before = parameter.detach().clone()
    count = Meter.count(optimizer([parameter], lr=0.1, **options).step)
    assert (count.model_flops, count.uncounted_ops) == (0, {})
    assert not torch.equal(parameter, before)


# Operators of other people, and everything that must not break.


@pytest.fixture(scope="module")
def twice():
    """Define an operator that PyTorch knows nothing about."""

    @torch.library.custom_op("computemeter_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x @ x + x

    return twice


def test_a_custom_operator_runs_and_is_listed(twice):
    x, results = r(3, 3), []
    count = Meter.count(lambda: results.extend([twice(x), twice(x)]))
    assert torch.equal(results[0], x @ x + x)
    # What it does inside is its own: twice called, nothing known of its FLOPs.
    assert count.uncounted_ops == {"computemeter_tests::twice": 2}
    assert count.model_flops == 0


def test_a_step_of_nothing_but_an_operator_without_a_formula_names_it():
    """Its backward pass does count products, and is no sign of a forward pass that was missed."""
    weight = torch.randn(6, 4, requires_grad=True)
    with Meter(verbose=0) as meter, meter.step():
        torch.linalg.svdvals(weight).sum().backward()
    summary = meter.summary()
    assert summary.uncounted_ops == {"aten::_linalg_svd": 1}
    assert summary.model_flops > 0
    assert summary.warnings == ()


def test_a_custom_autograd_function_is_counted_by_its_parts():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x @ x

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient @ x.T + x.T @ gradient

    # 3x3 by 3x3 is 2 * 27: once forward, twice backward
    x = r(3, 3, requires_grad=True)
    assert Meter.count(lambda: Square.apply(x).sum().backward()).model_flops == 3 * 54


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_eager_flex_attention_runs_and_is_no_silent_zero():
    from torch.nn.attention.flex_attention import flex_attention

    q, results = r(1, 2, 16, 8), []
    plain = flex_attention(q, q, q)
    count = Meter.count(lambda: results.append(flex_attention(q, q, q)))
    assert torch.equal(results[0], plain)
    assert count.model_flops or "flex_attention" in count.uncounted_ops


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_operator_that_its_formula_cannot_read_costs_only_its_own_flops():
    # On the CPU, attention over ragged sequences multiplies nested tensors, which have no shape.
    layer = nn.Linear(8, 8)

    def step():
        ragged = torch.nested.nested_tensor([r(2, 8), r(4, 8)], layout=torch.jagged)
        q = ragged.unflatten(-1, (2, 4)).transpose(1, 2)
        F.scaled_dot_product_attention(q, q, q)
        layer(r(4, 8))

    count = Meter.count(step)
    assert count.model_flops >= 2 * 4 * 8 * 8
    assert any("matmul" in name for name in count.uncounted_ops)


def test_other_higher_order_operators_run():
    results, x = [], r(3, 3)
    branch = torch.tensor(data=True)
    count = Meter.count(
        lambda: results.append(torch.cond(branch, lambda x: x @ x, lambda x: x + 1, (x,)))
    )
    assert torch.equal(results[0], x @ x)
    assert count.model_flops or count.uncounted_ops


def test_shapes_computed_ahead_of_time_are_no_work():
    from torch._subclasses.fake_tensor import FakeTensorMode

    def fake():
        with FakeTensorMode():
            torch.mm(torch.empty(3, 4), torch.empty(4, 5))

    assert Meter.count(fake).model_flops == 0


def test_nothing_else_is_counted():
    assert Meter.count(lambda: None).by_op == {}
    # Another thread has modes of its own: its work is not seen, and it is not disturbed.
    results = []
    worker = threading.Thread(target=lambda: results.append(torch.ones(3, 3) @ torch.ones(3, 3)))

    def run():
        worker.start()
        worker.join()

    assert Meter.count(run).model_flops == 0
    assert torch.equal(results[0], torch.full((3, 3), 3.0))


def test_an_exception_passes_through_and_leaves_no_mode_behind():
    error = KeyError("mine")

    def fails():
        torch.mm(r(3, 4), r(4, 5))
        raise error

    with pytest.raises(KeyError) as raised:
        Meter.count(fails)
    assert raised.value is error
    assert _get_current_dispatch_mode() is None
    # and the next count starts from nothing
    assert Meter.count(torch.mm, r(3, 4), r(4, 5)).model_flops == 120


def test_an_operator_that_fails_is_the_users_error():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Meter.count(torch.mm, r(3, 4), r(5, 6))
    assert _get_current_dispatch_mode() is None


def test_counts_nest():
    # 2 * 3*4*5 = 120 each; the outer one sees both
    inner = []

    def outer():
        torch.mm(r(3, 4), r(4, 5))
        inner.append(Meter.count(torch.mm, r(3, 4), r(4, 5)))

    assert Meter.count(outer).model_flops == 240
    assert inner[0].model_flops == 120


def test_another_mode_around_the_count_is_left_alone():
    class Sees(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Sees.calls += 1
            return func(*args, **(kwargs or {}))

    a, b = r(3, 4), r(4, 5)
    with Sees() as mode:
        assert Meter.count(torch.mm, a, b).model_flops == 120
        assert _get_current_dispatch_mode() is mode
    assert Sees.calls == 1


def test_a_function_that_leaves_its_own_mode_open_does_not_keep_ours():
    class Other(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    other = Other()
    with pytest.raises(RuntimeError, match="counting failed"):
        Meter.count(other.__enter__)
    assert _get_current_dispatch_mode() is other
    other.__exit__(None, None, None)
    if (ours := _get_current_dispatch_mode()) is not None:
        ours.__exit__(None, None, None)
    assert ours is None


def test_counting_changes_no_bit_and_no_random_state():
    def step(model, x, labels):
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters()], torch.get_rng_state()

    def run(counted):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.5), nn.Linear(16, CLASSES))
        x, labels, results = r(8, 12), torch.randint(0, CLASSES, (8,)), []
        if counted:
            Meter.count(lambda: results.append(step(model, x, labels)))
        else:
            results.append(step(model, x, labels))
        return results[0]

    (loss, gradients, state), (same_loss, same_gradients, same_state) = run(False), run(True)
    assert loss == same_loss
    assert torch.equal(state, same_state)
    pairs = zip(gradients, same_gradients, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_what_a_product_reads_and_writes():
    # Of 4 bytes each: 6 and 12 elements read, 8 written.
    count = Meter.count(torch.mm, torch.ones(2, 3), torch.ones(3, 4))
    assert (count.contractions, count.contraction_bytes) == (1, 4 * (6 + 12 + 8))
