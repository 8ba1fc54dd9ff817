"""Keeps the user's random numbers as they would be without the meter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Leave Python's shared generator as it was: libraries draw from it, some when imported.

    (rich gives its styles random numbers; HTTP clients spread their retries.)
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
