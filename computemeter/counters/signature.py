"""What a batch looks like: the shapes and dtypes of its arrays, whatever it is packed in."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

# A batch is looked into this deep and this wide; beyond, only type and length tell it apart.
_DEEPEST = 6
_WIDEST = 256


def signature(batch: Any, depth: int = 0) -> Hashable:
    """Return a key that is equal for batches of the same structure, shapes and dtypes.

    Anything with a `shape` and a `dtype` is an array, of whatever framework; mappings, sequences
    and objects with attributes are looked into; of the rest only the type tells.

    >>> signature([{"x": 1.0}, (2, 3)])
    ((('x', 'float'),), ('int', 'int'))
    """
    if _is_array(batch):
        return (tuple(batch.shape), batch.dtype)
    if depth == _DEEPEST or (parts := _parts(batch)) is None:
        return type(batch).__name__
    if len(parts) > _WIDEST:
        return (type(batch).__name__, len(parts))
    if isinstance(batch, list | tuple):
        return tuple([signature(part, depth + 1) for part in batch])
    return tuple([(name, signature(part, depth + 1)) for name, part in parts.items()])


def examples(batch: Any, depth: int = 0) -> int | None:
    """Return how many examples a batch holds: the first size of its first array that has one.

    >>> examples({"text": "a", "rows": [1, 2]}) is None
    True
    """
    if _is_array(batch):
        return int(batch.shape[0]) if len(batch.shape) else None
    if depth == _DEEPEST or (parts := _parts(batch)) is None or len(parts) > _WIDEST:
        return None
    values: Iterable[Any] = parts.values() if isinstance(parts, Mapping) else parts
    found = (examples(value, depth + 1) for value in values)
    return next((number for number in found if number is not None), None)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _parts(batch: Any) -> Any:
    """Return what a container holds, a sequence or a mapping; None for what is no container."""
    if isinstance(batch, list | tuple | Mapping):
        return batch
    if isinstance(batch, type) or callable(batch):
        return None
    return getattr(batch, "__dict__", None) or _slots(batch)


def _slots(batch: Any) -> dict[str, Any] | None:
    names = getattr(type(batch), "__slots__", None)
    if not names or isinstance(names, str):
        return None
    return {name: getattr(batch, name) for name in names if hasattr(batch, name)}
