"""Models that Keras builds only when it trains them."""

import keras
import numpy as np
import pytest

from computemeter.keras import ComputeMeter

# 10 -> 20 -> 5: forward, the same for the weights, and for the second layer's input.
FLOPS = 2 * (2 * (10 * 20 + 20 * 5) + 20 * 5)


def without_an_input():
    return keras.Sequential([keras.layers.Dense(20, "relu"), keras.layers.Dense(5)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(20, "relu"), keras.layers.Dense(5)

    def call(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize("make", [without_an_input, Subclassed])
def test_a_model_that_is_not_built_yet(make):
    model = make()
    model.compile("sgd", "mse")
    meter = ComputeMeter(ledger=None, trackers=None, verbose=0)
    x, y = np.ones((24, 10), "float32"), np.ones((24, 5), "float32")
    model.fit(x, y, batch_size=8, epochs=2, callbacks=[meter], verbose=0)
    summary = meter.summary()
    assert summary.warnings == ()
    assert (summary.steps, summary.model_flops) == (6, 48 * FLOPS)
    assert summary.parameters == summary.trainable_parameters == 10 * 20 + 20 + 20 * 5 + 5
