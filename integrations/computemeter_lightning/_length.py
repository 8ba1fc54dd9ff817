"""How much of a fit is left, as the Trainer's own limits have it.

Read at the end of a step, before the validation that may follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, isfinite
from typing import Any
from weakref import ref

from computemeter.forecast import Length

_NO_LENGTH = "the training data does not say how many batches it has"
_NO_END = "nothing ends this fit by itself (max_epochs=-1, max_steps=-1)"


def asking(trainer: Any) -> Callable[[int], Length | None]:
    """Return what asks a Trainer, and keeps none alive."""
    alive = ref(trainer)

    def ask(_: int) -> Length | None:
        found = alive()
        return None if found is None else length_of(found)

    return ask


def bar_of(trainer: Any) -> Callable[[], bool]:
    """Return what says whether tqdm's bar stands in the line; it keeps no Trainer alive."""
    alive = ref(trainer)

    def is_open() -> bool:
        # The public property raises where there is no bar.
        bar = getattr(getattr(alive(), "progress_bar_callback", None), "_train_progress_bar", None)
        return bar is not None and not bar.disable

    return is_open


def length_of(trainer: Any) -> Length | None:
    """Say how much of a fit is left; None where it has been told to stop."""
    if trainer.should_stop and trainer.fit_loop._can_stop_early:
        return None
    limits = {"max_steps": _by_steps(trainer), "max_epochs": _by_epochs(trainer)}
    known = {name: steps for name, steps in limits.items() if steps is not None}
    limit = min(known, key=lambda name: known[name], default="")
    steps, seconds = known.get(limit), _by_time(trainer)
    ended = steps is not None or seconds is not None
    return Length(
        steps=steps,
        seconds=seconds,
        rounds=None if steps is None else _rounds(trainer, steps),
        validates=bool(trainer.enable_validation),
        limit=limit,
        may_stop=_may_stop(trainer),
        unknown="" if ended else _NO_LENGTH if _may_run_out(trainer) else _NO_END,
    )


def _by_epochs(trainer: Any) -> int | None:
    """Return the batches until the last epoch ends."""
    batches, epochs = trainer.num_training_batches, trainer.max_epochs
    if not isfinite(batches) or epochs is None or epochs < 0:
        return None
    return max(0, int(epochs) * int(batches) - _position(trainer))


def _by_steps(trainer: Any) -> int | None:
    """Return the batches until `max_steps` optimizer steps have been made."""
    if trainer.max_steps is None or trainer.max_steps < 0:
        return None
    progress = trainer.fit_loop.epoch_loop.batch_progress
    stepped, batches = int(trainer.global_step), float(trainer.num_training_batches)
    left = max(0, int(trainer.max_steps) - stepped)
    if not trainer.lightning_module.automatic_optimization:
        # The user steps: as often to a batch as so far.
        return ceil(left * int(progress.total.ready) / stepped) if stepped else None
    group = int(trainer.accumulate_grad_batches)
    if not isfinite(batches):
        return left * group
    # An epoch's last step is made with what is left of its batches.
    done = int(progress.current.ready)
    epochs, steps = divmod(ceil(done / group) + left, ceil(batches / group))
    return epochs * int(batches) + steps * group - done


def _by_time(trainer: Any) -> float | None:
    """Return the seconds that `max_time`, which is a callback, still allows."""
    timers = [each for each in trainer.callbacks if _is_timer(each)]
    left = [each.time_remaining() for each in timers]
    return min((float(seconds) for seconds in left if seconds is not None), default=None)


def _rounds(trainer: Any, steps: int) -> int | None:
    """Return how many validations, or without any how many ends of epochs, are within the steps.

    The one that may follow the batch that has just run is to come.
    """
    progress, batches = trainer.fit_loop.epoch_loop.batch_progress, trainer.num_training_batches
    every, epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if not trainer.enable_validation:
        if not trainer.checkpoint_callbacks:
            return 0
        every, epochs = batches, 1
    if every is None or not isfinite(min(every, batches)):
        return None
    if epochs is None:
        return _multiples(progress.total.ready, steps, every)
    if not isfinite(batches):
        # As far as anybody knows, this epoch is the last.
        turn = (trainer.current_epoch + 1) % epochs == 0
        return _multiples(progress.current.ready, steps, every) if turn else None
    every = min(every, batches)  # data without a length may have been given one by a limit
    at = _position(trainer)

    def until(batch: int) -> int:
        epoch, within = divmod(batch, int(batches))
        validates = (epoch + 1) % epochs == 0
        return int(epoch // epochs * (batches // every) + (within // every if validates else 0))

    return until(at + steps) - until(at - 1)


def _multiples(done: int, steps: int, every: float) -> int:
    return int((done + steps) // every - (done - 1) // every)


def _position(trainer: Any) -> int:
    """Return the batches since the first epoch began, had all epochs this one's number of them."""
    loop = trainer.fit_loop
    before = loop.epoch_progress.current.processed * int(trainer.num_training_batches)
    return int(before + loop.epoch_loop.batch_progress.current.ready)


def _may_stop(trainer: Any) -> tuple[str, ...]:
    names = [type(each).__name__ for each in trainer.early_stopping_callbacks]
    return (*dict.fromkeys(names), *(["the end of the data"] if _may_run_out(trainer) else []))


def _may_run_out(trainer: Any) -> bool:
    endless = trainer.max_epochs is None or trainer.max_epochs < 0
    return not endless and not isfinite(trainer.num_training_batches)


def _is_timer(callback: Any) -> bool:
    """Go by the name: the class exists in both of Lightning's namespaces."""
    named = any(kind.__name__ == "Timer" for kind in type(callback).__mro__)
    return named and hasattr(callback, "time_remaining")
