"""Compiled nets and CUDA graphs: each step counted as by hand, or said to be unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.gpu_check_parts.results import Check, Expected, Result, Setting, check_count

# 256 rows through 512 -> 1024 -> 512. Both layers are products of 256 x 512 x 1024; forward they
# are two, backward three, as the gradient of the first layer's input is not needed.
_LAYER = 2 * 256 * 512 * 1024
_STEP = Expected(5 * _LAYER)
_HEAD = 2 * 256 * 512 * 16

_CALLS = 5  # compile, warm up, record a graph, replay it, replay it again


def compiled(mode: str, name: str, setting: Setting) -> Sequence[Result]:
    """Check a compiled net from its first call, which compiles, to where graphs are replayed."""
    torch.compiler.reset()
    net, x = _net(setting)
    if setting.cuda:
        run = torch.compile(net, mode=mode)
        detail = f"{_CALLS} calls, all counted, the first one compiles"
    else:
        # A rehearsal of the check, not of a compiler.
        run = torch.compile(net, backend="aot_eager")
        detail = "aot_eager on the CPU"
    return check_count(name, _STEP, lambda: _train(net, run, x), _CALLS, detail)


def flex(name: str, setting: Setting) -> Sequence[Result]:
    """Check compiled flex_attention, a Triton kernel of its own."""
    setting.need_cuda("compiled flex_attention with gradients")
    torch.compiler.reset()
    q, k, v = (
        torch.randn(2, 4, 128, 64, device=setting.device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    run = torch.compile(flex_attention)
    forward = 2 * (2 * 4 * 128 * 128) * (64 + 64)
    expected = Expected(3 * forward, recomputed=2 * (2 * 4 * 128 * 128) * 64)

    def step() -> None:
        out = run(q, k, v)
        assert isinstance(out, Tensor)
        _backward(out)

    return check_count(name, expected, step, times=3)


def replayed_step(name: str, setting: Setting) -> Sequence[Result]:
    """Check a whole step in one CUDA graph: the meter sees none of it, and must not say zero."""
    setting.need_cuda("a CUDA graph")
    net, x = _net(setting)
    _on_a_side_stream(lambda: _train(net, net, x))
    net.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _backward(net(x))
    return check_count(name, _STEP, graph.replay, times=2)


def replayed_body(name: str, setting: Setting) -> Sequence[Result]:
    """Check a graphed body below an eager head: the head alone is not the step."""
    setting.need_cuda("a CUDA graph")
    net, x = _net(setting)
    body = torch.cuda.make_graphed_callables(net, (x,))
    head = nn.Linear(512, 16, bias=False).to(setting.device, setting.dtype)
    # The head's input needs its gradient: three products.
    expected = Expected(5 * _LAYER + 3 * _HEAD)
    return check_count(name, expected, lambda: _train(net, lambda x: head(body(x)), x), times=2)


def _net(setting: Setting) -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Linear(512, 1024), nn.GELU(), nn.Linear(1024, 512))
    x = torch.randn(256, 512, device=setting.device, dtype=setting.dtype)
    return net.to(setting.device, setting.dtype), x


def _on_a_side_stream(step: Callable[[], None], times: int = 3) -> None:
    """Warm up as PyTorch wants it before a capture."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(times):
            step()
    torch.cuda.current_stream().wait_stream(stream)


def _train(net: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    # A graph's gradients live in its own memory, which its next replay writes again.
    net.zero_grad()
    _backward(run(x))


def _backward(out: Tensor) -> None:
    out.float().square().mean().backward()  # type: ignore[no-untyped-call]


COMPILED: Mapping[str, Check] = {
    "torch.compile": partial(compiled, "default"),
    "torch.compile, reduce-overhead (CUDA graphs)": partial(compiled, "reduce-overhead"),
    "compiled flex_attention": flex,
    "CUDA graph of a step": replayed_step,
    "CUDA graph of a body, eager head": replayed_body,
}
AUTOTUNED: Mapping[str, Check] = {
    "torch.compile, max-autotune": partial(compiled, "max-autotune"),
    "torch.compile, max-autotune without graphs": partial(compiled, "max-autotune-no-cudagraphs"),
}
