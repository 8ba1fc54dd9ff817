"""Every operator of PyTorch that multiplies: its formula against numbers derived by hand.

What runs on a CPU is run and counted. For what needs other hardware the formula is asked about
tensors without data, under the names that the operator's schema gives its arguments.
"""

from fnmatch import fnmatchcase

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn

from computemeter import Meter
from computemeter.counters.torch_flops import FORMULAS, Flops, NoFormulaError
from computemeter.counters.torch_ops import classify, formula_of, is_uncounted

aten = torch.ops.aten
r = torch.randn


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def half(*shape):
    return torch.randn(shape, dtype=torch.bfloat16)


def m(*shape, dtype=torch.float32):
    """Return a tensor without data."""
    return torch.empty(shape, dtype=dtype, device="meta")


def ends(*positions):
    return torch.tensor(positions, dtype=torch.int32)


SPARSE = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])  # 3 stored elements of 6
EYE = torch.eye(6)

# What runs here.

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


# Quantised operators.


DEPRECATED = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")


def quantized(*shape, dtype=torch.quint8):
    return torch.quantize_per_tensor(r(*shape), 0.1, 0, dtype)


def quantized_convolution(kind, x, weight, *options):
    ops = torch.ops.quantized
    packed = getattr(ops, f"{kind}_prepack")(weight, None, *options)
    return Meter.count(getattr(ops, kind), x, packed, 0.1, 0)


@DEPRECATED
def test_quantized_convolutions():
    weight = quantized(6, 2, 3, 3, dtype=torch.qint8)
    x = quantized(2, 4, 8, 8)
    # 6*6 places, 6*2*9 = 108 weights in 2 groups: 2 * 2*36*108
    count = quantized_convolution("conv2d", x, weight, [1, 1], [0, 0], [1, 1], 2)
    assert count.model_flops == 15_552
    # 8*8 places of the input, 4*6*9 = 216 weights
    weight, ones, zeros = quantized(4, 6, 3, 3, dtype=torch.qint8), [1, 1], [0, 0]
    count = quantized_convolution("conv_transpose2d", x, weight, ones, zeros, zeros, ones, 1)
    assert count.model_flops == 2 * 2 * 64 * 216
    # 6 places, 6*4*3 = 72 weights
    weight = quantized(6, 4, 3, dtype=torch.qint8)
    count = quantized_convolution("conv1d", quantized(2, 4, 8), weight, [1], [0], [1], 1)
    assert count.model_flops == 2 * 2 * 6 * 72


@DEPRECATED
def test_quantized_linear_layers():
    ops = torch.ops.quantized
    packed = ops.linear_prepack(quantized(6, 8, dtype=torch.qint8), None)
    # 2 * 2*8*6
    assert Meter.count(ops.linear, quantized(2, 8), packed, 0.1, 0).model_flops == 192
    assert Meter.count(ops.linear_dynamic, r(2, 8), packed).model_flops == 192
    assert Meter.count(ops.matmul, quantized(2, 8), quantized(8, 6), 0.1, 0).model_flops == 192


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        # 5*3 rows, 4*32 gates: 2*15*128*(16 + 32), then of 2*32 features, in both directions
        (nn.LSTM(16, 32, 2, bidirectional=True), (5, 3, 16), 2 * 184_320 + 2 * 368_640),
        (nn.GRU(16, 32), (5, 3, 16), 138_240),
        (nn.LSTMCell(16, 32), (3, 16), 36_864),
        (nn.GRUCell(16, 32), (3, 16), 27_648),
        (nn.RNNCell(16, 32), (3, 16), 9_216),
    ],
    ids=lambda value: type(value).__name__,
)
def test_quantized_recurrent_layers(layer, shape, flops):
    model = nn.Sequential(layer)
    model = torch.ao.quantization.quantize_dynamic(model, {type(layer)}, dtype=torch.qint8)
    count = Meter.count(model[0], r(*shape))
    assert (count.model_flops, count.uncounted_ops) == (flops, {})


# What does not run here: the formula, and the schema's names.


def ask(name, out, arguments):
    """Ask a formula; the names it reads must be the operator's own."""
    schemas = torch._C._jit_get_schemas_for_operator(name)
    names = {argument.name for schema in schemas for argument in schema.arguments}
    if schemas:  # not every build has every operator
        assert set(arguments) <= names
    return FORMULAS[name](arguments, out)


