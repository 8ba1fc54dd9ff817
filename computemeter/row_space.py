"""Rows of integers and their span, in exact arithmetic."""

from __future__ import annotations


class RowSpace:
    """The span of some rows of integers, and how a row in it is combined from them.

    Fraction-free Gauss-Jordan elimination (Bareiss): all pivots are equal to `scale`, every entry
    is a minor, every division is exact. Behind each row stands the combination that made it.
    """

    def __init__(self, width: int) -> None:
        self.scale = 1
        self._width = width
        self._rows: list[list[int]] = []
        self._pivots: list[int] = []

    @property
    def rank(self) -> int:
        """How many independent rows there are."""
        return len(self._rows)

    def reduce(self, row: list[int]) -> list[int]:
        """Subtract what the span explains of `scale` times the row."""
        rest = [self.scale * entry for entry in row] + [0] * self._width
        for pivot, known in zip(self._pivots, self._rows, strict=True):
            if factor := row[pivot]:
                rest = [entry - factor * other for entry, other in zip(rest, known, strict=True)]
        return rest

    def holds(self, rest: list[int]) -> bool:
        """Say whether a reduced row lies in the span."""
        return not any(rest[: self._width])

    def combination(self, rest: list[int]) -> list[int]:
        """Return `scale` times the factors of the rows added so far that make a row in the span."""
        return [-entry for entry in rest[self._width : self._width + self.rank]]

    def add(self, rest: list[int]) -> None:
        """Add a reduced row that does not lie in the span."""
        rest[self._width + self.rank] = self.scale
        pivot = next(at for at, entry in enumerate(rest) if entry)
        scale = rest[pivot]
        self._rows = [
            [
                (scale * entry - known[pivot] * other) // self.scale
                for entry, other in zip(known, rest, strict=True)
            ]
            for known in self._rows
        ]
        self._rows.append(rest)
        self._pivots.append(pivot)
        self.scale = scale
