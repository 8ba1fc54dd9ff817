"""Keeps all shared random numbers as they would be without the probe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from computemeter.randomness import same_random_numbers


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave the generators of Python, NumPy and PyTorch, its accelerators' too, as they were.

    Of libraries that are not imported there is nothing to keep.
    """
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy else None
    of_torch = _torch_state(torch)
    with same_random_numbers():
        try:
            yield
        finally:
            if numpy:
                numpy.random.set_state(drawn)
            if torch:
                _restore(torch, of_torch)


def _torch_state(torch: Any) -> tuple[Any, list[Any]]:
    if not torch:
        return None, []
    running = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if running else []


def _restore(torch: Any, state: tuple[Any, list[Any]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