X, W, Y = m(4, 64), m(32, 64), m(4, 32)  # 2 * 4*64*32 = 16,384
IMAGES, KERNEL, PLACES = m(2, 4, 8, 8), m(6, 4, 3, 3), m(2, 6, 6, 6)
CONVOLUTION = 31_104  # 36 places, 6*4*9 = 216 weights: 2 * 2*36*216
BACK = m(4, 6, 3, 3)
TRANSPOSED = 55_296  # 8*8 places of the input: 2 * 2*64*216

ASKED = [
    ("_native::_foreach_mm_native_0", None, {"self": [X], "mat2": [m(64, 32)]}, 16_384),
    # Two 4-bit numbers a byte: sums over 64 and not 32
    (
        "aten::_scaled_mm",
        None,
        {
            "self": m(4, 32, dtype=torch.float4_e2m1fn_x2),
            "mat2": m(32, 32, dtype=torch.float4_e2m1fn_x2),
        },
        16_384,
    ),
    ("aten::_scaled_grouped_mm", None, {"self": m(16, 8), "mat2": m(2, 8, 24)}, 6_144),
    ("aten::_scaled_grouped_mm_v2", None, {"self": m(2, 16, 8), "mat2": m(8, 24)}, 6_144),
    (
        "aten::matmul_backward",
        None,
        {"grad": m(2, 3, 5), "self": m(2, 3, 4), "other": m(2, 4, 5), "mask": [True, True]},
        480,
    ),
    (
        "aten::linear_backward",
        None,
        {"self": X, "grad_output": Y, "weight": W, "output_mask": [True, True, True]},
        2 * 16_384,
    ),
    (
        "aten::mkldnn_linear_backward",
        None,
        {"self": X, "grad_output": Y, "weight": W, "output_mask": [False, True, True]},
        16_384,
    ),
    ("aten::mkldnn_linear_backward_input", X, {"grad_output": Y, "weight": W}, 16_384),
    ("aten::mkldnn_linear_backward_weights", W, {"grad_output": Y, "weight": W}, 16_384),
    ("aten::_weight_int4pack_mm", Y, {"self": X}, 16_384),
    ("aten::_weight_int4pack_mm_with_scales_and_zeros", Y, {"self": X}, 16_384),
    ("aten::_mixed_dtypes_linear", Y, {"input": X}, 16_384),
    ("onednn::qlinear_pointwise", Y, {"qx": X}, 16_384),
    ("onednn::linear_dynamic_fp16", Y, {"x": X}, 16_384),
    ("mkldnn::_linear_pointwise", Y, {"X": X, "W": W}, 16_384),
    ("quantized::linear_relu", Y, {"X": X}, 16_384),
    ("quantized::linear_dynamic_fp16_unpacked_weight", Y, {"X": X}, 16_384),
    ("_quantized::wrapped_quantized_linear", Y, {"X": X}, 16_384),
    (
        "inductor::_mm_plus_mm",
        None,
        {"a": X, "b": m(64, 32), "c": m(4, 3), "d": m(3, 32)},
        16_384 + 768,
    ),
    ("symm_mem::fused_matmul_reduce_scatter", None, {"A": X, "B": m(64, 32)}, 16_384),
    ("symm_mem::_async_input_mm", None, {"a": X, "b": m(64, 32)}, 16_384),
    # two ranks with 4 rows each: the whole 8 rows on either
    (
        "symm_mem::fused_all_gather_matmul",
        (None, [m(8, 32)]),
        {"A": X, "Bs": [m(64, 32)]},
        2 * 16_384,
    ),
    # 8 -> 6 channels in 2 groups
    ("onednn::qconv_pointwise", PLACES, {"qx": IMAGES, "qw": m(6, 2, 3, 3)}, 15_552),
    ("onednn::qconv2d_pointwise", PLACES, {"qx": IMAGES, "qw": KERNEL}, CONVOLUTION),
    ("mkldnn::_convolution_transpose_pointwise", None, {"X": IMAGES, "W": BACK}, TRANSPOSED),
    ("aten::_nnpack_spatial_convolution", PLACES, {"input": IMAGES, "weight": KERNEL}, CONVOLUTION),
    (
        "aten::conv_depthwise3d",
        m(2, 6, 4, 4, 4),
        {"self": m(2, 6, 6, 6, 6), "weight": m(6, 1, 3, 3, 3)},
        2 * 2 * 64 * 6 * 27,
    ),
    (
        "aten::_slow_conv2d_backward",
        None,
        {
            "self": IMAGES,
            "grad_output": PLACES,
            "weight": KERNEL,
            "output_mask": [True, True, True],
        },
        2 * CONVOLUTION,
    ),
    (
        "aten::_slow_conv2d_backward",
        (None, KERNEL, None),
        {"self": IMAGES, "grad_output": PLACES, "weight": KERNEL},
        CONVOLUTION,
    ),
    (
        "aten::mps_convolution_backward",
        None,
        {
            "self": IMAGES,
            "grad_output": PLACES,
            "weight": KERNEL,
            "output_mask": [False, True, True],
        },
        CONVOLUTION,
    ),
    (
        "aten::mps_convolution_transpose_backward",
        None,
        {"self": IMAGES, "weight": BACK, "output_mask": [True, True]},
        2 * TRANSPOSED,
    ),
    # 5*3 rows, 4*32 gates, then of 32 features: 2*15*128*(16 + 32), 2*15*128*(32 + 32)
    (
        "aten::_lstm_mps",
        None,
        {
            "input": m(5, 3, 16),
            "hx": [m(2, 3, 32), m(2, 3, 32)],
            "num_layers": 2,
            "bidirectional": False,
        },
        184_320 + 245_760,
    ),
    (
        "aten::lstm_mps_backward",
        None,
        {
            "input": m(5, 3, 16),
            "hx": [m(1, 3, 32), m(1, 3, 32)],
            "num_layers": 1,
            "bidirectional": False,
        },
        2 * 184_320,
    ),
    # a packed sequence of 15 steps in all
    (
        "aten::quantized_lstm",
        None,
        {"data": m(15, 16), "hx": [m(1, 3, 32)], "num_layers": 1, "bidirectional": False},
        184_320,
    ),
    # 16 inputs of which 8 are stored: 2 * 4*8*6
    ("aten::_sparse_semi_structured_mm", None, {"mat1": m(4, 8), "mat2": m(16, 6)}, 384),
    ("aten::_sparse_semi_structured_addmm", None, {"mat1": m(4, 8), "mat2": m(16, 6)}, 384),
    ("aten::_sparse_semi_structured_linear", None, {"input": m(2, 2, 16), "weight": m(6, 8)}, 384),
    ("aten::_cslt_sparse_mm", m(4, 6), {"compressed_A": m(4, 9), "dense_B": m(16, 6)}, 384),
    # four projections 2*10*16*16; attention 2 * 2 * 2*5*5*16
    (
        "aten::_triton_multi_head_attention",
        None,
        {"query": m(2, 5, 16), "key": m(2, 5, 16), "value": m(2, 5, 16), "embed_dim": 16},
        23_680,
    ),
    ("prims::fft_c2c", None, {"self": m(8, dtype=torch.complex64), "dim": [0]}, 120),
]


