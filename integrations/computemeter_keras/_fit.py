"""One `fit` of one model: its train function wrapped until the end, whatever ends it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

from computemeter.meter import Meter
from computemeter.patches import Patches

Call = Callable[..., Any]

_FIT = "_computemeter_fit"


class Fit:
    """What the wrapped train function tells the meter; nothing of it raises.

    Args:
        meter: of this fit.
        model: that is trained.
        settle: waits for the steps that the host has left behind it.
        executed: called with the logs of each call of the train function.
        saving: called with where the model or its weights are going to be saved.
        saved: called with where they have been saved.
        ended: called with the status when the training has failed.

    Attributes:
        safely: calls a function; what it raises is the meter's own trouble.
        wrapper: the train function while this fit goes on.
        maker: what makes it, likewise.
        over: it has ended.
    """

    def __init__(
        self,
        meter: Meter,
        model: Any,
        *,
        settle: Callable[[], object],
        executed: Callable[[Any], object],
        saving: Callable[[object], object],
        saved: Callable[[object], object],
        ended: Callable[[str], object],
    ) -> None:
        self._meter, self._model = meter, model
        self._settle = settle
        self._executed, self._ended = executed, ended
        self._saving, self._saved = saving, saved
        self.safely = meter.failures.call
        self._patches, self._train_function = Patches(), Patches()
        self._remade = 0
        # Each fit has a History of its own, which the model points to.
        self._history = vars(model).get("history")
        self.over = False
        self.wrapper: Call | None = None
        self.maker: Call | None = None

    @staticmethod
    def of(call: Any) -> Fit | None:
        """Return the fit that wraps a train function, or what makes it, so; None: not a meter's."""
        fit = getattr(call, _FIT, None)
        # Wrapping copies attributes: somebody else's wrap around a meter's is not the meter's.
        return fit if isinstance(fit, Fit) and (call is fit.wrapper or call is fit.maker) else None

    def wrap(self, metered: Callable[[Call], Call]) -> None:
        """Wrap the train function, what makes it anew, and what is no training.

        Args:
            metered: makes the backend's train function one that tells this object of its steps.
        """
        stale = self._outermost()
        if stale is not None:  # or another meter's, in the same fit
            stale.is_over()
        self._train_function.wrap(self._model, "train_function", self._unless_over(metered))
        self._patches.wrap(self._model, "make_train_function", self._wrapping_anew(metered))
        for name in ("save", "save_weights"):
            self._patches.wrap(self._model, name, partial(self._left_out, saves=True))
        for name in ("evaluate", "predict"):
            self._patches.wrap(self._model, name, self._left_out)

    def unwrap(self) -> None:
        """Leave the model as it was found."""
        self.over = True
        self.safely(self.take_off)

    def take_off(self) -> None:
        """Take the wraps off; within another meter's, leave that to it, for it ends later."""
        outer = self._outermost()
        if outer is not None and outer is not self:
            return
        self._train_function.remove()
        self._patches.remove()
        inner = self._outermost()
        if inner is not None and inner.over:
            inner.take_off()

    def is_over(self) -> bool:
        """Say whether another fit runs by now: one that raised cannot tell its callbacks."""
        if not self.over and vars(self._model).get("history") is not self._history:
            self.safely(self._ended, "failed")
        return self.over

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """Draw the next batch; the training waits for it."""
        self.safely(self._meter.start_waiting)
        try:
            return next(batches)
        finally:
            self.safely(self._meter.end_waiting)

    def settle(self) -> None:
        """Take the time until the device is done with the steps so far for training."""
        self.safely(self._settle)
        self.safely(self._meter.settle)

    def begin(self, batch: Any, facts: Hashable = ()) -> None:
        """Begin a step."""
        self.safely(self._meter.start_step, batch, (facts, self._remade))

    def end(self) -> None:
        """End the step that has begun, if one has."""
        self.safely(self._meter.end_step)
        self.safely(self._meter.ensure_off)

    def begin_execution(self) -> None:
        """Begin a call that runs several steps."""
        self.safely(self._meter.start_execution)

    def end_execution(self, batches: Callable[[], Sequence[Any]]) -> None:
        """End it.

        Args:
            batches: finds out what it ran.
        """
        found = self.safely(batches)
        if found is None:
            self.safely(self._meter.drop_execution)
        else:
            self.safely(self._meter.end_execution, found, self._remade)

    def _outermost(self) -> Fit | None:
        """Return the fit whose wraps lie around all others'; a train function may be made anew."""
        return Fit.of(vars(self._model).get("make_train_function"))

    def _wrapping_anew(self, metered: Callable[[Call], Call]) -> Callable[[Call], Call]:
        """Make a wrapper that wraps the train function again when there is another.

        A callback that freezes layers has it made anew, in the middle of a fit.
        """

        def wrap(call: Call) -> Call:
            @functools.wraps(call)
            def make_train_function(*args: Any, **kwargs: Any) -> Any:
                before = vars(self._model).get("train_function")
                result = call(*args, **kwargs)
                made = vars(self._model).get("train_function")
                if made is not before and made is not None and not self.is_over():
                    self.safely(self._wrap_anew, metered)
                return result

            setattr(make_train_function, _FIT, self)
            self.maker = make_train_function
            return make_train_function

        return wrap

    def _wrap_anew(self, metered: Callable[[Call], Call]) -> None:
        # What it does may be another amount of work, for batches of the same shapes.
        self._remade += 1
        self._train_function.remove()  # forgets the one that is gone
        metering, self._meter.metering = self._meter.metering, False
        self._train_function.wrap(self._model, "train_function", self._unless_over(metered))
        self._meter.metering = metering

    def _unless_over(self, metered: Callable[[Call], Call]) -> Callable[[Call], Call]:
        def wrap(call: Call) -> Call:
            watched = metered(call)

            @functools.wraps(call)
            def train_function(*args: Any) -> Any:
                if self.is_over():
                    return call(*args)
                try:
                    result = watched(*args)
                except StopIteration:  # the data has ended, and the epoch with it
                    self.safely(self._meter.break_off, StopIteration())
                    raise
                except BaseException as error:
                    self._fail(error)
                    raise
                # On JAX the model's state comes with the logs.
                logs = result[0] if isinstance(result, tuple) else result
                self.safely(self._executed, logs)
                return result

            setattr(train_function, _FIT, self)
            self.wrapper = train_function
            return train_function

        return wrap

    def _fail(self, error: BaseException) -> None:
        self.safely(self._meter.break_off, error)
        self.safely(self._meter.ensure_off)
        if type(error).__name__ != "OutOfRangeError":  # TensorFlow's way to end the data
            interrupted = isinstance(error, KeyboardInterrupt)
            self.safely(self._ended, "interrupted" if interrupted else "failed")

    def _left_out(self, call: Call, *, saves: bool = False) -> Call:
        @functools.wraps(call)
        def left_out(*args: Any, **kwargs: Any) -> Any:
            self.settle()
            self.safely(self._meter.leave_out, "checkpoint" if saves else "validation")
            path = kwargs.get("filepath", args[0] if args else None)
            try:
                if saves:
                    self.safely(self._saving, path)
                result = call(*args, **kwargs)
                if saves:
                    self.safely(self._saved, path)
            finally:
                self.safely(self._meter.take_back)
            return result

        return left_out


def now() -> float:
    """Read the clock that the device's clock runs by."""
    return time.perf_counter()
