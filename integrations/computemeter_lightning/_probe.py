"""Training steps of a `LightningModule`, for a probe.

Its `training_step` and its optimizer are called without a Trainer where that goes: no fit is begun,
no hook is called. Where the module asks for its Trainer, one is made that is quiet, and keeps and
writes nothing.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from computemeter.counters.torch_mode import count
from computemeter.planning._torch_probe import (
    TorchTrial,
    copied,
    device_kind,
    environment,
    load,
    save,
)
from computemeter.planning._trial import Job, Pace
from computemeter.records import Count
from computemeter.switch import VARIABLE

__all__ = ["copied", "device_kind", "environment", "load", "save", "trial"]

_NAMESPACES = ("lightning.pytorch", "pytorch_lightning")
_PREPARING = ("configure_model", "setup", "on_fit_start", "on_train_start")
"""Hooks in which a module may make what its steps use."""
_STEPS = 10**9
"""More than are ever run; a schedule that asks for their number is given a finite one."""


def trial(job: Job, device: str | None) -> LightningTrial:
    """Make ready to train."""
    if job.loss is not None or job.optimizer is not None:
        raise ValueError("a LightningModule brings its own loss and optimizer")
    return LightningTrial(job, device)


class LightningTrial(TorchTrial):
    """A copy of a module in training."""

    def __init__(self, job: Job, device: str | None) -> None:
        self._with_trainer = _wants_trainer(job.model)
        super().__init__(job, device)
        self._takes_index = len(inspect.signature(self.model.training_step).parameters) > 1

    def make_optimizer(self, given: Any) -> Any:
        """Return what the module configures; None where a Trainer is to do that."""
        if self._with_trainer:
            return None
        with _quiet():
            try:
                return _first(self.model.configure_optimizers())
            except RuntimeError as error:
                self._turn_to_trainer(error)
                return None

    def run(self, size: int, pace: Pace) -> None:
        """Train steps."""
        with _quiet():
            if not self._with_trainer:
                try:
                    super().run(size, pace)
                except RuntimeError as error:
                    self._turn_to_trainer(error)
                    pace.restart()
            if self._with_trainer:
                self._fit(size, pace.going)

    def count(self, size: int) -> Count | None:
        """Count one more step, live."""
        if not self._with_trainer:
            with _quiet():
                return super().count(size)
        with torch.compiler.set_stance("force_eager"):
            return count(self._fit, size, iter([True, False]).__next__)

    def loss_of(self, batch: Any) -> Tensor:
        """Run `training_step`."""
        out = self.model.training_step(*([batch, 0] if self._takes_index else [batch]))
        loss = out.get("loss") if isinstance(out, dict) else out
        if not isinstance(loss, Tensor):
            raise TypeError("training_step returned no loss")
        return loss

    def _turn_to_trainer(self, error: RuntimeError) -> None:
        if "trainer" not in str(error).lower():
            raise error
        self._with_trainer = True

    def _fit(self, size: int, going: Callable[[], bool]) -> None:
        self._note("Its steps ran in a Trainer of their own, hooks included.")
        # A callback of the module's own may write: a checkpoint, say.
        self.model.configure_callbacks = list
        with _quiet(), _unmetered(), tempfile.TemporaryDirectory() as folder:
            trainer = _namespace_of(self.model).Trainer(
                default_root_dir=folder,
                max_epochs=1,
                max_steps=_STEPS,
                accelerator="cpu" if self.device.type == "cpu" else "auto",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                limit_val_batches=0,
            )
            trainer.fit(self.model, train_dataloaders=_Feed(self.batches_of(size), going))


class _Feed:
    """Gives the same batch for as long as there are steps to run.

    Lightning asks for a batch ahead: the first step is timed as none, and lies in the warm-up.
    """

    def __init__(self, batch_now: Callable[[], Any], going: Callable[[], bool]) -> None:
        self._batch_now, self._going = batch_now, going

    def __iter__(self) -> Iterator[Any]:
        while self._going():
            yield self._batch_now()


def _wants_trainer(module: Any) -> bool:
    """Say whether a module leaves to its Trainer what is not in `training_step`."""
    base = _namespace_of(module).LightningModule
    prepares = any(getattr(type(module), name) is not getattr(base, name) for name in _PREPARING)
    return prepares or not module.automatic_optimization


def _namespace_of(module: Any) -> Any:
    for name in _NAMESPACES:
        found = sys.modules.get(name)
        if found is not None and isinstance(module, found.LightningModule):
            return found
    return import_module(_NAMESPACES[0])


def _first(configured: Any) -> Any:
    """Return the optimizer from what `configure_optimizers` may return."""
    if isinstance(configured, dict):
        return _first(configured["optimizer"])
    if isinstance(configured, list | tuple) and configured:
        return _first(configured[0])
    if configured is None or isinstance(configured, list | tuple):
        raise ValueError("configure_optimizers returned no optimizer")
    return configured


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what Lightning says of a module without a Trainer, or of a short fit."""
    loggers = [logging.getLogger(name) for name in (*_NAMESPACES, "lightning.fabric")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextmanager
def _unmetered() -> Iterator[None]:
    """Keep a site's meter off: a few steps of a copy are no run."""
    given = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if given is not None:
            os.environ[VARIABLE] = given
