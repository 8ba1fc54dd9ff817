"""What the meter asks of a framework's counter."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

from computemeter.families import StepKey
from computemeter.records import Count, Device


class StepCounter(Protocol):
    """Names training steps by what decides their work, and counts those that the book asks for.

    `TorchCounter` watches a step run, `TracedCounter` reads its program. Three more attributes are
    used where a counter has them: `torch_device`, for clocks and GPU readings; `dtype`, for method
    2 where nothing could be counted; `problem`, why not.

    Attributes:
        recounts: counting takes place as a step runs and may differ, so that steps of one key are
            counted again from time to time.
    """

    recounts: bool

    def key(self, batch: Any, facts: Hashable) -> StepKey:
        """Name the step that begins: `batch` by its shapes, `facts` by what the hook knows."""

    def complete(self, key: StepKey) -> StepKey:
        """Return the key with what only the count of the step has shown."""

    def start(self, batch: Any) -> None:
        """Begin to count the step."""

    def stop(self) -> Count | None:
        """End the count, after the step; None where it shows nothing, which is not zero."""

    def pause(self, paused: bool) -> None:
        """Count nothing within the step until it is called again."""

    def off(self) -> None:
        """Leave nothing on the user's code, whatever happened."""

    def device(self) -> Device | None:
        """Describe one device that trains; None before it is known."""

    def parameter_counts(self) -> tuple[int, int] | None:
        """Return all parameters and the trained ones; None before they are known."""

    def breakdown(self, model: Any) -> Mapping[str, int]:
        """Return the model FLOPs of the last counted step by module, largest first."""
