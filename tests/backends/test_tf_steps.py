"""FLOPs of whole training steps on TensorFlow, from their graphs, by hand."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend_nets import CNN_SAME, CNN_VALID, LSTM, MHA, MIX, MLP
from keras import layers

from computemeter.counters.tf_flops import count_graph

PREDICTED = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trace_step(model, shape, batch=32):
    model.compile("adam", PREDICTED)
    model.optimizer.build(model.trainable_variables)
    data = tf.zeros((batch, *shape)), tf.zeros((batch,), tf.int32)
    step = tf.function(model.train_step, autograph=False)
    return step.get_concrete_function(data).graph


# A layer costs three products, the first one two: nobody asks for the gradient of the data. With
# B = 32, a Dense 10 on n features costs 3 * 2*32*n*10.

STEPS = {
    # 2*32 * (2 * 784*256 + 3 * 256*256 + 3 * 256*10)
    "MLP": (MLP, 38_764_544),
    # 2*32 * (2 * 32*32 * 3*3*3*16 + 3 * 16*16 * 3*3*16*32 + 3 * 32*10)
    "CNN same": (CNN_SAME, 283_176_960),
    # 2*32 * (2 * 30*30 * 3*3*3*16 + 3 * 28*28 * 3*3*16*32 + 3 * 32*10)
    "CNN valid": (CNN_VALID, 743_460_864),
    # 2*32 * (1024 * (2 * 3*3*8*16 + 3 * 3*3*16 + 3 * 3*3*4*32 + 3 * 3*3*32*16) + 3 * 16*10): the
    # transposed convolution has 32x32 positions, those of its input
    "mix": (MIX, 1_311_799_296),
    # 2*32 * (20 * 4*32 * (2*16 + 3*32) + 3 * 32*10): the input's gradient at no time step
    "LSTM": (LSTM, 21_032_960),
    # 2*32 * (q, k, v: 3 * 2 * 16*64*64 + out: 3 * 16*64*64 + scores and values: 3 * 2*4*16*16*16
    # + 3 * 64*10)
    "MHA": (MHA, 44_163_072),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_a_keras_model(name):
    net, expected = STEPS[name]
    counted = count_graph(trace_step(net.build(), net.shape))
    assert counted.model_flops == counted.hardware_flops == expected
    assert counted.by_dtype == {"float32": expected}
    assert not counted.uncounted_ops
    assert all(op.startswith("tf::") for op in counted.by_op)


def test_tracing_a_step_leaves_the_model_as_it_was():
    hidden = layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)
    model = keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(10)])
    trace_step(model, (8,))
    model.fit(np.ones((64, 8)), np.zeros(64), batch_size=16, verbose=0)
    before, function = everything(model), model.train_function
    tf.random.set_seed(7)
    expected = tf.random.uniform((3,))
    tf.random.set_seed(7)
    step = tf.function(model.train_step, autograph=False)
    step.get_concrete_function((tf.zeros((4, 8)), tf.zeros((4,), tf.int32)))
    assert np.array_equal(tf.random.uniform((3,)), expected)
    assert model.train_function is function
    after = everything(model)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path]) for path in before)


def everything(model):
    """Copy the weights, the state of dropout, of the optimizer and of the metrics."""
    variables = model.variables + model.optimizer.variables + model.metrics_variables
    return {variable.path: variable.numpy().copy() for variable in variables}


def test_recomputation_is_hardware_flops_only():
    model = keras.Sequential([keras.Input((16,)), Block(), Block(), layers.Dense(10)])
    counted = count_graph(trace_step(model, (16,), batch=8))
    # Dense products of 16*32, 32*32 three times, 32*10: three each, two of the first.
    products = 16 * 32 + 3 * 32 * 32
    assert counted.model_flops == 2 * 8 * (3 * (products + 32 * 10) - 16 * 32)
    assert counted.hardware_flops - counted.model_flops == 2 * 8 * products
    assert counted.by_op == {"tf::MatMul": counted.model_flops}


class Block(layers.Layer):
    """Two layers and dropout, computed again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = (
            layers.Dense(32, "relu"),
            layers.Dropout(0.5),
            layers.Dense(32, "relu"),
        )

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 32))

    def call(self, x):
        return keras.remat(lambda x: self.last(self.drop(self.first(x), training=True)))(x)


def test_every_replica_of_a_strategy_counts():
    script = """
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half, half])
        import keras
        from computemeter.counters.tf_flops import count_graph
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            dense = keras.layers.Dense
            model = keras.Sequential([keras.Input((6,)), dense(4), dense(3)])
            model.compile("adam", "mse")
            model.optimizer.build(model.trainable_variables)
        data = tf.zeros((8, 6)), tf.zeros((8, 3))
        step = tf.function(lambda z: strategy.run(model.train_step, (z,)), autograph=False)
        counted = count_graph(step.get_concrete_function(data).graph)
        print(counted.model_flops, dict(counted.uncounted_ops), flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    # Each of 2 replicas has 8 examples: 2*8 * (2 * 6*4 + 3 * 4*3)
    assert ran.stdout.split("\n")[0] == f"{2 * 1_344} {{}}", ran.stderr[-2000:]
