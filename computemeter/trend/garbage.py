"""Keeps the collector of cycles away from many records."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage() -> Iterator[None]:
    """Keep it from looking at all records again whenever something was made of some of them.

    There are no cycles among them; with 100,000 it would take as long as everything else. It is a
    decorator too.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
