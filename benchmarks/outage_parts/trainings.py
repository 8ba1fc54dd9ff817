"""Trainings in processes of their own, which take turns."""

from __future__ import annotations

import logging
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measuring.estimates import SEED

STEPS = 50  # of a turn; the Trainer logs every 50 steps
WARM_UP = 4  # turns that nobody times: there the meter starts, and counts

Turn = Mapping[str, Sequence[float]]
"""Seconds of each step, by arm."""


class Feed:
    """Hands out one batch again and again, in turns that the parent gives, and sends their times.

    A step lasts from the fetch of its batch to the next fetch.
    """

    def __init__(self, batch: Any, parent: Connection) -> None:
        self._batch, self._parent = batch, parent

    def __len__(self) -> int:
        return sys.maxsize  # so that nothing is fetched ahead; the parent ends it

    def __iter__(self) -> Iterator[Any]:
        now = time.perf_counter
        while self._parent.recv():
            began, steps = now(), []
            for _ in range(STEPS):
                yield self._batch
                ended = now()
                steps.append(ended - began)
                began = ended
            self._parent.send(steps)


def train(parent: Connection, folder: Path, server: tuple[str, str] | None) -> None:
    """Train for as many turns as the parent gives.

    Args:
        parent: gives the turns.
        folder: for the ledger.
        server: URI and run id to log to; None for no meter.
    """
    import lightning.pytorch as pl
    import torch
    from torch import nn

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))

        def training_step(self, batch: Any) -> Any:
            return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[] if server is None else [_meter(folder, *server)],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=STEPS,
        logger=False,
        max_epochs=1,
    )
    trainer.fit(Net(), Feed((torch.randn(256, 256), torch.randint(10, (256,))), parent))
    parent.send(None)  # the meter has closed its trackers


def _meter(folder: Path, uri: str, run_id: str) -> Any:
    from computemeter.lightning import ComputeMeter
    from computemeter_mlflow import MLflowSink

    sink = MLflowSink(tracking_uri=uri, run_id=run_id)
    return ComputeMeter(verbose=0, ledger=folder, trackers=[sink])


@contextmanager
def training(folder: Path, server: tuple[str, str] | None) -> Iterator[Connection]:
    """Start a training; yield the end of the pipe through which it is given turns."""
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=train, args=(theirs, folder, server), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


class Turns:
    """Gives each training a turn, in an order of chance."""

    def __init__(self, trainings: Mapping[str, Connection], chance: random.Random) -> None:
        self._trainings, self._chance = trainings, chance
        for _ in range(WARM_UP):
            self.take()

    def take(self) -> Turn:
        """Let each train its steps; return their times."""
        found = {}
        for arm in self._chance.sample(list(self._trainings), k=len(self._trainings)):
            self._trainings[arm].send(True)
            found[arm] = self._trainings[arm].recv()
        return found

    def take_while(self, condition: Callable[[], bool]) -> list[Turn]:
        """Take turns for as long as it holds."""
        found = []
        while condition():
            found.append(self.take())
        return found
