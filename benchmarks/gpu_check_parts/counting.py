"""Kernels that exist on GPUs alone: counted as by hand, or said to be unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_check_parts.results import (
    Check,
    Expected,
    NotAvailableError,
    Result,
    Setting,
    check_count,
)


def lstm(name: str, setting: Setting) -> Sequence[Result]:
    """Check two layers of 64 units over 20 steps of 16 examples with 32 features."""
    net = nn.LSTM(32, 64, num_layers=2).to(setting.device)
    x = torch.randn(20, 16, 32, device=setting.device)
    # Four gates, each of the input and of the state; a second layer sees the first one's 64.
    forward = 2 * 20 * 16 * 4 * 64 * (32 + 64) + 2 * 20 * 16 * 4 * 64 * (64 + 64)
    # The gradient of the input is computed whether or not it is needed.
    return check_count(name, Expected(3 * forward), lambda: _train(net(x)[0]))


def projected_lstm(name: str, setting: Setting) -> Sequence[Result]:
    """Check two layers in both directions, with states projected from 64 to 16."""
    setting.need_cuda("cuDNN")
    net = nn.LSTM(32, 64, num_layers=2, bidirectional=True, proj_size=16).to(setting.device)
    x = torch.randn(20, 16, 32, device=setting.device)
    # The second layer sees 2 directions of 16, so all four have 32 inputs and a state of 16.
    forward = 4 * (2 * 20 * 16 * 4 * 64 * (32 + 16) + 2 * 20 * 16 * 64 * 16)
    return check_count(name, Expected(3 * forward), lambda: _train(net(x)[0]))


def packed_lstm(name: str, setting: Setting) -> Sequence[Result]:
    """Check sequences of several lengths: only their own steps count, no padding."""
    setting.need_cuda("cuDNN")
    net = nn.LSTM(32, 64).to(setting.device)
    lengths = [20, 15, 10, 5]
    parts = [torch.randn(length, 32, device=setting.device) for length in lengths]
    packed = nn.utils.rnn.pack_sequence(parts)
    forward = 2 * (20 + 15 + 10 + 5) * 4 * 64 * (32 + 64)
    return check_count(name, Expected(3 * forward), lambda: _train(net(packed)[0].data))


def attention(backend: SDPBackend, name: str, setting: Setting) -> Sequence[Result]:
    """Check causal attention of 2 examples with 4 heads of 64, 128 positions: counted dense."""
    forward = 2 * (2 * 4 * 128 * 128) * (64 + 64)
    # A fused backward computes the scores once more.
    scores = 0 if backend is SDPBackend.MATH else 2 * (2 * 4 * 128 * 128) * 64
    q, k, v = (_leaf(2, 4, 128, 64, device=setting.device) for _ in range(3))
    step = partial(_attend, backend, q, k, v, is_causal=True)
    return check_count(name, Expected(3 * forward, scores), _or_unavailable(step))


def grouped_attention(name: str, setting: Setting) -> Sequence[Result]:
    """Check 8 query heads that share 2 key heads: each query head does its own work."""
    forward = 2 * (2 * 8 * 128 * 128) * (64 + 64)
    scores = 2 * (2 * 8 * 128 * 128) * 64
    q, k, v = (_leaf(2, heads, 128, 64, device=setting.device) for heads in (8, 2, 2))
    step = partial(_attend, SDPBackend.FLASH_ATTENTION, q, k, v, enable_gqa=True)
    return check_count(name, Expected(3 * forward, scores), _or_unavailable(step))


def packed_attention(name: str, setting: Setting) -> Sequence[Result]:
    """Check two sequences of 100 and 28 positions, one after the other: no pairs across."""
    setting.need_cuda("varlen_attn")
    from torch.nn.attention.varlen import varlen_attn

    pairs = 100 * 100 + 28 * 28
    q, k, v = (_leaf(128, 4, 64, device=setting.device) for _ in range(3))
    starts = torch.tensor([0, 100, 128], dtype=torch.int32, device=setting.device)

    def step() -> None:
        out = varlen_attn(q, k, v, starts, starts, 100, 100)
        assert isinstance(out, Tensor)
        _train(out)

    expected = Expected(3 * 2 * 4 * pairs * (64 + 64), recomputed=2 * 4 * pairs * 64)
    return check_count(name, expected, _or_unavailable(step))


def convolution(groups: int, name: str, setting: Setting) -> Sequence[Result]:
    """Check a 3x3 convolution in channels-last, 8 images of 28x28 with 64 channels."""
    net = nn.Conv2d(64, 64, 3, padding=1, bias=False, groups=groups)
    net = net.to(setting.device, setting.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(8, 64, 28, 28, device=setting.device, dtype=setting.dtype)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    forward = 2 * (8 * 64 * 28 * 28) * (64 // groups * 3 * 3)  # taps on padding count
    return check_count(name, Expected(3 * forward), lambda: _train(net(x)))


def autocast(name: str, setting: Setting) -> Sequence[Result]:
    """Check float32 weights that multiply in bfloat16; the input needs no gradient."""
    net = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 128)).to(setting.device)
    x = torch.randn(64, 256, device=setting.device)
    first, second = 2 * 64 * 256 * 512, 2 * 64 * 512 * 128

    def step() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            out = net(x)
        _train(out)

    return check_count(name, Expected(2 * first + 3 * second, dtype="bfloat16"), step)


def fp8(name: str, setting: Setting) -> Sequence[Result]:
    """Check a product of (64, 256) and (256, 128) in fp8."""
    one = torch.ones((), device=setting.device)
    left = torch.randn(64, 256, device=setting.device).to(torch.float8_e4m3fn)
    right = torch.randn(128, 256, device=setting.device).to(torch.float8_e4m3fn).t()

    def step() -> None:
        torch._scaled_mm(left, right, one, one, out_dtype=torch.bfloat16)  # noqa: SLF001 - it has no public name

    expected = Expected(2 * 64 * 256 * 128, dtype="float8_e4m3fn")
    return check_count(name, expected, _or_unavailable(step))


def tf32(name: str, setting: Setting) -> Sequence[Result]:
    """Check that a float32 product under TF32 is told apart."""
    setting.need_cuda("TF32")
    left, right = (torch.randn(256, 256, device=setting.device) for _ in range(2))
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        expected = Expected(2 * 256 * 256 * 256, dtype="tf32")
        return check_count(name, expected, lambda: left @ right)
    finally:
        matmul.fp32_precision = before


def _attend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> None:
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(q, k, v, **options)
    _train(out)


def _leaf(*sizes: int, device: torch.device) -> Tensor:
    return torch.randn(*sizes, device=device, dtype=torch.bfloat16, requires_grad=True)


def _train(out: Tensor) -> None:
    out.float().mean().backward()  # type: ignore[no-untyped-call]


def _or_unavailable(step: Callable[[], Any]) -> Callable[[], Any]:
    """Try a step that this device may have no kernel for, before it is counted."""
    try:
        step()
    except RuntimeError as error:
        raise NotAvailableError(str(error).strip().partition("\n")[0]) from error
    return step


COUNTING: Mapping[str, Check] = {
    "cudnn lstm": lstm,
    "cudnn lstm, two directions, projected": projected_lstm,
    "cudnn lstm, packed": packed_lstm,
    "flash attention": partial(attention, SDPBackend.FLASH_ATTENTION),
    "efficient attention": partial(attention, SDPBackend.EFFICIENT_ATTENTION),
    "cudnn attention": partial(attention, SDPBackend.CUDNN_ATTENTION),
    "plain attention": partial(attention, SDPBackend.MATH),
    "flash attention, shared key heads": grouped_attention,
    "flash attention, packed": packed_attention,
    "channels-last convolution": partial(convolution, 1),
    "channels-last convolution, depthwise": partial(convolution, 64),
    "bf16 autocast": autocast,
    "fp8 product": fp8,
    "tf32 product": tf32,
}