@pytest.mark.parametrize(
    ("name", "out", "arguments", "flops"),
    ASKED,
    ids=[f"{i}-{row[0]}" for i, row in enumerate(ASKED)],
)
def test_operators_of_other_hardware(name, out, arguments, flops):
    assert ask(name, out, arguments) == Flops(flops)


# Attention. 4 heads of queries on 2 of keys, sizes 8 and 8; dense 2 examples of 16 by 12:
# 2 * 2*4*16*12 * (8 + 8) = 49,152, scores alone half of it. Packed: 4 queries on 3 keys, 6 on 5:
# 42 pairs: 2 * 4*42 * (8 + 8) = 5,376.

DENSE, PACKED = 49_152, 5_376


def qkv(query, key):
    return {"query": m(*query), "key": m(*key), "value": m(*key)}


LENGTH_FIRST = qkv((2, 16, 4, 8), (2, 12, 2, 8))
HEADS_FIRST = qkv((2, 4, 16, 8), (2, 2, 12, 8))
ROWS = qkv((10, 4, 8), (8, 2, 8))
ROWS_OF_ONE = qkv((1, 10, 4, 8), (1, 8, 2, 8))


def starts(infix):
    names = f"{infix}_q", f"{infix}_k"
    return dict(zip(names, (ends(0, 4, 10), ends(0, 3, 8)), strict=True))


