"""One rank of a small metered DDP training with a real Trainer: `ddp_fit.py FOLDER OPTIONS`.

OPTIONS are `Job`'s fields as JSON. Rank r trains on batches of BATCH - r examples, and leaves what
it saw in FOLDER/rank-<r>.json. A rank without a LOCAL_RANK has Lightning start the others.
"""

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from rank_workers import net
from small_runs import BATCH, INPUTS
from torch.utils.data import DataLoader, IterableDataset

from computemeter.lightning import ComputeMeter

PEAK, UTILIZATION = 1e15, 0.5
"""Given to the meter, so that method 2 can be worked out by hand."""


@dataclass(frozen=True)
class Job:
    """What a launch is to do.

    Attributes:
        ranks: how many.
        steps: in the weights at the end.
        log_every: steps.
        checkpoint_every: steps; 0 for never.
        resume: a checkpoint.
        store: MLflow's, where the run is to be logged.
        run_id: of the MLflow run to continue.
        halt_at: steps that have ended when some ranks halt, to be killed.
        halting: those ranks.
        metered: False for the twin without a meter.
    """

    ranks: int
    steps: int
    log_every: int = 2
    checkpoint_every: int = 0
    resume: str | None = None
    store: str | None = None
    run_id: str | None = None
    halt_at: int = -1
    halting: tuple[int, ...] = ()
    metered: bool = True


class Module(pl.LightningModule):
    """The net of the other tests of ranks."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Shard(IterableDataset):
    """Batches without an end, of another size on every rank."""

    def __init__(self, rank):
        self._examples = BATCH - rank

    def __iter__(self):
        while True:
            yield torch.ones(self._examples, INPUTS)


class Watch(pl.Callback):
    """Notes when each end of the training came to it, and what the meter had restored."""

    def __init__(self, meter=None):
        self.meter, self.restored, self.failed = meter, None, None

    def on_train_start(self, trainer, pl_module):
        if self.meter:
            self.restored = self.meter.summary().to_dict()

    def on_exception(self, trainer, pl_module, exception):
        self.failed = time.monotonic()


class Halt(pl.Callback):
    """Holds ranks between two steps until somebody kills them."""

    def __init__(self, job, folder):
        self._job, self._folder = job, folder

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        halting = trainer.global_rank in self._job.halting
        if halting and trainer.global_step == self._job.halt_at:
            (self._folder / f"halted-{trainer.global_rank}").write_text(str(os.getpid()))
            time.sleep(600)


def checkpoints(folder):
    """Where the Trainer leaves them."""
    return folder / "checkpoints"


def trainer(job, folder, callbacks):
    """Make a quiet Trainer for all ranks."""
    if job.checkpoint_every:
        every = job.checkpoint_every
        saving = ModelCheckpoint(
            checkpoints(folder), "{step}", every_n_train_steps=every, save_top_k=-1
        )
        callbacks = [*callbacks, saving]
    logger = job.store and MLFlowLogger("ranks", tracking_uri=job.store, run_id=job.run_id)
    return pl.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=folder,
        devices=job.ranks,
        enable_checkpointing=bool(job.checkpoint_every),
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=job.log_every,
        logger=logger or False,
        max_epochs=-1,
        max_steps=job.steps,
        strategy="ddp",
    )


def main(folder, options):
    torch.set_num_threads(1)
    folder, job = Path(folder), Job(**json.loads(options))
    meter = None
    if job.metered:
        meter = ComputeMeter(verbose=0, peak_flops=PEAK, assumed_utilization=UTILIZATION)
    first, last = Watch(), Watch(meter)
    metering = [meter] if meter else []
    fit = trainer(job, folder, [first, *metering, last, Halt(job, folder)])
    seen = {"failure": None}
    try:
        fit.fit(Module(), DataLoader(Shard(fit.global_rank), batch_size=None), ckpt_path=job.resume)
    except BaseException as error:
        seen["failure"], seen["meter_seconds"] = repr(error), last.failed - first.failed
        raise
    finally:
        if meter:
            seen["restored"], seen["summary"] = last.restored, meter.summary().to_dict()
        with suppress(OSError):
            (folder / f"rank-{fit.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
