"""What a batch looks like: the shapes and dtypes of its arrays, whatever it is packed in."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

# How much of a batch is looked at: this deep, and this many values. What lies beyond tells two
# batches apart only by type and length, and their work by counting again.
_DEEPEST = 6
_MOST = 256
_SEQUENCES = (list, tuple)
_CONTAINERS = (list, tuple, dict)
_CONTAINERS_AND_MAPPINGS = (list, tuple, dict, Mapping)


def signature(batch: Any) -> Hashable:
    """Return a key that is equal for batches of the same structure, shapes and dtypes.

    Anything with a `shape` and a `dtype` is an array, of whatever framework; mappings, sequences
    and objects with attributes are looked into; of the rest only the type tells.

    >>> signature([{"x": 1.0}, (2, 3)])
    ((('x', 'float'),), ('int', 'int'))
    """
    return _describe(batch, 0, [_MOST])


def examples(batch: Any) -> int | None:
    """Return how many examples a batch holds: the first size of its first array that has one.

    >>> examples({"text": "a", "rows": [1, 2]}) is None
    True
    """
    return _first_size(batch, 0, [_MOST])


def _describe(value: Any, depth: int, left: list[int]) -> Hashable:
    """Describe a value; `left` holds how many more may be looked at."""
    left[0] -= 1
    if (array := _array(value)) is not None:
        return array
    if depth == _DEEPEST or (parts := _parts(value)) is None:
        return type(value).__name__
    if len(parts) > left[0]:
        return (type(value).__name__, len(parts))
    if isinstance(value, _SEQUENCES):
        return tuple([_describe(part, depth + 1, left) for part in value])
    return tuple([(name, _describe(part, depth + 1, left)) for name, part in parts.items()])


def _first_size(value: Any, depth: int, left: list[int]) -> int | None:
    left[0] -= 1
    if (array := _array(value)) is not None:
        sizes = array[0]
        return sizes[0] if sizes and isinstance(sizes[0], int) else None
    if depth == _DEEPEST or (parts := _parts(value)) is None or len(parts) > left[0]:
        return None
    values: Iterable[Any] = parts.values() if isinstance(parts, Mapping) else parts
    found = (_first_size(part, depth + 1, left) for part in values)
    return next((size for size in found if size is not None), None)


def _array(value: Any) -> tuple[tuple[Hashable, ...], Hashable] | None:
    """Return shape and dtype; None for what is no array, or has no one shape (nested tensors)."""
    if isinstance(value, _CONTAINERS):
        return None
    try:
        shape, dtype = value.shape, value.dtype
        if not isinstance(shape, tuple) or getattr(value, "is_nested", False):
            # A ragged size is another symbol in every batch: all of them are one unknown.
            shape = tuple([size if type(size) is int else "ragged" for size in shape])
        if dtype.__hash__ is None:
            dtype = str(dtype)
    except Exception:  # noqa: BLE001 - any attribute of somebody else's object may raise anything
        return None
    return shape, dtype


def _parts(batch: Any) -> Any:
    """Return what a container holds, a sequence or a mapping; None for what is no container."""
    if isinstance(batch, _CONTAINERS_AND_MAPPINGS):
        return batch
    if isinstance(batch, type) or callable(batch):
        return None
    return getattr(batch, "__dict__", None) or _slots(batch)


def _slots(batch: Any) -> dict[str, Any] | None:
    names: list[str] = []
    for cls in type(batch).__mro__:
        own = vars(cls).get("__slots__", ())
        names += [own] if isinstance(own, str) else own
    return {name: getattr(batch, name) for name in names if hasattr(batch, name)} or None
