"""A small metered training with a real Trainer, here or as a process of its own.

    python metered_fit.py TRACKING_URI RUN_ID FOLDER STEPS

The process keeps its ledger in FOLDER, and trains for STEPS, or for -1 until there is a file
FOLDER/enough.
"""

import logging
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from small_runs import BATCH, CLASSES, HIDDEN, INPUTS
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from computemeter.ledger import read_ledger
from computemeter.lightning import ComputeMeter
from computemeter_mlflow import MLflowSink


class Net(pl.LightningModule):
    """A tiny classifier; what is `added` to the loss, by batch, makes it NaN or infinite."""

    def __init__(self, pause=0.0, added=None):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        self._pause, self._added = pause, added or {}

    def training_step(self, batch, batch_idx):
        time.sleep(self._pause)
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        return loss + self._added.get(batch_idx, 0.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Batches(IterableDataset):
    """Batches without an end."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(1)
        while True:
            inputs = torch.randn(BATCH, INPUTS, generator=generator)
            yield inputs, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def fit(meter, net, *callbacks, steps=-1):
    """Train for a number of steps, or until a callback stops it; log as steps 1, 3, 5..."""
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[meter, *callbacks],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=2,
        logger=False,
        max_epochs=-1,
        max_steps=steps,
    )
    trainer.fit(net, DataLoader(Batches(), batch_size=None))


def only_ledger(folder):
    """Read the one ledger in a folder."""
    (path,) = Path(folder).glob("*.jsonl")
    return read_ledger(path)


class UntilEnough(pl.Callback):
    """Stops the training when there is a file `enough`."""

    def __init__(self, folder):
        self._file = folder / "enough"

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = self._file.exists()


def main(tracking_uri, run_id, folder, steps):
    logging.basicConfig()
    sink = MLflowSink(tracking_uri=tracking_uri, run_id=run_id, interval=0.5)
    meter = ComputeMeter(ledger=folder, trackers=[sink])
    fit(meter, Net(pause=0.005), UntilEnough(Path(folder)), steps=int(steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
