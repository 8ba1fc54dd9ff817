"""A training that is killed at random instants, resumed each time, and finished at last.

    python killed_fits.py FOLDER KILLS LOG_EVERY

Each launch is a process of its own, forked so that the libraries are imported once. Each appends a
byte to FOLDER/steps for every step it has run. The last one prints the summary.
"""

import json
import logging
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from small_runs import BATCH, CLASSES, HIDDEN, INPUTS
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from computemeter.lightning import ComputeMeter

RUN = "the-job"
CHECKPOINT_EVERY = 23


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.rand(INPUTS), torch.randint(CLASSES, ())


class StepFile(Callback):
    """Says how many steps ran, whatever becomes of them."""

    def __init__(self, path):
        self._file = path.open("ab", buffering=0)

    def on_train_batch_end(self, *_args, **_kwargs):
        self._file.write(b".")


class OneRun:
    """A tracker that knows the job by its id and keeps nothing."""

    name, run_id = "scheduler", RUN

    def log(self, metrics, *, step, time):
        pass

    def tag(self, tags):
        pass

    def close(self, timeout=5.0):
        return 0


def newest_checkpoint(folder):
    """Return the newest that is whole: a kill may leave half a file."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: -int(path.stem.split("=")[-1])):
        try:
            steps = torch.load(path, weights_only=False)["global_step"]
        except Exception:  # noqa: BLE001, S112
            continue
        return path, steps
    return None, 0


def fit(folder, log_every, max_steps):
    meter = ComputeMeter(verbose=0, ledger=folder / "ledger", trackers=[OneRun()])
    saved = ModelCheckpoint(
        folder / "saved", "{step}", every_n_train_steps=CHECKPOINT_EVERY, save_top_k=-1
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[meter, saved, StepFile(folder / "steps")],
        default_root_dir=folder,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=log_every,
        logger=False,
        max_steps=max_steps,
    )
    path, _steps = newest_checkpoint(folder / "saved")
    trainer.fit(Net(), DataLoader(Endless(), BATCH), ckpt_path=path, weights_only=False)
    return meter.summary()


def launch(folder, log_every, seconds):
    """Train in a process of its own, and kill it."""
    if (child := os.fork()) == 0:
        fit(folder, log_every, 10**9)
        os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main(folder, kills, log_every):
    instants = random.Random(11)
    torch.set_num_threads(1)
    for _ in range(kills):
        launch(folder, log_every, instants.uniform(0.02, 1.2))
    _path, restored = newest_checkpoint(folder / "saved")
    summary = fit(folder, log_every, restored + 10)
    print(  # noqa: T201 - read by the test
        json.dumps(
            {
                "in_the_weights": restored + 10,
                "ran": (folder / "steps").stat().st_size,
                "run_flops": summary.run_flops,
                "spent_flops": summary.spent_flops,
                "warnings": summary.warnings,
            }
        )
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
