"""The meter, as a user has it around a loop; frameworks' callbacks have one and drive it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from computemeter.carried import Carried
from computemeter.clock import Window
from computemeter.failures import Failures
from computemeter.options import Options, OptionValues, check_count
from computemeter.randomness import same_random_numbers
from computemeter.records import Count, Summary
from computemeter.results import summarise
from computemeter.run_meter import RunMeter
from computemeter.switch import nothing_measured


class Meter(RunMeter):
    """Measures the compute of a training run, in any PyTorch loop.

    Examples:
        >>> with Meter(ledger=None, trackers=None, verbose=0) as meter:
        ...     for batch in []:
        ...         with meter.step(batch):
        ...             pass  # forward, backward, optimizer step
        >>> meter.summary().steps
        0

    A failure inside the meter never reaches the training: it is warned of once and kept in the
    summary's `warnings`.

    In a `torch.distributed` run every process has a meter, made in the same order as on the others.
    Rank 0 adds up what all of them counted and writes for all; close the meters before
    `destroy_process_group`, for until then the ranks can tell each other.

    Args:
        log_every: steps between two records in the ledger and the trackers.
        total_steps: that this launch will run, where you know; the time left is told by it.
        options: see `computemeter.options.Options`.

    Raises:
        ValueError: an option's value is not accepted.
        TypeError: an option does not exist.
    """

    def __init__(
        self,
        *,
        log_every: int = 50,
        total_steps: int | None = None,
        **options: Unpack[OptionValues],
    ) -> None:
        check_count("log_every", log_every)
        if total_steps is not None:
            check_count("total_steps", total_steps)
        checked = Options.from_user(options, also=("log_every", "total_steps"))
        super().__init__(checked, total_steps)
        self._log_every = None if self.off else log_every

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        status = "interrupted" if interrupted else "finished" if kind is None else "failed"
        self.failures.call(self.close, status)
        self.failures.call(self.print_summary)

    @contextmanager
    def step(self, batch: Any = None, facts: Hashable = ()) -> Iterator[None]:
        """Meter one training step: forward, backward and, where there is one, optimizer step.

        Args:
            batch: the step's input, looked at for its shapes; without it, steps of different
                shapes are told apart only by counting some of them again.
            facts: what else decides how much work the step is.
        """
        safely = self.failures.call
        safely(self.start_step, batch, facts)
        try:
            yield
        except BaseException as error:
            safely(self.break_off, error)
            safely(self.ensure_off)
            raise
        safely(self.end_step)
        safely(self.ensure_off)
        if self._log_every and self._steps % self._log_every == 0:
            safely(self.log, self._steps)

    @contextmanager
    def pause(self, kind: Window = "pause") -> Iterator[None]:
        """Leave the time of a block out: it is no training.

        Args:
            kind: "validation", "checkpoint" or "pause": what the block's time is booked as.
        """
        self.failures.call(self.leave_out, kind)
        try:
            yield
        finally:
            self.failures.call(self.take_back)

    def validation(self) -> Any:
        """Leave validation out: neither its time nor its operations are training."""
        return self.pause("validation")

    def add_flops(self, flops: int) -> None:
        """Add operations that the meter cannot see, such as those of a kernel of your own.

        Args:
            flops: of the whole run, all processes; counted as model and hardware FLOPs.

        Raises:
            ValueError: `flops` is no whole number, or negative.
        """
        check_count("flops", flops, least=0)
        self._added_flops += int(flops)

    @staticmethod
    def count(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Count:
        """Count the operations of one call.

        Args:
            function: what is called.
            *args: its arguments.
            **kwargs: its arguments by name.

        Examples:
            >>> import torch
            >>> Meter.count(torch.mm, torch.ones(2, 3), torch.ones(3, 4)).model_flops  # 2 * 2*3*4
            48
        """
        from computemeter.counters import require_torch

        require_torch("Meter.count")
        from computemeter.counters.torch_mode import count

        return count(function, *args, **kwargs)

    def breakdown(self, model: Any = None) -> dict[str, int]:
        """Return the model FLOPs of the last counted step by module, largest first.

        For finding out where a count comes from. Work without a weight (attention between its
        projections) goes to the module around it; what belongs to no known parameter to
        "(unknown)".

        Args:
            model: names the modules; the one given to the meter if left out.
        """
        return {} if self._counter is None else dict(self._counter.breakdown(model))

    @property
    def steps(self) -> int:
        """Training steps so far."""
        return self._steps

    def summary(self) -> Summary:
        """Return this segment's compute so far, by both methods.

        Of many processes, rank 0 has the sum over all, the others as of their last logging step
        until they end. The other ranks have their own part alone, with one device, and say so in
        `warnings`.
        """
        reading = self._read()
        projection = self.failures.call(self.outlook.against, reading, ended=self._closed)
        summary = summarise(reading, self.failures.call(self._book.formula), projection)
        return nothing_measured(summary) if self.off else summary

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on from here: plain ints, floats and texts.

        Of many processes, save what rank 0 returns, but call this on all of them, so that rank 0
        knows how far the others are.
        """
        self.failures.call(self._exchange)
        return (self.failures.call(self._handed_on) or self._not_known()).to_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of an earlier segment.

        Raises:
            ValueError: the state was written by a newer version, or is none.
        """
        self._carried = Carried.from_state(state)

    @same_random_numbers()
    def close(self, status: str, step: int | None = None, checkpoints: Path | None = None) -> None:
        """End the segment: record what came since the last logging step, close the ledger.

        Args:
            status: "finished", "failed" or "interrupted".
            step: the tracker's step of the last training step.
            checkpoints: the folder where the run's checkpoints lie, for its compute receipt; None
                puts that beside the ledger.
        """
        if self._closed:
            return
        self._closed = True
        self.failures.call(self._drop_step)
        self._clock.end()
        self.ensure_off()
        self.failures.call(self._open)
        self.failures.call(self._energy.sample, last=True)
        self.failures.call(self._part, status)
        self.failures.call(self._record_last, self._steps if step is None else step)
        self.failures.call(self._device_clock.close)
        self.failures.call(self._activity.close)
        self.failures.call(self._energy.close)
        if self._journal is None:
            return
        reading = self.failures.call(self._read)
        summary = self.failures.call(self.summary)
        self.failures.call(self._journal.close, status, self._last, summary, reading, checkpoints)

    @same_random_numbers()
    def print_summary(self, *, below: bool = False) -> None:
        """Print the table at the end, unless `verbose=0`.

        Args:
            below: a progress bar may stand in the line.
        """
        if self.options.verbose and self._place.writes:
            from computemeter.table import print_summary

            print_summary(self.summary(), below=below)


def next_meter(last: Meter, options: Any, failures: Failures, *, same: bool) -> Meter:
    """Make the meter of a callback's next fit.

    Until the callback says `metering = True` it measures nothing: a zero would say that it did.

    Args:
        last: the meter of the fit before.
        options: of the meter, see `Options.again`.
        failures: of the callback, which outlives its fits.
        same: the same training goes on, and has been told of its verdict.
    """
    meter = Meter(**options)
    meter.failures, meter.metering = failures, False
    if same:
        meter.telling = last.telling
    return meter
