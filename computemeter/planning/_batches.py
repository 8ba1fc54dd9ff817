"""Batches of other sizes, made from one: its examples repeated, or the first of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from computemeter.counters.signature import examples


def batch_size_of(batch: Any) -> int:
    """Return how many examples a batch holds: the first size of its first array.

    Raises:
        ValueError: it holds none, or no array that says.
    """
    found = examples(batch)
    if not found:
        raise ValueError(
            f"the example batch ({type(batch).__name__}) holds no array with a first dimension "
            "to count examples by"
        )
    return found


def resized(batch: Any, size: int) -> Any:
    """Return the batch with `size` examples, its own repeated in order as often as needed.

    Every array whose first size is that of the batch is resized; all else stays.

    >>> import numpy
    >>> resized({"x": numpy.array([1, 2, 3]), "scale": 2.0}, 5)["x"].tolist()
    [1, 2, 3, 1, 2]

    Raises:
        ValueError: nothing in it could be resized.
    """
    now = batch_size_of(batch)
    if now == size:
        return batch
    changed = _Resizer(now, size)
    made = mapped(batch, changed)
    if not changed.arrays:
        raise ValueError(f"no batch of {size} can be made of a {type(batch).__name__}")
    return made


class _Resizer:
    def __init__(self, now: int, size: int) -> None:
        self._now, self._rows = now, [row % now for row in range(size)]
        self.arrays = 0

    def __call__(self, value: Any) -> Any:
        shape = getattr(value, "shape", None)
        if shape is None or not len(shape) or shape[0] != self._now:
            return value
        self.arrays += 1
        return value[self._rows]


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the batch with each of its leaves changed; mappings and sequences keep their type."""
    if isinstance(value, Mapping):
        made = {name: mapped(part, change) for name, part in value.items()}
        return made if type(value) is dict else type(value)(made)  # type: ignore[call-arg]
    if isinstance(value, list | tuple):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return change(value)
