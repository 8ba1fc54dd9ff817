"""What an optimizer multiplies by itself is no part of a step's FLOPs."""

import keras
import numpy as np
import pytest

from computemeter.keras import ComputeMeter

LAYERS = ((16, 32), (32, 32), (32, 4))
BATCH = 8
# Forward, the same again for the weights' gradients, and for the inputs' of all but the first.
FLOPS = 2 * BATCH * (3 * sum(a * b for a, b in LAYERS) - 16 * 32)


class Wasteful(keras.optimizers.SGD):
    """An optimizer of a user's own, with a product in it."""

    def update_step(self, gradient, variable, learning_rate):
        product = keras.ops.matmul(keras.ops.ones((7, 7)), keras.ops.ones((7, 7)))
        super().update_step(gradient + 0 * product[0, 0], variable, learning_rate)


def flops_of_a_step(optimizer):
    model = keras.Sequential([keras.Input((16,)), *[keras.layers.Dense(b) for _, b in LAYERS]])
    model.compile(optimizer, "mse")
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    x, y = np.ones((2 * BATCH, 16), "float32"), np.ones((2 * BATCH, 4), "float32")
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[meter])
    return meter.summary().flops_per_step


@pytest.mark.parametrize(
    "make",
    [
        keras.optimizers.Adam,
        keras.optimizers.Muon,
        Wasteful,
        lambda: keras.optimizers.Muon(gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Muon()),
    ],
    ids=["Adam", "Muon", "own", "accumulated", "scaled"],
)
def test_an_optimizers_own_products_are_not_counted(make):
    assert flops_of_a_step(make()) == FLOPS


def test_a_product_in_a_loss_is_counted():
    # The same kind of product outside the optimizer: 2 * 7 * 7 * 7 more, forward alone.
    def loss(y, predicted):
        product = keras.ops.matmul(keras.ops.ones((7, 7)), keras.ops.ones((7, 7)))
        return keras.ops.mean((y - predicted) ** 2) + product[0, 0]

    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.Muon(), loss)
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    model.fit(np.ones((8, 16)), np.ones((8, 4)), batch_size=8, verbose=0, callbacks=[meter])
    assert meter.summary().flops_per_step == 2 * 2 * 8 * 16 * 4 + 2 * 7**3