KERNELS = [
    ("aten::_flash_attention", LENGTH_FIRST, DENSE),
    ("aten::_flash_attention", {**ROWS, **starts("cum_seq")}, PACKED),
    ("aten::_efficient_attention", LENGTH_FIRST, DENSE),
    ("aten::_efficient_attention", {**ROWS_OF_ONE, **starts("cu_seqlens")}, PACKED),
    ("aten::_cudnn_attention", HEADS_FIRST, DENSE),
    ("aten::_cudnn_attention", {**ROWS, **starts("cum_seq")}, PACKED),
]


@pytest.mark.parametrize(
    ("name", "arguments", "flops"),
    KERNELS,
    ids=[f"{row[0]}-{row[2]}" for row in KERNELS],
)
def test_attention_kernels(name, arguments, flops):
    assert ask(f"{name}_forward", None, arguments) == Flops(flops)
    # four products of gradients, and the scores once more
    assert ask(f"{name}_backward", None, arguments) == Flops(2 * flops, recomputed=flops // 2)


def test_attention_of_several_lengths():
    import torch.nn.attention.varlen  # noqa: F401 - it registers the operators

    arguments = {**ROWS, **starts("cu_seq")}
    assert ask("torch_attn::_varlen_attn", None, arguments) == Flops(PACKED)
    assert ask("torch_attn::_varlen_attn_out", None, arguments) == Flops(PACKED)
    backward = ask("torch_attn::_varlen_attn_backward", None, arguments)
    assert backward == Flops(2 * PACKED, recomputed=PACKED // 2)


def test_attention_on_a_cache_of_keys():
    # 2 and 5 keys used: 4*2 + 6*5 = 38 pairs
    arguments = {**ROWS, **starts("cum_seq"), "seqused_k": ends(2, 5)}
    assert ask("aten::_flash_attention_forward", None, arguments) == Flops(2 * 4 * 38 * 16)
    for unknown in (
        {**ROWS, "cum_seq_q": ends(0, 4, 10), "cum_seq_k": None},
        {**LENGTH_FIRST, "seqused_k": ends(2, 5)},
    ):
        with pytest.raises(NoFormulaError):
            ask("aten::_flash_attention_forward", None, unknown)


def test_attention_with_values_of_another_size():
    # 2 * 6*16*12 * (8 + 5), without a dimension for the batch
    arguments = {"query": m(6, 16, 8), "key": m(6, 12, 8), "value": m(6, 12, 5)}
    name = "aten::_scaled_dot_product_attention_math_for_mps"
    assert ask(name, None, arguments) == Flops(29_952)
    arguments = {"q": m(2, 3, 16, 8), "k": m(2, 3, 12, 8), "v": m(2, 3, 12, 8)}
    assert ask("aten::_triton_scaled_dot_attention", None, arguments) == Flops(36_864)


# Higher-order operators.


@pytest.fixture
def flex(monkeypatch):
    """flex_attention with its gradients, which it refuses on a CPU although it has them."""
    from torch.nn.attention import flex_attention as module

    monkeypatch.setattr(module, "_validate_device", lambda *tensors: None)
    return module.flex_attention


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_forward_and_backward(flex):
    # 2 * 4*16*12 * (8 + 8); backward twice that, and the scores again
    q, k = r(1, 4, 16, 8, requires_grad=True), r(1, 2, 12, 8)
    flex(q, k, k, enable_gqa=True).sum().backward()
    plain, q.grad = q.grad, None
    count = Meter.count(lambda: flex(q, k, k, enable_gqa=True).sum().backward())
    assert torch.equal(q.grad, plain)
    assert count.by_op == {
        "higher_order::flex_attention": 24_576,
        "higher_order::flex_attention_backward": 49_152,
    }
    assert count.hardware_flops == 3 * 24_576 + 12_288
    assert count.by_dtype == {"float32": 3 * 24_576}
    assert count.uncounted_ops == {}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_counts_dense_whatever_its_mask(flex):
    from torch.nn.attention.flex_attention import create_block_mask

    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 16, 16, device="cpu")
    q = r(1, 2, 16, 8)
    count = Meter.count(flex, q, q, q, block_mask=mask)
    assert count.by_op["higher_order::flex_attention"] == 2 * 2 * 256 * 16


def condition(pred):
    return lambda x: torch.cond(pred, lambda x: x @ x, lambda x: x @ x @ x, (x,))


def loop(x):
    from torch._higher_order_ops.while_loop import while_loop

    return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ x), (torch.tensor(0), x))[1]


