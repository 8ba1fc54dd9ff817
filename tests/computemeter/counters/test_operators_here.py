"""Operators of PyTorch that run on a CPU: run, and counted as derived by hand."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn
from torch_inputs import EYE, SPARSE, ends, half, r

from computemeter import Meter

aten = torch.ops.aten


RUN = {
    # 2*2*3*4 + 2*4*5*6
    "_foreach_mm": (lambda: torch._foreach_mm([r(2, 3), r(4, 5)], [r(3, 4), r(5, 6)]), 288),
    # 12 rows of 8 meet one of two matrices of 8x24, 4 the other: 2 * 16*8*24
    "_grouped_mm, rows": (
        lambda: torch._grouped_mm(half(16, 8), half(2, 8, 24), offs=ends(4, 16)),
        6_144,
    ),
    # 16 rows of either matrix meet 8 or 16 columns: 2 * 16*8*24
    "_grouped_mm, columns": (
        lambda: torch._grouped_mm(half(2, 16, 8), half(8, 24), offs=ends(8, 24)),
        6_144,
    ),
    # 16x24 results, two of them, of sums over 4 and 4: 2 * 16*8*24
    "_grouped_mm, inner": (
        lambda: torch._grouped_mm(half(16, 8), half(8, 24), offs=ends(4, 8)),
        6_144,
    ),
    "_grouped_mm, batch": (lambda: torch._grouped_mm(half(2, 16, 8), half(2, 8, 24)), 12_288),
    # x1 (2, 3) by the weight (5, 3, 4): 2 * 2*5*3*4 = 240; the result by x2: 2 * 2*5*4 = 80
    "bilinear": (lambda: F.bilinear(r(2, 3), r(2, 4), r(5, 3, 4)), 320),
    # |x|^2 - 2xy + |y|^2 as (30, 3 + 2) by (3 + 2, 40): 2 * 30*40*5
    "cdist": (lambda: torch.cdist(r(30, 3), r(40, 3)), 12_000),
    "_cdist_forward, many rows": (lambda: aten._cdist_forward(r(30, 3), r(4, 3), 2.0, None), 1_200),
    "_cdist_forward, always": (lambda: aten._cdist_forward(r(3, 3), r(4, 3), 2.0, 1), 120),
    # 10 steps of 2, kernel of 3*3*5 = 45: 2 * 20*45
    "conv_tbc": (lambda: F.conv_tbc(r(10, 2, 3), r(3, 3, 5), r(5), 1), 1_800),
    # 4 rows of 32 by 32x16, of 64 by 64x32
    "_weight_int8pack_mm": (
        lambda: torch._weight_int8pack_mm(
            half(4, 32), torch.ones(16, 32, dtype=torch.int8), half(16)
        ),
        4_096,
    ),
    # four projections 2*10*16*16 = 5,120; attention 2 * 2 * 2*5*5*16 = 3,200
    "multi-head attention": (lambda: infer(attention(), half_a_batch(), 3), 23_680),
    # and 2 * 2*10*16*32 of the feed-forward layers
    "encoder layer": (lambda: infer(encoder(), half_a_batch(), 1), 44_160),
    # Column 0 has 1 stored element and meets a row of 1, column 2 has 2 and meets a row of 2:
    # 2 * (1 + 4)
    "sparse by sparse, coo": (lambda: SPARSE.to_sparse() @ SPARSE.T.to_sparse(), 10),
    "sparse by sparse, csr": (
        lambda: SPARSE.to_sparse_csr() @ SPARSE.T.contiguous().to_sparse_csr(),
        10,
    ),
    # 3 stored elements meet 4 columns
    "smm": (lambda: torch.smm(SPARSE.to_sparse(), r(3, 4)), 24),
    "hspmm": (lambda: torch.hspmm(SPARSE.to_sparse(), r(3, 4)), 24),
    "sspaddmm": (
        lambda: torch.sspaddmm(torch.zeros(2, 4).to_sparse(), SPARSE.to_sparse(), r(3, 4)),
        24,
    ),
    "sparse mm, reduced": (lambda: torch.sparse.mm(SPARSE.to_sparse_csr(), r(3, 4), "amax"), 24),
    # 3 places, each a sum of 4
    "sampled_addmm": (
        lambda: torch.sparse.sampled_addmm(SPARSE.to_sparse_csr(), r(2, 4), r(4, 3)),
        24,
    ),
    # n = 6: n^3/3 = 72, 2n^3/3 = 144, n^2 = 36 for each right-hand side
    "cholesky": (lambda: torch.linalg.cholesky(EYE), 72),
    "cholesky, batch": (lambda: torch.linalg.cholesky(EYE.expand(5, 6, 6)), 360),
    "cholesky_inverse": (lambda: torch.cholesky_inverse(EYE), 144),
    "cholesky_solve": (lambda: torch.cholesky_solve(r(6, 2), EYE), 2 * 36 * 2),
    "lu": (lambda: torch.linalg.lu(EYE), 144),
    # 9*36 - 72
    "lu of a tall matrix": (lambda: torch.linalg.lu(r(9, 6)), 252),
    "lu_solve": (lambda: torch.linalg.lu_solve(*torch.linalg.lu_factor(EYE), r(6, 2)), 144 + 144),
    "ldl": (lambda: torch.linalg.ldl_solve(*torch.linalg.ldl_factor(EYE), r(6, 2)), 72 + 144),
    "det": (lambda: torch.linalg.det(EYE), 144),
    "slogdet": (lambda: torch.linalg.slogdet(EYE), 144),
    "inv": (lambda: torch.linalg.inv(EYE), 432),
    "inv, complex": (lambda: torch.linalg.inv(EYE + 0j), 4 * 432),
    "solve": (lambda: torch.linalg.solve(EYE, r(6, 2)), 144 + 144),
    "solve, one": (lambda: torch.linalg.solve(EYE, r(6)), 144 + 72),
    "solve, left": (lambda: torch.linalg.solve(EYE, r(2, 6), left=False), 144 + 144),
    "solve_triangular": (lambda: torch.linalg.solve_triangular(EYE, r(6, 2), upper=True), 72),
    "triangular_solve": (lambda: torch.triangular_solve(r(6, 2), EYE), 72),
    # 2*9*36 - 2*72 = 504 for R, the same for a Q of 9x6;
    # for one of 9x9: 4*9*9*6 - 4*9*36 + 4*72 = 936
    "qr, r": (lambda: torch.linalg.qr(r(9, 6), "r"), 504),
    "qr": (lambda: torch.linalg.qr(r(9, 6)), 1_008),
    "qr, complete": (lambda: torch.linalg.qr(r(9, 6), "complete"), 504 + 936),
    "geqrf": (lambda: torch.geqrf(r(9, 6)), 504),
    "householder_product": (lambda: torch.linalg.householder_product(r(9, 6), r(6)), 504),
    # 5 N log2 N: of 8 * 4 points 800, three times; of real numbers half of it
    "fft2": (lambda: torch.fft.fft2(r(3, 8, 4) + 0j), 2_400),
    "rfft2": (lambda: torch.fft.rfft2(r(3, 8, 4)), 1_200),
    # 5 of 8 coefficients: 5 * 8 * 3 / 2
    "irfft": (lambda: torch.fft.irfft(r(5) + 0j), 60),
    # 5 * 6 * 2.585 = 77.5
    "fft of a size that is no power of 2": (lambda: torch.fft.fft(r(6) + 0j), 78),
    "fft of one point": (lambda: torch.fft.fft(r(1) + 0j), 0),
    "mkldnn_linear": (
        lambda: torch._C._nn.mkldnn_linear(r(4, 8).to_mkldnn(), r(6, 8).to_mkldnn()),
        384,
    ),
}


def int4_product():
    packed = torch._convert_weight_to_int4pack_for_cpu(torch.ones(32, 64, dtype=torch.int32), 1)
    return torch._weight_int4pack_mm_for_cpu(half(4, 64), packed, 32, half(2, 32, 2))


def dynamic_int4_product():
    weight = torch.ones(32, 32, dtype=torch.uint8)  # two of 64 inputs in each byte
    packed = aten._dyn_quant_pack_4bit_weight(weight, torch.ones(64), None, 32, 64, 32)
    return aten._dyn_quant_matmul_4bit(r(4, 64), packed, 32, 64, 32)


def attention():
    return nn.MultiheadAttention(16, 2, batch_first=True).eval()


def encoder():
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()


def half_a_batch():
    return r(2, 5, 16)


RUN["_weight_int4pack_mm_for_cpu"] = int4_product, 16_384
RUN["_dyn_quant_matmul_4bit"] = dynamic_int4_product, 16_384


@torch.no_grad()
def infer(layer, x, times, **options):
    return layer(*[x] * times, **options)


@pytest.mark.filterwarnings("ignore:Sparse C:UserWarning", "ignore:torch.triangular_solve")
@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
@pytest.mark.parametrize("name", RUN)
def test_operators_that_run_here(name):
    function, flops = RUN[name]
    count = Meter.count(function)
    assert (count.model_flops, count.hardware_flops) == (flops, flops)
    assert count.uncounted_ops == {}


def test_bilinear_backward():
    # Forward 320. Each gradient has one product of all of 2*5*3*4 = 120 terms: 240; the other
    # factor is multiplied in pointwise.
    layer = nn.Bilinear(3, 4, 5, bias=False)
    x, y = r(2, 3, requires_grad=True), r(2, 4, requires_grad=True)
    assert Meter.count(lambda: layer(x, y).sum().backward()).model_flops == 320 + 3 * 240


def test_bilinear_as_products_is_the_same():
    x, y, w = r(2, 3), r(2, 4), r(5, 3, 4)
    parts = torch.einsum("boj,bj->bo", torch.einsum("bi,oij->boj", x, w), y)
    assert torch.allclose(parts, F.bilinear(x, y, w), atol=1e-5)
    count = Meter.count(lambda: torch.einsum("boj,bj->bo", torch.einsum("bi,oij->boj", x, w), y))
    assert count.model_flops == 320


def test_conv_tbc_backward_runs_as_products():
    # Weights and input: 3 taps of 9, 10 and 9 steps inside, 2 examples: 2 * 2*28*15 each.
    x, w = r(10, 2, 3, requires_grad=True), r(3, 3, 5, requires_grad=True)
    count = Meter.count(lambda: F.conv_tbc(x, w, r(5), 1).sum().backward())
    assert count.model_flops == 1_800 + 2 * 1_680
    assert count.uncounted_ops == {}


def test_sparse_reduction_backward():
    # 24 forward, 24 for either factor
    sparse = SPARSE.to_sparse_csr().requires_grad_()
    dense = r(3, 4, requires_grad=True)
    count = Meter.count(lambda: torch.sparse.mm(sparse, dense, "sum").sum().backward())
    assert count.model_flops == 72


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_with_a_padding_mask_counts_what_is_not_padding():
    # 5 and 3 steps: 8 rows: projections 4 * 2*8*256 = 16,384, feed-forward 2 * 2*8*512 = 16,384;
    # attention within each: 2 * 2 * (25 + 9) * 16 = 2,176
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = True
    layers = nn.TransformerEncoder(encoder(), 1).eval()
    count = Meter.count(infer, layers, half_a_batch(), 1, src_key_padding_mask=mask)
    assert count.model_flops == 16_384 + 16_384 + 2_176


def test_the_weight_gradient_of_a_grouped_convolution_is_not_multiplied_by_the_groups():
    # 8 groups of 2 -> 4 channels: 32*2*9 = 576 weights at 64 places of 2: 2*2*64*576, only it
    x, conv = r(2, 16, 8, 8), nn.Conv2d(16, 32, 3, padding=1, groups=8)
    count = Meter.count(lambda: conv(x).sum().backward())
    assert count.by_op["aten::convolution_backward"] == 147_456


def test_complex_products():
    a, b = (r(2, 3, dtype=torch.complex64), r(3, 4, dtype=torch.complex64))
    assert Meter.count(torch.mm, a, b).model_flops == 8 * 24
    assert Meter.count(torch._foreach_mm, [a, a], [b, b]).model_flops == 2 * 8 * 24
    sampled = SPARSE.to(torch.complex64).to_sparse_csr()
    count = Meter.count(torch.sparse.sampled_addmm, sampled, a[:, :2], b[:2, :3])
    assert count.model_flops == 8 * 3 * 2
