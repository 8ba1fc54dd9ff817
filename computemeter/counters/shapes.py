"""A batch's signature taken apart: its sizes, and the family that differs only in them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from types import EllipsisType
from typing import TypeGuard

_Sizes = tuple[int, ...]
_LETTERS = {
    0: (),
    1: ("B",),
    2: ("B", "T"),
    3: ("B", "T", "F"),
    4: ("B", "C", "H", "W"),
    5: ("B", "C", "D", "H", "W"),
}


def sizes_of(signature: Hashable) -> _Sizes:
    """Return the sizes of a batch's arrays, in order, from the batch's signature.

    >>> sizes_of((("ids", ((8, 128), "int64")), ("labels", ((8,), "int64")), ("n", "int")))
    (8, 128, 8)
    """
    return tuple(_walk(signature))


def family_of(signature: Hashable) -> Hashable:
    """Return what is left of a batch's signature without the sizes: structure, ranks and dtypes.

    The length of a list too long to look into stays: it says nothing about the arrays in it.

    >>> family_of((("ids", ((8, 128), "int64")), ("rows", ("list", 300))))
    (('ids', ((Ellipsis, Ellipsis), 'int64')), ('rows', ('list', 300)))
    """
    if _is_array(signature):
        shape, dtype = signature
        rank: tuple[EllipsisType, ...] = (...,) * len(shape)
        return rank, dtype
    if isinstance(signature, tuple):
        return tuple([family_of(part) for part in signature])
    return signature


def _is_array(part: Hashable) -> TypeGuard[tuple[_Sizes, Hashable]]:
    """Tell an array's (shape, dtype) from a pair of parts: no part is a tuple of numbers only."""
    if not isinstance(part, tuple) or len(part) != 2:
        return False
    shape, dtype = part
    if not isinstance(shape, tuple) or isinstance(dtype, tuple):
        return False
    return all(isinstance(size, int) for size in shape)


def _walk(part: Hashable) -> Iterator[int]:
    if _is_array(part):
        yield from part[0]
    elif isinstance(part, tuple):
        for inner in part:
            yield from _walk(inner)


def names_of(signature: Hashable) -> list[str]:
    """Name each size of a batch for a formula, in the order of `sizes_of`.

    The first array's names go by its rank (sequences B, T; images B, C, H, W); further arrays'
    carry a number, and are seen only where they differ from the first's.

    >>> names_of((("ids", ((8, 128), "int64")), ("labels", ((8,), "int64"))))
    ['B', 'T', 'B2']
    """
    names: list[str] = []
    for number, rank in enumerate(_ranks(signature), 1):
        letters = _LETTERS.get(rank, ("B", *(f"D{at}_" for at in range(1, rank))))
        names += letters if number == 1 else (f"{letter}{number}" for letter in letters)
    return names


def _ranks(part: Hashable) -> Iterator[int]:
    if _is_array(part):
        yield len(part[0])
    elif isinstance(part, tuple):
        for inner in part:
            yield from _ranks(inner)
