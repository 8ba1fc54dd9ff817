"""Replayed CUDA graphs: work that no dispatch mode can see."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from computemeter.patches import Patches


class ReplayWatch:
    """Notes whether a CUDA graph is replayed while a step is being counted.

    A graph's kernels run without passing PyTorch's dispatcher again, so a step that replays one is
    seen in part or not at all.
    """

    def __init__(self) -> None:
        self.replayed = False
        self._patches = Patches()

    def start(self) -> None:
        """Begin to watch; without CUDA there is nothing to see."""
        if torch.cuda.is_initialized():
            self._patches.wrap(torch.cuda.CUDAGraph, "replay", self._noting)

    def stop(self) -> None:
        """Watch no more."""
        self._patches.remove()

    def _noting(self, replay: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(replay)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.replayed = True
            return replay(*args, **kwargs)

        return noted
