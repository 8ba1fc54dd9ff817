"""The callback: it collects from the Trainer's hooks and hands on; all arithmetic is the core's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack
from weakref import ref

from computemeter.carried import Carried
from computemeter.counters.torch_counter import TorchCounter
from computemeter.failures import Failures, guarded
from computemeter.journal import Place
from computemeter.meter import Meter, next_meter
from computemeter.options import Options, OptionValues, check_count
from computemeter.patches import Patches, before
from computemeter.ranks import torch_ranks
from computemeter.records import Summary
from computemeter.sinks import sink_name_of
from computemeter_lightning._length import asking, bar_of
from computemeter_lightning._loss import LossWindow
from computemeter_lightning._namespace import Callback
from computemeter_lightning._steps import TrainerSteps

STATE_KEY = "computemeter"
SITE_KEY = "computemeter-site"
"""Where in a checkpoint the totals are: among its callbacks' states, and in itself."""

_NO_TOTALS = (
    "the checkpoint does not say what compute went into it: this run's totals are not known; with "
    "base_flops= what came before is the base of a new run"
)

_MLFLOW_RUN_NAME = "mlflow.runName"
"""The tag by which MLflow names a run."""

# Lightning calls every hook of every callback that is callable: those that do nothing here are
# set to None below, which keeps them off the user's step.
_UNUSED_BATCH_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_test_batch_start",
    "on_test_batch_end",
    "on_predict_batch_start",
    "on_predict_batch_end",
)


