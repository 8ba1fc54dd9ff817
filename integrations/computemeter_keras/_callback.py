"""The callback: it collects from Keras's hooks and hands on; all arithmetic is the core's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Unpack
from weakref import finalize, ref

import keras

from computemeter.carried import Carried
from computemeter.failures import Failures, guarded
from computemeter.journal import Place
from computemeter.meter import Meter, next_meter
from computemeter.options import Options, OptionValues, check_count
from computemeter.ranks import torch_ranks
from computemeter.records import Snapshot, Summary
from computemeter_keras._backends import backend_of
from computemeter_keras._fit import Fit
from computemeter_keras._length import FitLength, validation_freq_of
from computemeter_keras._resume import ResumeFile

LogFreq = Literal["epoch", "batch"] | int

_LOG_FREQS = '"epoch", "batch" and a whole number of batches from 1 on'
_NOT_KERAS_3 = (
    "this model is {}'s and not Keras 3's: it trains on, unmetered; "
    "computemeter.keras takes models of the package keras, version 3"
)
_NO_TOTALS = (
    "the backup does not say what compute went into it: this run's totals are not known; with "
    "base_flops= what came before is the base of a new run"
)
_FRAMES = 8
"""How far up a hook's callers its list of callbacks is looked for."""


class ComputeMeter(keras.callbacks.Callback):
    """Measures how much compute a `Model.fit` uses, by two methods, and logs it.

        meter = ComputeMeter()
        model.fit(x, y, callbacks=[meter])
        print(meter.summary())

    Works on the JAX, TensorFlow and PyTorch backends; logs to the active MLflow and W&B runs. With
    `BackupAndRestore` among the callbacks, a fit that was interrupted and is resumed carries the
    run's totals on. For a loop over `train_on_batch` see `training`.

    Args:
        log_freq: "epoch" (the step in the trackers is then the epoch), "batch", or a number of
            batches (the step is then the number of batches trained on).
        log_to_history: also add the values to the epoch's `logs`, where `History` keeps them. Other
            callbacks see them there too: MLflow's autologging will log them a second time.
        options: see `computemeter.options.Options`.

    Raises:
        ValueError: an option's value is not accepted.
        TypeError: an option does not exist.
    """

    def __init__(
        self,
        *,
        log_freq: LogFreq = "epoch",
        log_to_history: bool = False,
        **options: Unpack[OptionValues],
    ) -> None:
        super().__init__()
        checked = Options.from_user(options, also=("log_freq", "log_to_history"))
        self._every = _batches_between(log_freq)
        if log_to_history not in (True, False):
            raise ValueError(f"log_to_history={log_to_history!r}: accepted are True and False")
        self._log_to_history = log_to_history
        # Each fit has a meter of its own: what is read from outside is read once, now.
        self._options: Any = checked.again(options)
        self.failures = Failures()
        self._meter = Meter(**self._options)
        self._fit: Fit | None = None
        self._length: FitLength | None = None
        self._resume = ResumeFile(None)
        self._trained: ref[Any] | None = None
        self._restored: tuple[Carried, int] | None = None
        self._snapshot: Snapshot | None = None
        self._logs: Any = None
        self._steps_before = 0
        self._epoch = 0

    def summary(self) -> Summary:
        """Return the compute of the last fit so far, by both methods."""
        return self._meter.summary()

    def breakdown(self) -> dict[str, int]:
        """Return the model FLOPs of the last counted step by module; of PyTorch's backend only."""
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
        if self._fit is not None:
            self._meter.add_flops(flops)
        elif not self._meter.off:
            self.failures.warn("add_flops while no fit is metered: these FLOPs are in no total")

    def state_dict(self) -> dict[str, Any]:
        """Return the run's totals, for a checkpoint of your own."""
        return self._state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next fit go on from the totals of an earlier one.

        Raises:
            ValueError: the state was written by a newer version, or is none.
        """
        self._restored = Carried.from_state(state), int(state.get("steps", 0))

    @contextmanager
    def training(self, model: Any) -> Iterator[None]:
        """Meter a loop over `model.train_on_batch`.

            with meter.training(model):
                for x, y in batches:
                    model.train_on_batch(x, y)

        The end of the block is the end of the training, as that of a `fit` is.
        """
        if self._meter.off:
            yield
            return
        self.failures.call(model.make_train_function)
        self.set_model(model)
        self.on_train_begin()
        status = "failed"
        try:
            yield
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self._end(status)
            self.failures.call(self._meter.print_summary)

    # Keras's hooks. None of them raises, and there is none for a batch: with one, Keras would wait
    # for every step on JAX and PyTorch.

    @guarded
    def on_train_begin(self, logs: Any = None) -> None:
        """Begin a segment: a fresh meter, the model's train function wrapped."""
        if self._meter.off:
            return
        self._end("failed")  # a fit that raised has not said that it ended
        model, callbacks = self._model, _callback_list(self)
        same = self._trained is not None and self._trained() is model
        if same and self._restored is None:
            self.load_state_dict(self._state())
        carried, self._steps_before = self._restored or (None, 0)
        self._epoch = self._epoch if same else 0
        self._restored, self._snapshot, self._logs = None, None, None
        self._trained = ref(model)
        self._meter = next_meter(self._meter, self._options, self.failures, same=same)
        try:
            self._begin(model, callbacks, carried)
        except Exception:
            self._meter.close("failed")
            raise

    @guarded
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch; of a model that is fitted again they go on, and do not begin anew."""
        self._epoch = max(self._epoch, epoch)
        if self._length is not None:
            self._length.begin_epoch(epoch, self._meter.steps)

    @guarded
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log, if that is done by epoch; the device has finished the epoch's steps."""
        if self._fit is None:
            return
        self._fit.settle()
        if self._length is not None:
            self._length.end_epoch(self._meter.steps)
        if self._every is None:
            self.failures.call(self._log, self._epoch, logs)
        self._epoch += 1
        if self._log_to_history and logs is not None and self._snapshot is not None:
            metrics = self._snapshot.metrics
            logs.update({name: metrics[name] for name in metrics if name != "compute/loss"})
        self._keep(self._resume.write)

    @guarded
    def on_train_end(self, logs: Any = None) -> None:
        """End the segment and print the table."""
        if self._fit is not None:
            self._end("finished")
            self._meter.print_summary()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files and threads behind, so that the callback can be copied."""
        bound = ("_meter", "_fit", "_resume", "_trained", "_logs", "_model")
        return {**self.__dict__, **dict.fromkeys(bound)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with a meter of its own."""
        self.__dict__.update(state)
        self._meter, self._resume = Meter(**self._options), ResumeFile(None)

    def _begin(self, model: Any, callbacks: Any, carried: Carried | None) -> None:
        if not isinstance(model, keras.Model):
            self.failures.warn(_NOT_KERAS_3.format(type(model).__module__.partition(".")[0]))
            return
        backend = backend_of(model, self.failures.warn)
        ranks = backend.ranks or torch_ranks()
        writes = ranks.rank == 0
        self._resume = ResumeFile(_backup_among(callbacks), writes=writes)
        resumed = self.failures.call(self._resume.read)
        if resumed is None and carried is None and self._resume.restores:
            carried = self._after_unmetered_work()
        if resumed:
            self._steps_before, self._epoch = self._resume.steps, 0
        self._meter.attach(
            backend.counter,
            Place(folder=Path.cwd(), name=model.name, writes=writes),
            ranks=ranks,
            carried=resumed or carried,
            device_clock=backend.device_clock,
        )
        self._length = None
        if callbacks is not None:  # or it is a loop of the user's
            every = self.failures.call(validation_freq_of, callbacks)
            self._length = FitLength(self.params or {}, callbacks.callbacks, every)
            self._meter.outlook.length = self._length.left
            self._meter.outlook.bar_is_open = partial(_bar_is_open, ref(callbacks))
        fit = Fit(
            self._meter,
            model,
            settle=backend.settle,
            executed=self._after_call,
            saving=self._saving,
            saved=self._saved,
            ended=self._end,
        )
        self._fit = fit
        fit.wrap(partial(backend.metered, fit=fit))
        self._meter.metering = True
        self.failures.call(self._keep, self._resume.begin)
        if callbacks is not None:
            # A fit that raises tells nobody, but its list of callbacks goes with it.
            finalize(callbacks, _abandon, ref(self), ref(fit))

    def _after_unmetered_work(self) -> Carried | None:
        """Hand on that the backup's compute is not known, unless the user says what it was."""
        if self._meter.options.base is not None:
            return None
        self.failures.warn(_NO_TOTALS)
        return Carried.unknown()

    def _end(self, status: str) -> None:
        fit, self._fit = self._fit, None
        if fit is None:
            return
        fit.unwrap()
        step = self._epoch if self._every is None else self._steps_so_far()
        self.failures.call(self._log_rest, step)
        # It may have been taken away since.
        checkpoints = self.failures.call(_local_folder, self._resume.checkpoints)
        self.failures.call(self._meter.close, status, step, checkpoints)
        self.failures.call(self._keep, partial(self._resume.end, finished=status == "finished"))

    def _after_call(self, logs: Any) -> None:
        """Log, if that is done by batches; one call may have been several of them."""
        self._logs = logs
        if self._every is None:
            return
        if self._meter.steps // self._every > self._steps_logged() // self._every:
            self._log(self._steps_so_far(), logs)

    def _log_rest(self, step: int) -> None:
        """Log what came since the last logging step."""
        if self._meter.steps > self._steps_logged():
            self._log(step, self._logs)

    def _log(self, step: int, logs: Any) -> None:
        loss = logs.get("loss") if isinstance(logs, Mapping) else None
        self._snapshot = self._meter.log(step, None if loss is None else float(loss))

    def _keep(self, write: Callable[[dict[str, Any]], object]) -> None:
        write(self._state())

    def _saving(self, path: object) -> None:
        if self._resume.is_backup(path):
            self._keep(self._resume.backing_up)

    def _saved(self, path: object) -> None:
        if self._resume.is_backup(path):
            self._keep(self._resume.backed_up)
        else:
            self._resume.checkpoints = _local_folder(path) or self._resume.checkpoints

    def _steps_logged(self) -> int:
        return 0 if self._snapshot is None else self._snapshot.totals.steps

    def _steps_so_far(self) -> int:
        return self._steps_before + self._meter.steps

    def _state(self) -> dict[str, Any]:
        return {**self._meter.state_dict(), "steps": self._steps_so_far()}

    # What a CallbackList of Keras 2 asks; without an answer it would raise, and say nothing useful.

    def _implements_train_batch_hooks(self) -> bool:
        return False

    _implements_test_batch_hooks = _implements_train_batch_hooks
    _implements_predict_batch_hooks = _implements_train_batch_hooks


