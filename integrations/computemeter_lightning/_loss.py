"""The training loss as the Trainer reports it, read from the device only at logging steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LossWindow:
    """Holds the losses of the micro-batches since the last optimizer step.

    Args:
        loss_key: where the loss is in what a manually optimised `training_step` returns.
    """

    def __init__(self, loss_key: str | None = None) -> None:
        self._loss_key = loss_key
        self._losses: list[Any] = []

    def add(self, outputs: Any) -> None:
        """Keep a micro-batch's loss, unread: reading would wait for the device."""
        if isinstance(outputs, Mapping) and outputs.get("loss") is not None:
            self._losses.append(outputs["loss"])

    def automatic(self, outputs: Any, accumulated: int) -> float | None:
        """Return the mean loss of the window that ends with these outputs; None if unknown.

        Args:
            outputs: of the last micro-batch.
            accumulated: micro-batches per optimizer step; Lightning divides each loss by it.
        """
        if accumulated == 1:
            return _number(outputs.get("loss")) if isinstance(outputs, Mapping) else None
        if not self._losses:
            return None
        return sum(float(loss) for loss in self._losses) * accumulated / len(self._losses)

    def manual(self, outputs: Any, _accumulated: int) -> float | None:
        """Return the loss under the user's key; None without one."""
        found = isinstance(outputs, Mapping) and self._loss_key is not None
        return _number(outputs.get(self._loss_key)) if found else None

    def clear(self) -> None:
        """Begin the next window."""
        self._losses.clear()


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