def scan(x):
    from torch._higher_order_ops.scan import scan

    return scan(lambda carry, each: (carry @ each, carry + each), x, torch.ones(4, 3, 3))[1]


def mapped(x):
    from torch._higher_order_ops.map import map as map_each

    return map_each(lambda each, x: each @ x, torch.ones(4, 3, 3), x)


# One product of 3x3 matrices is 54.
CONTROL_FLOW = {
    "cond, true": (condition(torch.tensor(data=True)), 1),
    "cond, false": (condition(torch.tensor(data=False)), 2),
    "while_loop": (loop, 3),
    "scan": (scan, 4),
    "map": (mapped, 4),
}


@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_control_flow_counts_what_ran_and_changes_nothing(name):
    function, products = CONTROL_FLOW[name]
    x, results = r(3, 3) / 3, []
    plain = function(x)
    count = Meter.count(lambda: results.append(function(x)))
    assert torch.equal(results[0], plain)
    assert (count.model_flops, count.uncounted_ops) == (54 * products, {})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, inside scan
@pytest.mark.parametrize(("name", "products"), [("scan", 4 + 4), ("map", 4 + 4 + 4)])
def test_the_gradients_of_control_flow_are_counted(name, products):
    # the other factor is data; map asks for its gradient all the same
    x = r(3, 3, requires_grad=True)
    count = Meter.count(lambda: CONTROL_FLOW[name][0](x).sum().backward())
    assert count.model_flops == 54 * products
    assert x.grad is not None
    assert count.uncounted_ops == {}


def test_the_gradient_of_a_condition():
    # x @ x forward, once more in the backward pass, which has two products of its own
    x = r(3, 3, requires_grad=True)
    step = condition(torch.tensor(data=True))
    assert Meter.count(lambda: step(x).sum().backward()).model_flops == 54 + 54 + 2 * 54


def test_other_higher_order_operators_run_and_are_listed():
    from torch._higher_order_ops.auto_functionalize import auto_functionalized

    @torch.library.custom_op("computemeter_ops::fill", mutates_args={"x"})
    def fill(x: torch.Tensor) -> None:
        x.fill_(2)

    op, results = torch.ops.computemeter_ops.fill.default, []
    count = Meter.count(lambda: results.append(auto_functionalized(op, x=torch.zeros(2))))
    assert torch.equal(results[0][1], torch.full((2,), 2.0))
    assert count.uncounted_ops == {"higher_order::auto_functionalized": 1}


# What has no formula is listed.


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda: torch.linalg.svd(r(3, 3)), "aten::_linalg_svd"),
        (lambda: torch.linalg.eigh(EYE), "aten::_linalg_eigh"),
        (lambda: torch.linalg.lstsq(r(4, 3), r(4, 2)), "aten::linalg_lstsq"),
        (lambda: torch.matrix_exp(EYE), "aten::linalg_matrix_exp"),
        # Of few rows, or of another norm, the differences are taken one by one.
        (lambda: torch.cdist(r(2, 3), r(4, 3)), "aten::_cdist_forward"),
        (lambda: torch.cdist(r(30, 3), r(40, 3), p=1), "aten::_cdist_forward"),
    ],
    ids=["svd", "eigh", "lstsq", "matrix_exp", "cdist of few", "cdist of another norm"],
)
def test_what_has_no_textbook_number_is_listed(function, name):
    count = Meter.count(function)
    assert (count.model_flops, count.uncounted_ops) == (0, {name: 1})