class ComputeMeter(Callback):
    """Measures how much compute a `Trainer.fit` uses, by two methods, and logs it.

        meter = ComputeMeter()
        Trainer(callbacks=[meter]).fit(model)
        print(meter.summary())

    Works in a Trainer of `lightning.pytorch` and of `pytorch_lightning`. Values are logged at the
    Trainer's own logging steps (`log_every_n_steps`), to the MLflow and W&B runs through their
    sinks and to every other logger through its `log_metrics`.

    Args:
        loss_key: under manual optimisation, the key of the loss in what `training_step` returns;
            under automatic optimisation the loss is known.
        options: see `computemeter.options.Options`.

    Raises:
        ValueError: an option's value is not accepted.
        TypeError: an option does not exist.
    """

    def __init__(self, *, loss_key: str | None = None, **options: Unpack[OptionValues]) -> None:
        super().__init__()
        checked = Options.from_user(options, also=("loss_key",))
        if loss_key is not None and not isinstance(loss_key, str):
            raise TypeError(f"loss_key={loss_key!r}: accepted is a text, or None")
        self.failures = Failures()
        # Each fit has a meter of its own: what is read from outside is read once, now.
        self._options: Any = checked.again(options)
        self._loss_key = loss_key
        self._meter = Meter(**self._options)
        self._patches = Patches()
        self._trainer: ref[Any] | None = None
        self._trained: ref[Any] | None = None
        self._restored: Carried | None = None
        self._loss = LossWindow()
        self._step: int | None = None
        self._fitting = self._untold = False

    def summary(self) -> Summary:
        """Return the compute of the last fit so far, by both methods."""
        return self._meter.summary()

    def breakdown(self) -> dict[str, int]:
        """Return the model FLOPs of the last counted step by module, largest first."""
        return self._meter.breakdown()

    def add_flops(self, flops: int) -> None:
        """Add to the fit that runs what the meter cannot see, such as a kernel of your own.

        While none is metered, they are in no total, and the meter warns.

        Args:
            flops: of the whole run, all processes; counted as model and hardware FLOPs.

        Raises:
            ValueError: `flops` is no whole number, or negative.
        """
        check_count("flops", flops, least=0)
        if self._fitting:
            self._meter.add_flops(flops)
        elif not self._meter.off:
            self.failures.warn("add_flops while no fit is metered: these FLOPs are in no total")

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint, also of a class derived from this one."""
        return STATE_KEY

    # The Trainer's hooks. None of them raises.

    @guarded
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a segment: a fresh meter, the Trainer's two ways to run a batch wrapped."""
        if self._meter.off:
            return
        same = self._trainer is not None and self._trainer() is trainer
        carried = self._carried_into(pl_module, same=same)
        self._restored, self._step, self._trainer = None, None, ref(trainer)
        self._trained, self._fitting, self._untold = ref(pl_module), True, True
        self._meter = next_meter(self._meter, self._options, self.failures, same=same)
        self._meter.attach(
            TorchCounter(pl_module, trainer.strategy.root_device, warn=self.failures.warn),
            _place(trainer),
            ranks=torch_ranks(trainer.global_rank, trainer.world_size),
            carried=carried,
        )
        self._meter.outlook.length = asking(trainer)
        self._meter.outlook.bar_is_open = bar_of(trainer)
        self._loss = LossWindow(self._loss_key)
        self._wrap(trainer, pl_module)
        self._meter.metering = True

    @guarded
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation is not training."""
        self._meter.leave_out("validation")

    @guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Training goes on."""
        self._meter.take_back()

    @guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End the segment while the loggers are still open."""
        self._end("finished")

    @guarded
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the table, after the progress bar has gone."""
        self._end("finished")  # a fit with nothing left to do has no end of training
        self._untold = False
        self._meter.print_summary()

    @guarded
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the segment of a fit that was cut short; after a Ctrl-C with its table."""
        stopped = isinstance(exception, KeyboardInterrupt)
        untold, self._untold = self._untold, False
        self._end("interrupted" if stopped else "failed")
        # Lightning leaves the process: no line after the fit is reached. A validation or a test by
        # itself has no table.
        if stopped and untold:
            self._meter.print_summary(below=True)

    @guarded
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave nothing patched, whatever happened."""
        if stage == "fit":
            self._end("failed")

    def state_dict(self) -> dict[str, Any]:
        """Return the run's totals for the checkpoint."""
        if self._restored is not None:  # a learning rate finder saves and loads before the fit
            return self.failures.call(self._restored.to_state) or {}
        return {} if self._meter.off else self.failures.call(self._meter.state_dict) or {}

    @guarded
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the run's totals from a checkpoint."""
        if self._meter.off and state_dict:
            # What is trained from now on is in nobody's totals: they are not known any more.
            self._meter.load_state_dict(state_dict)
            state_dict = self._meter.state_dict()
        try:
            self._restored = Carried.from_state(state_dict) if state_dict else None
        except ValueError:
            self._restored = Carried.unknown()
            raise

    @guarded
    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Take the totals of another meter's checkpoint; of one's own Lightning hands them on."""
        if self.state_key in checkpoint.get("callbacks", {}):
            return
        if state := state_in(checkpoint, before=super().state_key):
            self.load_state_dict(state)
        elif self._meter.options.base is None:
            self._restored = Carried.unknown()
            self.failures.warn(_NO_TOTALS)

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files and threads behind, so that a Trainer can be copied or spawned."""
        return {**self.__dict__, **dict.fromkeys(("_meter", "_patches", "_trainer", "_trained"))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with a meter of its own."""
        self.__dict__.update(state)
        self._meter, self._patches = Meter(**self._options), Patches()
        self._fitting = self._untold = False

    def _carried_into(self, pl_module: Any, *, same: bool) -> Carried | None:
        """Return what this fit goes on from: a checkpoint, or the same Trainer's last fit."""
        if not same:
            return self._restored
        before = Carried.from_state(self._meter.state_dict())
        if self._restored is not None:
            return self._restored.with_segments(before.segments)
        # Another model's weights have nothing of that work in them; it was spent all the same.
        known = self._trained is not None and self._trained() is pl_module
        return before if known else replace(before, run_flops=0)

    def _end(self, status: str) -> None:
        self._fitting = False
        self.failures.call(self._patches.remove)
        if self._trainer is not None:
            self._meter.close(status, self._step, self.failures.call(self._checkpoints))

    def _checkpoints(self) -> Path | None:
        """Find the folder that this fit's checkpoints went to; None where there is none here."""
        trainer = self._trainer and self._trainer()
        for callback in trainer.checkpoint_callbacks if trainer else ():
            saved = getattr(callback, "last_model_path", "") or callback.best_model_path
            if saved and (folder := Path(saved).parent).is_dir():
                return folder
        return None

    def _wrap(self, trainer: Any, pl_module: Any) -> None:
        after = partial(self._after_batch, trainer, pl_module)
        steps = TrainerSteps(self._meter, trainer, pl_module, after)
        loop = trainer.fit_loop.epoch_loop
        self._patches.wrap(loop.automatic_optimization, "run", steps.metered)
        self._patches.wrap(loop.manual_optimization, "run", steps.metered)
        self._patches.wrap(trainer, "save_checkpoint", steps.left_out("checkpoint"))
        meter, failed = self._meter, self.failures.record
        self._patches.wrap(loop, "_on_before_fetch", before(meter.start_waiting, failed))
        self._patches.wrap(loop, "_on_after_fetch", before(meter.end_waiting, failed))
        if not pl_module.automatic_optimization:
            for number, optimizer in enumerate(trainer.strategy._lightning_optimizers):
                self._patches.wrap(optimizer, "step", steps.noting(number))

    def _after_batch(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
        """Log where the Trainer logs.

        Called as soon as a step has ended, and not from `on_train_batch_end`: Lightning takes
        longer to call a hook than all of this takes.
        """
        fit_loop, automatic = trainer.fit_loop, pl_module.automatic_optimization
        step = self._step = fit_loop.epoch_loop._batches_that_stepped
        accumulated = trainer.accumulate_grad_batches
        if accumulated != 1:
            self._loss.add(outputs)
            if automatic and fit_loop._should_accumulate():
                return
        every = trainer.log_every_n_steps
        if every and ((step + 1) % every == 0 or trainer.should_stop):
            read = self.failures.call
            found = self._loss.automatic if automatic else self._loss.manual
            loss = read(found, outputs, accumulated) if trainer.is_global_zero else None
            self._meter.log(step, loss)
        self._loss.clear()


for _hook in _UNUSED_BATCH_HOOKS:
    setattr(ComputeMeter, _hook, None)


def state_in(checkpoint: Mapping[str, Any], before: str = "ComputeMeter") -> Any:
    """Find the run's totals in a checkpoint, whichever meter wrote them; None without any.

    Args:
        checkpoint: as Lightning loads it.
        before: the class's name, under which a callback's state was kept before it had a key.
    """
    callbacks = checkpoint.get("callbacks") or {}
    return callbacks.get(STATE_KEY) or checkpoint.get(SITE_KEY) or callbacks.get(before)


def _place(trainer: Any) -> Place:
    loggers = tuple(trainer.loggers)
    return Place(
        folder=Path(trainer.default_root_dir),
        name=_run_name(loggers[0]) if loggers else "",
        loggers=loggers,
        plain_loggers=tuple(logger for logger in loggers if sink_name_of(logger) is None),
        writes=trainer.is_global_zero and not trainer.fast_dev_run,
    )


def _run_name(logger: Any) -> str:
    """Return what people call the run: trackers' loggers give the project, or its number.

    As far as the logger knows it: nothing is asked for, and no run is begun.
    """
    known: tuple[Any, ...] = ()
    match sink_name_of(logger):
        case "mlflow":
            tags = getattr(logger, "tags", None)
            tag = tags.get(_MLFLOW_RUN_NAME) if isinstance(tags, Mapping) else None
            known = (_own(logger, "_run_name"), tag, _own(logger, "_experiment_name"))
        case "wandb":
            known = (_own(_own(logger, "_experiment"), "name"), _own(logger, "_name"))
    names = (name for name in known if isinstance(name, str) and name)
    return next(names, None) or str(logger.name or "")


def _own(owner: Any, attribute: str) -> Any:
    return getattr(owner, attribute, None)
