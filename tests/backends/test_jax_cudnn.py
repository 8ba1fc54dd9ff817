"""FLOPs of cuDNN's fused layers in a program of JAX, by hand."""

import importlib

import jax
import pytest
from jax import numpy as jnp
from jax_programs import FULL, TF32, count, flops, precisions, shape


def attention(name, layout, mask, offsets=(1,)):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    # 2 examples, 3 heads, 8 queries, 16 keys, size 32.
    sizes = [(2, 8, 3, 32), (2, 16, 3, 32)] if layout == 0 else [(2, 3, 8, 32), (2, 3, 16, 32)]
    query, key = (shape(*each, dtype="bfloat16") for each in sizes)
    params = {
        "scale": 1.0,
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),
        "mask_type": cudnn.MaskType(mask),
        "layout": layout,
        "sliding_window_length": None,
    }
    nothing = shape(0)
    first = [query, key, key, nothing, nothing, nothing, shape(*offsets), *[nothing] * 3]
    if name == "fwd":
        params["is_training"] = True
    else:
        first += [shape(2, 3, 8), query, query]
    primitive = getattr(cudnn, f"_dot_product_attention_{name}_p_wrapper")
    return count(lambda *args: primitive.bind(*args, **params), *first)


@pytest.mark.parametrize("layout", [0, 1])
def test_cudnn_attention(layout):
    scores = 2 * (2 * 3 * 8 * 16) * 32
    forward, backward = attention("fwd", layout, 0), attention("bwd", layout, 0)
    assert forward.model_flops == forward.hardware_flops == 2 * scores
    assert (backward.model_flops, backward.hardware_flops) == (4 * scores, 5 * scores)
    assert forward.by_dtype == {"bfloat16": 2 * scores}
    assert forward.causal_flops == backward.causal_flops == 0


def test_cudnn_attention_with_a_causal_mask():
    seen = 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8
    masked = 2 * (2 * 3 * (8 * 16 - seen)) * (32 + 32)
    assert attention("fwd", 0, 2).causal_flops == masked
    assert attention("bwd", 1, 3).causal_flops == 2 * masked


def test_cudnn_attention_over_packed_sequences_is_uncounted():
    name = "jax::dot_product_attention_fwd_wrapper"
    assert attention("fwd", 0, 1, offsets=(2, 5)).uncounted_ops == {name: 1}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_cudnn_lstm(monkeypatch, bidirectional):
    rnn = importlib.import_module("jax.experimental.rnn")

    class Sizes:
        @staticmethod
        def compute_rnn_workspace_reserve_space_sizes(*_args):
            return 0, 1

    monkeypatch.setattr(rnn, "gpu_rnn", Sizes)
    ways = 2 if bidirectional else 1

    def loss(x, weights):
        state = jnp.zeros((ways * 3, 4, 8))
        lengths = jnp.full((4,), 5, "int32")
        return rnn.lstm(x, state, state, weights, lengths, 6, 8, 3, 0.0, bidirectional)[0].sum()

    # 5 steps of 4 examples, 4 gates of 8 units; the later layers read all directions' units.
    first = 2 * 20 * (4 * 8) * (6 + 8)
    later = 2 * 20 * (4 * 8) * (ways * 8 + 8)
    forward = ways * (first + 2 * later)
    weights = shape(rnn.get_num_params_in_lstm(6, 8, 3, bidirectional))
    assert flops(loss, shape(4, 5, 6), weights) == forward
    assert flops(jax.value_and_grad(loss, argnums=1), shape(4, 5, 6), weights) == 3 * forward
    both = lambda x: jax.grad(loss, argnums=1)(x, jnp.zeros(weights.shape))  # noqa: E731
    assert precisions(both, shape(4, 5, 6))[:2] == (FULL, TF32)
    with jax.default_matmul_precision("highest"):
        assert precisions(both, shape(4, 5, 6))[:2] == (FULL, FULL)
