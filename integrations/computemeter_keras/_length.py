"""How much of a `fit` is left, as Keras tells its callbacks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

from computemeter.forecast import Length

_STOPPING = {"EarlyStopping", "TerminateOnNaN"}


class FitLength:
    """The length of one fit.

    Keras does not know how many batches a generator has; after its first epoch this does.

    Args:
        params: of the fit's callbacks: "epochs", and "steps" of an epoch where they are known.
        callbacks: of the fit, among which some may stop it or save; none of them is kept.
        validation_freq: see `validation_freq_of`.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        callbacks: Iterable[object],
        validation_freq: int | Sequence[int] | None = None,
    ) -> None:
        self._epochs: int | None = params.get("epochs")
        self._steps: int | None = params.get("steps")
        self._epoch = self._began = 0
        self._over = False
        callbacks = list(callbacks)
        # Those that save the model have it: BackupAndRestore, ModelCheckpoint.
        self._saves = any(getattr(each, "save_freq", None) == "epoch" for each in callbacks)
        self._validation_freq = validation_freq
        kinds = [kind.__name__ for each in callbacks for kind in type(each).__mro__]
        self._may_stop = tuple(dict.fromkeys(name for name in kinds if name in _STOPPING))

    def begin_epoch(self, epoch: int, steps: int) -> None:
        """Note that an epoch begins, numbered from 0 in the fit, after that many steps."""
        self._epoch, self._began, self._over = epoch, steps, False

    def end_epoch(self, steps: int) -> None:
        """Note that it has ended, validation too: its steps are what the others will have."""
        self._over = True
        self._steps = (steps - self._began) or self._steps

    def left(self, steps: int) -> Length | None:
        """Say how much is left after that many steps; None where Keras has not said."""
        if self._epochs is None:
            return None
        within, each = steps - self._began, self._steps
        epochs = max(0, self._epochs - self._epoch)
        return Length(
            steps=None if each is None else max(0, epochs * each - within),
            rounds=self._rounds(self._epoch + self._over, self._epochs),
            validates=bool(self._validation_freq),
            limit="epochs",
            may_stop=self._may_stop,
        )

    def _rounds(self, over: int, epochs: int) -> int:
        """Return how many of the epochs that are not over end with what takes time."""
        every = self._validation_freq
        if self._saves or every is None:
            every = 1
        if isinstance(every, int):
            return max(0, epochs // every - over // every) if every else 0
        return sum(over < epoch <= epochs for epoch in set(every))


def validation_freq_of(callbacks: object) -> int | Sequence[int] | None:
    """Return after how many epochs a fit validates, or after which, from 1 on; 0 where it does not.

    Args:
        callbacks: the list that has called a hook, from within which this is called: what called
            that is `Model.fit`, and None is returned where it is something else.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - Keras tells its callbacks nothing of it
    while frame is not None and frame.f_locals.get("self") is not callbacks:
        frame = frame.f_back
    arguments = {} if frame is None or frame.f_back is None else frame.f_back.f_locals
    if "validation_data" not in arguments:
        return None
    if arguments["validation_data"] is None and not arguments.get("validation_split"):
        return 0
    every = arguments.get("validation_freq")
    return every if isinstance(every, (int, list)) else None
