"""FLOPs of Keras's training step on JAX for six models, B=32, by hand."""

import keras
import pytest
from backend_nets import CNN_SAME, CNN_VALID, LSTM, MHA, MIX, MLP
from jax_programs import flops, shape


def step_flops(net):
    model = net.build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    batch = shape(32, *net.shape), shape(32, dtype="int32")
    model._symbolic_build(data_batch=batch)
    model.optimizer.build(model.trainable_variables)
    state = [
        [shape(*v.shape, dtype=str(v.dtype)) for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    return flops(model.train_step, tuple(state), batch)


def test_keras_mlp():
    first, second, last = (2 * 32 * weights for weights in (784 * 256, 256 * 256, 256 * 10))
    # Each layer forward and for its weight; the input's gradient for all but the first.
    derived = 2 * first + 3 * second + 3 * last
    assert derived == 38_764_544
    assert step_flops(MLP) == derived


@pytest.mark.parametrize(
    ("padding", "stride", "first_side", "second_side", "derived"),
    [("same", 2, 32, 16, 283_176_960), ("valid", 1, 30, 28, 743_460_864)],
)
def test_keras_cnn(padding, stride, first_side, second_side, derived):
    assert second_side == (first_side - (2 if padding == "valid" else 0)) // stride
    first = 2 * 32 * first_side**2 * (3 * 3 * 3 * 16)
    second = 2 * 32 * second_side**2 * (3 * 3 * 16 * 32)
    assert 2 * first + 3 * second + 3 * (2 * 32 * 32 * 10) == derived
    assert step_flops({"same": CNN_SAME, "valid": CNN_VALID}[padding]) == derived


def test_keras_depthwise_grouped_and_transposed():
    positions = 2 * 32 * 32 * 32
    first = positions * (3 * 3 * 8 * 16)
    depthwise = positions * (3 * 3 * 16)
    grouped = positions * (3 * 3 * (16 // 4) * 32)
    transposed = positions * (3 * 3 * 32 * 16)  # at the positions of its input
    derived = 2 * first + 3 * (depthwise + grouped + transposed + 2 * 32 * 16 * 10)
    assert derived == 1_311_799_296
    assert step_flops(MIX) == derived


def test_keras_lstm():
    rows = 2 * 20 * 32  # steps times examples
    from_input, from_state = rows * 4 * 32 * 16, rows * 4 * 32 * 32
    derived = 2 * from_input + 3 * from_state + 3 * (2 * 32 * 32 * 10)
    assert derived == 21_032_960
    assert step_flops(LSTM) == derived


def test_keras_multi_head_attention():
    projection = 2 * 32 * 16 * 64 * 64
    scores_and_values = 2 * (32 * 4 * 16 * 16) * (16 + 16)
    # Query, key and value are projections of the input, which needs no gradient.
    derived = (3 * 2 + 3) * projection + 3 * scores_and_values + 3 * (2 * 32 * 64 * 10)
    assert derived == 44_163_072
    assert step_flops(MHA) == derived
