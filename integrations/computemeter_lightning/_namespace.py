"""Lightning exists under two names, `lightning.pytorch` and `pytorch_lightning`."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

_NAMESPACES = ("lightning.pytorch", "pytorch_lightning")

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:

    def _find_callback() -> type:
        # A Trainer takes a callback of either namespace. The one in use already is free; importing
        # the other as well would cost seconds.
        for name in sorted(_NAMESPACES, key=lambda name: name not in sys.modules):
            try:
                return import_module(name).Callback
            except ModuleNotFoundError as error:
                if error.name not in (name, name.partition(".")[0]):
                    raise
        raise ModuleNotFoundError(
            "ComputeMeter needs Lightning: pip install 'computemeter[lightning]'"
        )

    Callback = _find_callback()

__all__ = ["Callback"]
