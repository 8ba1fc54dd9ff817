"""A small metered Keras fit with a backup, launched again and again, here or in a process to kill.

    python keras_job.py FOLDER SAVE_FREQ FIRST MARKS

The process waits for a line of input, and ends without one; then it trains in FOLDER until it is
killed. It writes "(" into the file MARKS when a step begins, and ")" when it has ended. FIRST is
"backup" or "meter": the callback that comes first.
"""

import os
import sys
from pathlib import Path

import keras
import numpy as np
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS

from computemeter.keras import ComputeMeter
from computemeter.ledger import read_ledger

FLOPS = BATCH * FLOPS_PER_EXAMPLE
"""Of one step; an epoch has 4."""


class Crash(keras.callbacks.Callback):
    """Ends the training after a batch, both counted from 0."""

    def __init__(self, epoch, batch, how=None):
        super().__init__()
        self._at, self._epoch, self._how = (epoch, batch), 0, how

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self._at:
            if self._how is not None:
                self._how()
            raise RuntimeError("crashed")


class Marks(keras.callbacks.Callback):
    """Writes down when a step begins and when it has ended; a kill loses none of it."""

    def __init__(self, path):
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def on_train_batch_begin(self, batch, logs=None):
        os.write(self._file, b"(")

    def on_train_batch_end(self, batch, logs=None):
        os.write(self._file, b")")


def net():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((INPUTS,)), layers.Dense(HIDDEN, "relu"), layers.Dense(CLASSES)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, *callbacks, epochs=4):
    """Fit; say whether it went well. What it raised is let go of, as when a process ends."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(4 * BATCH, INPUTS)).astype("float32")
    labels = random.integers(0, CLASSES, 4 * BATCH)
    quiet = {"batch_size": BATCH, "epochs": epochs, "verbose": 0}
    try:
        model.fit(inputs, labels, callbacks=list(callbacks), **quiet)
    except RuntimeError:
        return False
    return True


class Job:
    """One job, launched again and again: nothing is kept but the files.

    Attributes:
        model: of the last launch.
    """

    def __init__(self, folder, **backup):
        self.folder, self._backup = folder, backup
        self.state_file = folder / "backup.computemeter.json"

    def launch(self, *more, first="backup", epochs=4, **options):
        meter = ComputeMeter(**{"ledger": self.folder / "ledger", "verbose": 0, **options})
        backup = keras.callbacks.BackupAndRestore(str(self.folder / "backup"), **self._backup)
        both = [backup, meter] if first == "backup" else [meter, backup]
        self.model = net()
        self.went_well = fit(self.model, *both, *more, epochs=epochs)
        return meter

    def ledgers(self):
        return ledgers_in(self.folder / "ledger")

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())


def ledgers_in(folder):
    """Read the ledgers in a folder, in the order of their launch."""
    return [read_ledger(path) for path in sorted(folder.glob("*.jsonl"))]


def logged(ledger):
    """Return the logging steps; the ledger has the totals at each checkpoint too."""
    return [record for record in ledger.progress if record.metrics]


def totals(meter):
    """Return run and spent compute, in steps."""
    summary = meter.summary()
    assert (summary.run_flops % FLOPS, summary.spent_flops % FLOPS) == (0, 0)
    return summary.run_flops // FLOPS, summary.spent_flops // FLOPS


def main(folder, save_freq, first, marks):
    frequency = save_freq if save_freq == "epoch" else int(save_freq)
    job = Job(Path(folder), save_freq=frequency, double_checkpoint=True)
    job.launch(Marks(marks), first=first, epochs=10**6, log_freq="batch", trackers=None)


if __name__ == "__main__":
    if sys.stdin.readline():
        main(*sys.argv[1:])
