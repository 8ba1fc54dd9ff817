"""What has no formula is listed; what is no contraction a known zero; nothing a silent one."""

from fnmatch import fnmatchcase

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn
from torch_inputs import EYE, r

from computemeter import Meter
from computemeter.counters.torch_ops import classify, formula_of, is_uncounted

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
