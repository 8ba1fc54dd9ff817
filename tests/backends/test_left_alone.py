"""What a metered Keras fit leaves alone: imports, output, the time of validation and of saving."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras_fits import meter as quiet_meter
from keras_logs import fit, net
from moved_clock import Hands
from small_runs import BATCH, INPUTS

from computemeter.ledger import read_ledger

pytestmark = pytest.mark.usefixtures("elsewhere")


_SCRIPT = """
import os, sys
import keras, numpy as np

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", "mse", steps_per_execution=int(sys.argv[1]))
x, y = np.zeros((8, 3), "float32"), np.zeros((8, 2), "float32")
backup = keras.callbacks.BackupAndRestore("backup")
model.fit(x, y, batch_size=2, verbose=0, callbacks=[backup], validation_data=(x, y))
before = set(sys.modules)

from computemeter.keras import ComputeMeter
meter = ComputeMeter(verbose=0)
model.fit(x, y, batch_size=2, verbose=0, callbacks=[backup, meter], validation_data=(x, y))
assert meter.summary().model_flops, meter.summary()
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print("new:", *sorted(tops & {"torch", "jax", "tensorflow", "mlflow", "wandb"}))
"""


def test_a_metered_fit_imports_no_other_framework_makes_no_noise_and_writes_a_ledger(tmp_path):
    executions = "1" if keras.backend.backend() == "torch" else "2"
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, executions],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "new:\n"
    assert "computemeter" not in result.stderr
    (path,) = (tmp_path / "compute_ledger").glob("*.jsonl")
    ledger = read_ledger(path)
    assert ledger.status == "finished"
    assert dict(ledger.header.trackers) == {}
    # The backup at the end of the epoch, and the epoch.
    assert [(each.step, bool(each.metrics)) for each in ledger.progress] == [(0, False), (0, True)]


class Waits(keras.callbacks.Callback):
    """Lets time pass between batches of training, and in those of validation."""

    def __init__(self, hands):
        super().__init__()
        self._hands = hands

    def on_train_batch_end(self, batch, logs=None):
        self._hands.wait(1)

    def on_test_batch_end(self, batch, logs=None):
        self._hands.wait(500)


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("meter_comes_last", [True, False])
def test_validation_and_saving_are_not_training(
    weights_only, meter_comes_last, monkeypatch, tmp_path
):
    from computemeter import step_meter

    hands = Hands()
    monkeypatch.setattr(step_meter, "TrainingClock", lambda: clock_of(hands))
    name = "save_weights" if weights_only else "save"
    monkeypatch.setattr(keras.Model, name, lambda *_args, **_kwargs: hands.wait(1000))
    path = tmp_path / ("model.weights.h5" if weights_only else "model.keras")
    saving = keras.callbacks.ModelCheckpoint(path, save_weights_only=weights_only)
    meter = quiet_meter()
    callbacks = [saving, meter] if meter_comes_last else [meter, saving]
    data = np.zeros((BATCH, INPUTS), "float32"), np.zeros(BATCH, int)
    fit(net(), Waits(hands), *callbacks, batches=3, epochs=2, validation_data=data)
    # A second after each of 6 batches; 500 of validation and 1000 of saving in each epoch are not.
    assert meter.summary().training_seconds == 6.0
    assert hands.time == 100.0 + 6 + 2 * (500 + 1000)


def clock_of(hands):
    from computemeter.clock import TrainingClock

    return TrainingClock(now=hands)
