"""The arms: each trains a net on all that a feed has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ThroughputMonitor
from lightning.pytorch.loggers import Logger
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.overhead_parts.nets import Batch, Feed, Net, small_transformer, tiny_mlp
from computemeter import Meter
from computemeter.lightning import ComputeMeter

LOG_EVERY = 50  # the default of Lightning and of `Meter`

NOTHING, AGAIN = "nothing", "nothing again (A/A)"
COMPUTE_METER, METER = "ComputeMeter", "Meter"

Train = Callable[[Net, Feed, Path], None]


class Quiet(Logger):
    """A logger that costs nothing, so that Lightning's logging steps are in every arm."""

    name = "quiet"
    version = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        pass


class StockCounter(Callback):
    """PyTorch's own counter around every step, as users put it there."""

    def on_train_batch_start(self, *_: Any) -> None:
        self._mode = FlopCounterMode(display=False)
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, *_: Any) -> None:
        self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._mode.get_total_flops()


def fit(callbacks: Callable[[Path], list[Callback]], net: Net, feed: Feed, folder: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=callbacks(folder),
        logger=Quiet(),
        log_every_n_steps=LOG_EVERY,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, feed)


def plain_loop(net: Net, feed: Feed, _: Path) -> None:
    step = _stepper(net)
    for batch in feed:
        step(batch)


def metered_loop(net: Net, feed: Feed, folder: Path) -> None:
    step = _stepper(net)
    with Meter(log_every=LOG_EVERY, ledger=folder, trackers=None, verbose=0) as meter:
        for batch in feed:
            with meter.step(batch):
                step(batch)


def _stepper(net: Net) -> Callable[[Batch], None]:
    optimizer = net.configure_optimizers()

    def step(batch: Batch) -> None:
        loss = net.training_step(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


LIGHTNING_ARMS: Mapping[str, Train] = {
    NOTHING: partial(fit, lambda _: []),
    AGAIN: partial(fit, lambda _: []),
    "an empty Callback": partial(fit, lambda _: [Callback()]),
    COMPUTE_METER: partial(
        fit, lambda folder: [ComputeMeter(ledger=folder, trackers=None, verbose=0)]
    ),
    "Lightning's ThroughputMonitor": partial(
        fit, lambda _: [ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]))]
    ),
    "PyTorch's FlopCounterMode, every step": partial(fit, lambda _: [StockCounter()]),
}
LOOP_ARMS: Mapping[str, Train] = {NOTHING: plain_loop, AGAIN: plain_loop, METER: metered_loop}


@dataclass(frozen=True, slots=True)
class Workload:
    """A training to be run with each arm.

    Attributes:
        title: of its table.
        build: makes the net, with the same weights each time.
        arms: by name.
        meter: which arm is the meter.
        target_us: what the meter may add to a step.
        steps: of one turn; they divide `LOG_EVERY` or are a multiple of it.
        turns: in one round; the first is the warm-up.
    """

    title: str
    build: Callable[[], Net]
    arms: Mapping[str, Train]
    meter: str
    target_us: float
    steps: int
    turns: int


WORKLOADS = (
    Workload("tiny MLP, Lightning", tiny_mlp, LIGHTNING_ARMS, COMPUTE_METER, 15, 50, 16),
    Workload("transformer, Lightning", small_transformer, LIGHTNING_ARMS, COMPUTE_METER, 75, 5, 21),
    Workload("tiny MLP, plain loop", tiny_mlp, LOOP_ARMS, METER, 15, 50, 31),
)
