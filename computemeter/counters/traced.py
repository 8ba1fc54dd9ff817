"""Counting steps by their program (a jaxpr, a graph) where that cannot be done as they run."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from computemeter.counters.signature import signature
from computemeter.families import StepKey
from computemeter.records import Count, Device
from computemeter.sinks import describe


class TracedCounter:
    """Counts a step by tracing it once more, for its shapes alone; nothing is computed.

    The same shapes always give the same program, so no step is counted again.

    Args:
        trace: takes a step's batch and returns what its program does.
        device: describes where the model trains; None before that is known.
        parameters: returns the numbers of parameters and of those trained; None before they are
            known.
        warn: takes one line when tracing fails.
        dtype: that the model computes in, for method 2 where tracing fails.

    Attributes:
        problem: why nothing can be counted; None while all is well.
    """

    recounts = False

    def __init__(
        self,
        trace: Callable[[Any], Count],
        device: Callable[[], Device | None],
        parameters: Callable[[], tuple[int, int] | None],
        warn: Callable[[str], None],
        dtype: str | None = None,
    ) -> None:
        self.device, self.parameter_counts = device, parameters
        self.dtype = dtype
        self.problem: str | None = None
        self._trace, self._warn = trace, warn
        self._batch: Any = None
        self._counting = False

    def key(self, batch: Any, facts: Hashable) -> StepKey:
        """Name the step by what decides how much work it is."""
        return StepKey(signature(batch), facts)

    def complete(self, key: StepKey) -> StepKey:
        """Return the key: a trace shows nothing that decides the work and was not known."""
        return key

    def start(self, batch: Any) -> None:
        """Remember the batch of the step to count."""
        self._batch, self._counting = batch, self.problem is None

    def stop(self) -> Count | None:
        """Trace the step that has run; None where that cannot be done, and then never again."""
        batch, counting = self._batch, self._counting
        self.off()
        if not counting:
            return None
        try:
            return self._trace(batch)
        except Exception as error:  # noqa: BLE001 - the trace runs the user's code
            self.problem = f"the training step cannot be traced ({describe(error)})"
            self._warn(f"{self.problem}: its operations are unknown, method 2 stands alone")
            return None

    def pause(self, paused: bool) -> None:
        """Do nothing: a trace sees the step alone."""

    def off(self) -> None:
        """Let go of the batch."""
        self._batch, self._counting = None, False

    def breakdown(self, _model: Any = None) -> dict[str, int]:
        """Return nothing: a program does not say which module its operations came from."""
        return {}
