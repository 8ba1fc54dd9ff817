"""How much of a `fit` is left, as Keras tells its callbacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from computemeter.forecast import Length

_STOPPING = {"EarlyStopping", "TerminateOnNaN"}


class FitLength:
    """The length of one fit.

    Keras does not know how many batches a generator has; after its first epoch this does.

    Args:
        params: of the fit's callbacks: "epochs", and "steps" of an epoch where they are known.
        callbacks: of the fit, among which some may stop it; none of them is kept.
    """

    def __init__(self, params: Mapping[str, Any], callbacks: Iterable[object]) -> None:
        self._epochs: int | None = params.get("epochs")
        self._steps: int | None = params.get("steps")
        self._epoch = self._began = 0
        self._over = False
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
            rounds=max(0, epochs - self._over),
            limit="epochs",
            may_stop=self._may_stop,
        )
