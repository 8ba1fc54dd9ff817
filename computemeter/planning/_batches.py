"""Batches of other sizes, made from one: its examples repeated, or the first of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from computemeter.counters.signature import examples

_MANY = 3
"""Parts of a list, all alike, from which on it may be a list of examples."""


def batch_size_of(batch: Any) -> int:
    """Return how many examples a batch holds: the first size that most of its arrays share.

    Raises:
        ValueError: it holds none, or no array that says, or two that say different things.
    """
    sizes = Counter(_first_sizes(batch))
    found = _most_common(sizes) if sizes else examples(batch)
    if not found:
        raise ValueError(
            f"the example batch ({type(batch).__name__}) holds no array with a first dimension "
            "to count examples by"
        )
    for length in _lists(batch):
        if length >= found or length in sizes:
            raise ValueError(
                f"the example batch holds a list of {length} alike parts, which may be examples: "
                "stack them to arrays with the examples along the first dimension"
            )
    return found


def left_as_they_are(batch: Any) -> list[int]:
    """Return the first sizes of those arrays of a batch that do not hold an example a row."""
    return sorted(set(_first_sizes(batch)) - {batch_size_of(batch)})


def resized(batch: Any, size: int) -> Any:
    """Return the batch with `size` examples, its own repeated in order as often as needed.

    Every array whose first size is that of the batch is resized, and every list of as many plain
    values; all else stays.

    >>> import numpy
    >>> resized({"x": numpy.array([1, 2, 3]), "scale": 2.0}, 5)["x"].tolist()
    [1, 2, 3, 1, 2]

    Raises:
        ValueError: nothing in it could be resized.
    """
    now = batch_size_of(batch)
    if now == size:
        return batch
    if not any(_first_sizes(batch)):
        raise ValueError(f"no batch of {size} can be made of a {type(batch).__name__}")
    rows = [row % now for row in range(size)]

    def change(value: Any) -> Any:
        if isinstance(value, list):
            return [value[row] for row in rows] if len(value) == now else value
        return value[rows] if _first_size(value) == now else value

    return mapped(batch, change)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the batch with each of its leaves changed; mappings and sequences keep their type.

    A leaf is what is neither, or a list of plain values.
    """
    if isinstance(value, Mapping):
        made = {name: mapped(part, change) for name, part in value.items()}
        return made if type(value) is dict else _like(value, made)
    if isinstance(value, list | tuple) and not _is_plain(value):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else _like(value, parts)
    return change(value)


def _like(value: Any, made: Any) -> Any:
    """Give the parts the type of their container, where it takes them (no defaultdict)."""
    try:
        return type(value)(made)
    except TypeError:
        return made


def _is_plain(value: Any) -> bool:
    """Say whether it is a list of plain values, names say."""
    return type(value) is list and not any(_parts(each) or hasattr(each, "shape") for each in value)


def _most_common(sizes: Counter[int]) -> int:
    most = max(sizes.values())
    found = sorted(size for size, count in sizes.items() if count == most)
    if len(found) > 1:
        # An array of a single row, a learning rate say, speaks least for the number of examples.
        found = [size for size in found if size > 1] or found
    if len(found) > 1:
        says = " and ".join(map(str, found))
        raise ValueError(
            f"the example batch may be of {says} examples, by the first dimensions of its arrays: "
            "leave out what is not a part of each example"
        )
    return found[0]


def _first_sizes(batch: Any) -> Iterator[int]:
    for part in _parts(batch):
        yield from _first_sizes(part)
    if (size := _first_size(batch)) is not None:
        yield size


def _first_size(value: Any) -> int | None:
    try:
        return int(value.shape[0])
    except Exception:  # noqa: BLE001 - no array, or one that has no one shape
        return None


def _lists(batch: Any) -> Iterator[int]:
    """Return the lengths of those sequences whose parts may be an example each."""
    parts = _parts(batch)
    for part in parts:
        yield from _lists(part)
    alike = not isinstance(batch, Mapping) and len({_kind(part) for part in parts}) == 1
    if alike and len(parts) >= _MANY and any(_first_sizes(batch)):
        yield len(parts)


def _kind(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset(value)
    parts = _parts(value)
    return (
        len(parts)
        if parts
        else (str(getattr(value, "dtype", "")), len(getattr(value, "shape", ())))
    )


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
