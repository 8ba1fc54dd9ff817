"""One `fit` of one model: its train function wrapped until the end, whatever ends it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from computemeter.meter import Meter
from computemeter.patches import Patches

Call = Callable[..., Any]


class Fit:
    """What the wrapped train function tells the meter; nothing of it raises.

    Args:
        meter: of this fit.
        model: that is trained.
        executed: called with the logs of each call of the train function.
        saved: called with where the model or its weights have been saved.
        ended: called with the status when the training has failed.
    """

    def __init__(
        self,
        meter: Meter,
        model: Any,
        executed: Callable[[Any], object],
        saved: Callable[[object], object],
        ended: Callable[[str], object],
    ) -> None:
        self._meter, self._model = meter, model
        self._executed, self._saved, self._ended = executed, saved, ended
        self._safely = meter.failures.call
        self._patches = Patches()
        # Each fit has a History of its own, which the model points to.
        self._history = vars(model).get("history")
        self._over = False

    def wrap(self, metered: Callable[[Call], Call]) -> None:
        """Wrap the train function, and what saves the model: that is no training.

        Args:
            metered: makes the backend's train function one that tells this object of its steps.
        """
        self._patches.wrap(self._model, "train_function", self._unless_over(metered))
        for name in ("save", "save_weights"):
            self._patches.wrap(self._model, name, self._left_out)

    def unwrap(self) -> None:
        """Leave the model as it was found."""
        self._over = True
        self._safely(self._patches.remove)

    def begin(self, batch: Any, facts: Hashable = ()) -> None:
        """Begin a step."""
        self._safely(self._meter.start_step, batch, facts)

    def end(self) -> None:
        """End the step that has begun, if one has."""
        self._safely(self._meter.end_step)
        self._meter.ensure_off()

    def begin_execution(self) -> None:
        """Begin a call that runs several steps."""
        self._safely(self._meter.start_execution)

    def end_execution(self, batches: Sequence[Any]) -> None:
        """End it, knowing what it ran."""
        self._safely(self._meter.end_execution, batches)

    def _unless_over(self, metered: Callable[[Call], Call]) -> Callable[[Call], Call]:
        def wrap(call: Call) -> Call:
            watched = metered(call)

            @functools.wraps(call)
            def train_function(*args: Any) -> Any:
                if self._is_over():
                    return call(*args)
                try:
                    result = watched(*args)
                except StopIteration:  # the data has ended, and the epoch with it
                    self._safely(self._meter.break_off, StopIteration())
                    raise
                except BaseException as error:
                    self._fail(error)
                    raise
                # On JAX the model's state comes with the logs.
                logs = result[0] if isinstance(result, tuple) else result
                self._safely(self._executed, logs)
                return result

            return train_function

        return wrap

    def _is_over(self) -> bool:
        """Say whether another fit runs by now: one that raised cannot tell its callbacks."""
        if not self._over and vars(self._model).get("history") is not self._history:
            self._safely(self._ended, "failed")
        return self._over

    def _fail(self, error: BaseException) -> None:
        self._safely(self._meter.break_off, error)
        self._meter.ensure_off()
        if type(error).__name__ != "OutOfRangeError":  # TensorFlow's way to end the data
            interrupted = isinstance(error, KeyboardInterrupt)
            self._safely(self._ended, "interrupted" if interrupted else "failed")

    def _left_out(self, call: Call) -> Call:
        @functools.wraps(call)
        def left_out(*args: Any, **kwargs: Any) -> Any:
            self._safely(self._meter.leave_out)
            try:
                result = call(*args, **kwargs)
            finally:
                self._safely(self._meter.take_back)
            self._safely(self._saved, kwargs.get("filepath", args[0] if args else None))
            return result

        return left_out


def now() -> float:
    """Read the clock that the device's clock runs by."""
    return time.perf_counter()