# What `torch.utils.flop_counter` counts as zero, or wrongly, in PyTorch 2.13.
SILENT_ELSEWHERE = (
    "aten::mv",
    "aten::addmv",
    "aten::dot",
    "aten::vdot",
    "aten::addbmm",
    "aten::addr",
    "aten::_trilinear",
    "aten::_cdist_*",
    "aten::_foreach_mm",
    "aten::_addmm_activation",
    "aten::matmul_backward",
    "aten::linear_backward",
    "aten::_grouped_mm",
    "aten::_scaled_grouped_mm",
    "aten::_scaled_grouped_mm_v2",
    "aten::_scaled_mm_v2",
    "aten::_int_mm",
    "aten::_mixed_dtypes_linear",
    "aten::_weight_int4pack_mm*",
    "aten::_weight_int8pack_mm",
    "aten::_dyn_quant_matmul_4bit",
    "onednn::q*_pointwise",
    "quantized::linear*",
    "quantized::conv*",
    "aten::_cudnn_rnn",
    "aten::_cudnn_rnn_backward",
    "aten::mkldnn_rnn_layer",
    "aten::mkldnn_rnn_layer_backward",
    "aten::miopen_rnn",
    "aten::miopen_rnn_backward",
    "aten::_lstm_mps",
    "aten::lstm_mps_backward",
    "aten::quantized_lstm",
    "aten::quantized_gru",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    "aten::_scaled_dot_product_attention_math_for_mps",
    "aten::_scaled_dot_product_fused_attention_overrideable*",
    "aten::_cudnn_attention_forward",
    "aten::_cudnn_attention_backward",
    "aten::_native_multi_head_attention",
    "aten::_transformer_encoder_layer_fwd",
    "aten::_triton_multi_head_attention",
    "aten::_triton_scaled_dot_attention",
    "aten::cudnn_convolution_transpose",
    "aten::cudnn_convolution_relu",
    "aten::cudnn_convolution_add_relu",
    "aten::_conv_depthwise2d",
    "aten::conv_depthwise3d",
    "aten::conv_tbc",
    "aten::slow_conv*",
    "aten::mkldnn_convolution",
    "aten::_mps_convolution*",
    "aten::miopen_conv*",
    "mkldnn::_linear_pointwise",
    "mkldnn::_convolution*_pointwise",
    "aten::_sparse_addmm",
    "aten::_sparse_sparse_matmul",
    "aten::hspmm",
    "aten::sparse_sampled_addmm",
    "aten::_sparse_semi_structured_mm",
    "aten::_sparse_semi_structured_addmm",
    "aten::_sparse_semi_structured_linear",
    "aten::_cslt_sparse_mm",
    "aten::_sparse_mm_reduce_impl*",
    "aten::_fft_c2c",
    "aten::_fft_r2c",
    "aten::_fft_c2r",
    "aten::_linalg_*",
    "aten::linalg_*",
    "aten::convolution_backward",
    "aten::_scaled_dot_product_*",
    "aten::_flash_attention_*",
    "aten::_efficient_attention_*",
    "torch_attn::*",
)
ZERO = ("prepack", "unpack", "_packed_params", "linalg_check_errors", "linalg_cross")
ZERO += ("linalg_vector_norm", "linalg__powsum", "linalg_diagonal", "flatten_weight")


@pytest.mark.parametrize("pattern", SILENT_ELSEWHERE)
def test_nothing_of_this_is_silently_zero(pattern):
    import torch.nn.attention.varlen

    classes = classify()
    named = [name for name in classes if fnmatchcase(name, pattern)]
    # An operator that PyTorch has no more is no failure; one it renamed would be found by its look.
    silent = [
        name for name in named if classes[name] == "zero" and not any(word in name for word in ZERO)
    ]
    assert silent == []
    for schema in torch._C._jit_get_all_schemas():
        if fnmatchcase(schema.name, pattern) and not any(word in schema.name for word in ZERO):
            known = formula_of(schema.name) or is_uncounted(schema.name)
            assert known or classes.get(schema.name) == "parts", schema.name


def test_streams_and_quantisers_are_no_arithmetic():
    assert not is_uncounted("streams::record_event")
    assert not is_uncounted("quantized_decomposed::quantize_per_tensor")
