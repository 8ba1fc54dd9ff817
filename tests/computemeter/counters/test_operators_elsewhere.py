"""Operators of hardware that is not here: their formulas against numbers derived by hand.

Each formula is asked about tensors without data, under the names that the operator's schema gives
its arguments.
"""

import pytest
import torch
from torch_inputs import ends, m

from computemeter.counters.torch_flops import FORMULAS, Flops, NoFormulaError


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