def _batches_between(log_freq: Any) -> int | None:
    """Return how many batches lie between two logging steps; None: an epoch."""
    if log_freq == "epoch":
        return None
    if log_freq == "batch":
        return 1
    try:
        check_count("log_freq", log_freq)
    except ValueError:
        raise ValueError(f"log_freq={log_freq!r}: accepted are {_LOG_FREQS}") from None
    return int(log_freq)


def _local_folder(path: object) -> Path | None:
    """Return the folder that a model was saved in, or as; None where it is none of this host's."""
    if not isinstance(path, (str, os.PathLike)):
        return None
    saved = Path(path).absolute()
    if saved.is_dir():
        return saved
    return saved.parent if saved.exists() else None


def _callback_list(callback: object) -> Any:
    """Find the list that called this callback's hook: Keras passes it to nobody.

    It has the other callbacks, and it goes when the fit does.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to one's caller
    for _ in range(_FRAMES):
        if frame is None:
            return None
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and callback in caller.callbacks:
            return caller
        frame = frame.f_back
    return None


def _bar_is_open(callbacks: ref[Any]) -> bool:
    """Say whether Keras's bar, which goes on in its line, has been begun in this epoch."""
    among = getattr(callbacks(), "callbacks", ())
    bars = [each for each in among if isinstance(each, keras.callbacks.ProgbarLogger)]
    return any(
        each.verbose == 1 and getattr(each.progbar, "_prev_total_width", 0) > 0 for each in bars
    )


def _backup_among(callbacks: Any) -> Any:
    kind = keras.callbacks.BackupAndRestore
    among = () if callbacks is None else callbacks.callbacks
    return next((each for each in among if isinstance(each, kind)), None)


def _abandon(meter: ref[ComputeMeter], fit: ref[Fit]) -> None:
    """End a fit whose callbacks have gone without hearing of an end."""
    alive = meter()
    if alive is not None and alive._fit is not None and alive._fit is fit():  # noqa: SLF001
        alive.failures.call(alive._end, "failed")  # noqa: SLF001
