"""Telling the arithmetic of a Keras optimizer from the model's, by the files on its call stack.

A step's FLOPs are those of the forward and backward passes; some optimizers multiply matrices of
their own (Muon). A user's optimizer is a subclass, and so has Keras's files above its own.
"""

from __future__ import annotations

from functools import lru_cache

_FOLDER = "keras/src/optimizers/"


@lru_cache(maxsize=4096)
def is_optimizer_file(path: str) -> bool:
    """Say whether a source file is of Keras's optimizers.

    >>> is_optimizer_file("/site-packages/keras/src/optimizers/muon.py")
    True
    """
    return _FOLDER in path.replace("\\", "/")
