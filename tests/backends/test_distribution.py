"""Training spread over two devices of one host: the same total as on one."""

import keras
import numpy as np
import pytest
from keras import layers

from computemeter.keras import ComputeMeter

BACKEND = keras.backend.backend()
# 3 -> 4 -> 2, per example: forward 2 * (3*4 + 4*2) = 40, weight gradients 40, input gradients of
# the second layer 2 * 4*2 = 16.
PER_EXAMPLE = 40 + 40 + 16


def fit(rows, batch, **compiled):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "relu"), layers.Dense(2)])
    model.compile("sgd", "mse", **compiled)
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    x, y = np.ones((rows, 3), "float32"), np.ones((rows, 2), "float32")
    for _ in range(2):
        model.fit(x, y, batch_size=batch, epochs=2, callbacks=[meter], verbose=0)
    return meter.summary()


def assert_counted(summary, rows, steps):
    """Both fits, of two epochs each."""
    assert summary.warnings == ()
    assert summary.uncounted_ops == {}
    assert (summary.steps, summary.samples) == (2 * steps, 2 * rows)
    assert summary.model_flops == 2 * rows * PER_EXAMPLE
    assert summary.run_flops == 2 * summary.model_flops
    # The cores of a host are one device, in however many parts they are shown.
    assert summary.device_count == 1
    assert summary.device_seconds == summary.training_seconds


@pytest.fixture
def two_devices():
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu")[:2])
    )
    yield
    keras.distribution.set_distribution(None)


@pytest.mark.skipif(BACKEND != "jax", reason="TensorFlow's and PyTorch's way is another")
@pytest.mark.parametrize("compiled", [{}, {"steps_per_execution": 2}], ids=str)
def test_data_parallel_on_jax(two_devices, compiled):
    """The traced program is that of both devices; batches of 4, 4 and 2 rows."""
    assert_counted(fit(10, 4, **compiled), 10, 3)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's strategies")
@pytest.mark.parametrize(
    ("reduction", "compiled"),
    # With its usual reduction TensorFlow cannot run several steps in one graph on two CPUs, with
    # the meter or without.
    [(None, {}), ("ReductionToOneDevice", {"steps_per_execution": 2})],
    ids=["one step", "several"],
)
@pytest.mark.parametrize(
    ("rows", "batch", "steps"),
    [
        (8, 4, 2),  # two rows to each replica
        (11, 4, 3),  # of the last batch two to the one and one to the other
        (9, 4, 3),  # of the last batch one to the one and none to the other
    ],
)
def test_mirrored_strategy(rows, batch, steps, reduction, compiled):
    import tensorflow as tf

    reduce = reduction and getattr(tf.distribute, reduction)()
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], reduce).scope():
        assert_counted(fit(rows, batch, **compiled), rows, steps)


def test_one_device():
    assert_counted(fit(10, 4), 10, 3)
