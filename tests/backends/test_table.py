"""What a `fit` is metered at, on each backend, against numbers derived by hand."""

from functools import cache

import keras
import pytest
from backend_nets import (
    BACKEND,
    CNN_SAME,
    CNN_VALID,
    LSTM,
    MHA,
    MHA_DROPOUT,
    MIX,
    MLP,
    RESNET50,
    TRANSFORMER,
)

from computemeter.keras import ComputeMeter

# The nets and the FLOPs of one training step; for an LSTM of PyTorch's see `Net.unneeded`.
TABLE = {
    "MLP": (MLP, 38_764_544),
    "CNN same": (CNN_SAME, 283_176_960),
    "CNN valid": (CNN_VALID, 743_460_864),
    "mix": (MIX, 1_311_799_296),
    "LSTM": (LSTM, 21_032_960 - (262_144 if BACKEND == "torch" else 0)),
    "MHA": (MHA, 44_163_072),
    "MHA dropout": (MHA_DROPOUT, 44_163_072),
    "ResNet50": (RESNET50, 7_477_886_976),
    "transformer": (TRANSFORMER, 1_962_964_992),
}
SLOW = {"ResNet50"}  # 53 convolutions to compile


@pytest.fixture(scope="module", autouse=True)
def compiled_in_haste():
    """Spare JAX optimising what runs twice; the count is of the program before it is compiled."""
    if BACKEND != "jax":
        yield
        return
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def meter(tmp_path):
    return ComputeMeter(ledger=tmp_path, verbose=0)


def assert_whole(summary):
    """Everything that ran was counted, and is in every account of it."""
    assert summary.warnings == ()
    assert summary.uncounted_ops == {}
    assert summary.estimated_steps == 0
    assert sum(summary.by_op.values()) == sum(summary.by_dtype.values()) == summary.model_flops


@cache
def two_steps(net):
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    net.fit(meter, examples=2 * net.batch)
    return meter.summary()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TABLE]
)
def test_two_steps(name):
    net, printed = TABLE[name]
    summary = two_steps(net)
    assert net.flops == printed
    assert summary.flops_per_step == net.flops
    assert summary.model_flops == 2 * net.flops
    assert summary.hardware_flops == 2 * net.hardware_flops
    assert summary.by_dtype == {"float32": 2 * net.flops}
    assert summary.steps == 2
    assert summary.samples == 2 * net.batch
    assert summary.parameters == net.parameters
    assert summary.trainable_parameters == net.parameters - net.frozen
    assert_whole(summary)


# What runs for attention, beside the products of dense layers. Without dropout Keras asks its
# backend for attention: one operator on PyTorch, whose backward computes the scores once more, two
# Einsums on TensorFlow, two products on JAX. With dropout it multiplies for itself.
ATTENTION = {
    "jax": ({"jax::dot_general"}, {"jax::dot_general"}),
    "tensorflow": (
        {"tf::MatMul", "tf::BatchMatMulV2", "tf::Einsum"},
        {"tf::MatMul", "tf::BatchMatMulV2"},
    ),
    "torch": (
        {
            "aten::mm",
            "aten::bmm",
            "aten::_scaled_dot_product_flash_attention_for_cpu",
            "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        },
        {"aten::mm", "aten::bmm"},
    ),
}


@pytest.mark.parametrize(("dropout", "net"), [*enumerate((MHA, MHA_DROPOUT))])
def test_what_runs_for_attention(dropout, net):
    summary = two_steps(net)
    assert set(summary.by_op) == ATTENTION[BACKEND][dropout]
    # The scores of 4 heads of 16 at 16 x 16 places, once more: 2 * 32 * 4*16*16*16 a step.
    again = 2 * 1_048_576 if BACKEND == "torch" and not dropout else 0
    assert summary.hardware_flops - summary.model_flops == again


@pytest.mark.parametrize("net", [MLP, CNN_SAME, LSTM, MHA], ids=["MLP", "CNN", "LSTM", "MHA"])
def test_a_last_batch_that_is_not_full(net, meter):
    net.fit(meter, examples=3 * 32 + 5)
    summary = meter.summary()
    assert summary.model_flops == 2 * (3 * 32 + 5) * net.multiply_adds
    assert summary.samples == 3 * 32 + 5
    assert summary.steps == summary.counted_steps + summary.predicted_steps == 4
    assert_whole(summary)


@pytest.fixture(params=["float16", "bfloat16"])
def half(request):
    """Compute in half precision, and keep the weights in full."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{request.param}")
    yield request.param
    keras.config.set_dtype_policy(before)


# Keras on PyTorch has a processor multiply float16 matrices in float32: there the dense layers'
# FLOPs are float32's, the convolutions' are not. By hand: all of an MLP, 3 * 2*32*32*10 of a CNN.
@pytest.mark.parametrize(
    ("net", "dense"), [(MLP, MLP.flops), (CNN_SAME, 61_440)], ids=["MLP", "CNN"]
)
def test_mixed_precision(net, dense, half, meter):
    net.fit(meter, examples=net.batch)
    summary = meter.summary()
    in_full = dense if BACKEND == "torch" and half == "float16" else 0
    by_dtype = {half: net.flops - in_full, "float32": in_full}
    assert summary.model_flops == summary.hardware_flops == net.flops
    assert summary.by_dtype == {name: flops for name, flops in by_dtype.items() if flops}
    assert_whole(summary)
