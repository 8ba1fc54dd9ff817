"""The training loss as the Trainer reports it, read from the device only at logging steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LossWindow:
    """Holds the losses of the micro-batches since the last optimizer step.

    Args:
        accumulated: micro-batches per optimizer step; Lightning divides each loss by it.
        loss_key: where the loss is in what a manually optimised `training_step` returns.
    """

    def __init__(self, accumulated: int = 1, loss_key: str | None = None) -> None:
        self.accumulates = accumulated != 1
        self._accumulated = accumulated
        self._loss_key = loss_key
        self._losses: list[Any] = []

    def add(self, outputs: Any) -> None:
        """Keep a micro-batch's loss, unread: reading would wait for the device."""
        if isinstance(outputs, Mapping) and outputs.get("loss") is not None:
            self._losses.append(outputs["loss"])

    def mean(self, outputs: Any, automatic: bool) -> float | None:
        """Return the mean loss of the window that ends with these outputs; None if unknown."""
        if not automatic:
            found = isinstance(outputs, Mapping) and self._loss_key is not None
            return _number(outputs.get(self._loss_key)) if found else None
        if not self.accumulates:
            return _number(outputs.get("loss")) if isinstance(outputs, Mapping) else None
        if not self._losses:
            return None
        total = sum(float(loss) for loss in self._losses)
        return total * self._accumulated / len(self._losses)

    def clear(self) -> None:
        """Begin the next window."""
        self._losses.clear()


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
