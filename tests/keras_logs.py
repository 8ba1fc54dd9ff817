"""Small Keras fits, and a tracker that keeps what they log."""

import keras
import numpy as np
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS

FLOPS = BATCH * FLOPS_PER_EXAMPLE
"""Of one step."""
NAMES = {
    "compute/pfs_days",
    "compute/flops",
    "compute/flops_per_step",
    "compute/flops_per_sec",
    "compute/device_hours",
    "compute/uncounted_ops",
    "compute/loss",
}
"""What every logging step has; the rest depends on the machine and its clock."""
OTHER_NAMES = {
    "compute/pfs_days_gpu_time",
    "compute/ratio",
    "compute/divergence",
    "compute/mfu",
    "compute/hfu",
    "compute/busy_fraction",
    "compute/busy_device_hours",
}


class Tracker:
    """A sink that keeps what it gets."""

    name, run_id = "stub", "run of the stub"

    def __init__(self):
        self.rows, self.tags, self.closed = [], {}, 0

    def log(self, metrics, *, step, time):
        self.rows.append((step, dict(metrics)))

    def tag(self, tags):
        self.tags.update(tags)

    def close(self, timeout=5.0):
        self.closed += 1
        return 0

    def column(self, name):
        return {step: metrics[name] for step, metrics in self.rows}


def net(**compiled):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((INPUTS,)), layers.Dense(HIDDEN, "relu"), layers.Dense(CLASSES)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, **compiled)
    return model


def fit(model, *callbacks, batches=4, epochs=1, **options):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(batches * BATCH, INPUTS)).astype("float32")
    labels = random.integers(0, CLASSES, batches * BATCH)
    quiet = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(inputs, labels, epochs=epochs, callbacks=list(callbacks), **quiet)
