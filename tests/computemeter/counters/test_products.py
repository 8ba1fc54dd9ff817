"""Every spelling of a product: dense, complex and sparse, in inference mode, in each precision."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch_inputs import SPARSE, r

from computemeter import Meter

BATCH = 32


# Single operators.

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
    # see `test_whole_steps.py`: 2*640*48*128, both directions of two layers, 3 gates, a projection
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
