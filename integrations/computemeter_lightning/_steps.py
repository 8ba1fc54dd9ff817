"""The methods of one Trainer that the meter wraps, and what it reads off the Trainer for a step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from computemeter.clock import Window
from computemeter.meter import Meter

Run = Callable[..., Any]


class TrainerSteps:
    """Wraps a Trainer's ways to run a batch; of what it adds, nothing raises.

    Args:
        meter: of this fit.
        trainer: whose steps are metered.
        pl_module: what it trains.
        after: called with what a batch returned, once its step has ended.
    """

    def __init__(
        self, meter: Meter, trainer: Any, pl_module: Any, after: Callable[[Any], object]
    ) -> None:
        self._meter, self._module, self._after = meter, pl_module, after
        self._trainer, self._fit_loop = trainer, trainer.fit_loop
        self._stepped: list[int] = []

    def metered(self, run: Run) -> Run:
        """Wrap the `run` of automatic or manual optimisation."""
        meter, without_gradients = self._meter, self.left_out("pause")(run)
        safely = meter.failures.call

        @functools.wraps(run)
        def metered(*args: Any, **kwargs: Any) -> Any:
            if safely(self._only_looks):
                return without_gradients(*args, **kwargs)
            safely(self._begin, args, kwargs)
            try:
                result = run(*args, **kwargs)
            except BaseException as error:
                safely(meter.break_off, error)
                safely(meter.ensure_off)
                raise
            safely(self._end, result)
            safely(meter.ensure_off)
            return result

        return metered

    def left_out(self, kind: Window) -> Callable[[Run], Run]:
        """Make a wrapper for a method whose time is not training."""
        safely, meter = self._meter.failures.call, self._meter

        def wrap(call: Run) -> Run:
            @functools.wraps(call)
            def left_out(*args: Any, **kwargs: Any) -> Any:
                safely(meter.leave_out, kind)
                try:
                    return call(*args, **kwargs)
                finally:
                    safely(meter.take_back)

            return left_out

        return wrap

    def noting(self, optimizer: int) -> Callable[[Run], Run]:
        """Make a wrapper for an optimizer's `step` that notes its number when it is called."""

        def wrap(step: Run) -> Run:
            @functools.wraps(step)
            def noted(*args: Any, **kwargs: Any) -> Any:
                self._stepped.append(optimizer)
                return step(*args, **kwargs)

            return noted

        return wrap

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._stepped.clear()
        # Read at every batch: a GradientAccumulationScheduler changes it between epochs.
        accumulates = self._trainer.accumulate_grad_batches != 1
        accumulating = accumulates and self._fit_loop._should_accumulate()
        self._meter.start_step(_batch_of(args, kwargs), (self._module.training, accumulating))

    def _end(self, result: Any) -> None:
        # A step without a loss has had no backward pass; which optimizers stepped is news where
        # the user calls them.
        self._meter.end_step(seen=(not result, tuple(self._stepped)))
        self._after(result)

    def _only_looks(self) -> bool:
        """Say whether the batch is run for the statistics of batch norms.

        Weight averaging ends with an epoch of forward passes through the method that trains.
        """
        return getattr(self._fit_loop, "_skip_backward", False) is True


def _batch_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Find the batch in the arguments of `run(..., kwargs)`: the last one holds it."""
    given = kwargs.get("kwargs", args[-1] if args else None)
    return given.get("batch") if isinstance(given, dict) else None
