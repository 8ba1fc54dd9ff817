"""Values that ride in the rows that others log, for rows of our own would harm a user's.

Any call of `run.log` from beside the training changes what the user logs: one that commits moves
W&B's step, so that a later `log(..., step=epoch)` is dropped. One with `commit=False` joins
whatever row is open. With `step=` that is the user's last row, which then gets our time; else it is
a row of nobody's, which at the end of the run becomes one of its own and moves the step at which a
resumed run goes on. So nothing is logged at all: the newest values wait, and go along with the
next call. A WandbLogger's rows are known by their axis; it logs one right after the values of the
same step were handed over, so that they are in it.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from computemeter.patches import Patches

# What every `run.log` and `wandb.log` goes through. A private name: without it there are no rows.
_EVERY_ROW = "_partial_history_callback"


class Passenger:
    """The newest values on their way into the next row; each goes into one row at most.

    Args:
        run: an open `wandb.Run`.
        axis: what a row that is to take them has in it; None for any row.
    """

    def __init__(self, run: Any, *, axis: str | None = None) -> None:
        self._run, self._axis = run, axis
        # Nobody may log rows with the axis: any row is better than none.
        self._choosy = axis is not None
        self._waiting: deque[Mapping[str, float]] = deque(maxlen=1)
        self._patches: Patches | None = None
        self._pid = os.getpid()

    def wait(self, values: Mapping[str, float]) -> None:
        """Have these values go along with the next row, in place of older ones."""
        if self._patches is None:
            self._patches = Patches()
            with suppress(AttributeError, TypeError):  # a W&B that does it in another way
                self._patches.wrap(self._run, _EVERY_ROW, self._with_passenger)
        if self._waiting:
            self._choosy = False
        self._waiting.append(values)

    def leave(self) -> None:
        """Go nowhere any more; the run is as it was."""
        if self._patches is not None:
            self._patches.remove()
            self._patches = None
        self._waiting.clear()

    def _with_passenger(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def log(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], dict):
                args = (self._joined(args[0]), *args[1:])
            return call(*args, **kwargs)

        return log

    def _joined(self, row: dict[str, Any]) -> dict[str, Any]:
        if os.getpid() != self._pid:  # a fork has a copy of what waits
            return row
        if self._axis in row:
            self._choosy = True
        elif self._choosy:
            return row
        try:
            return {**self._waiting.popleft(), **row}
        except IndexError:
            return row
