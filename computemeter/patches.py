"""Wrapping methods of one object for the length of one fit, and taking the wraps off again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

_NOTHING = object()


def before(note: Callable[[], object], failed: Callable[[str, Exception], object]) -> Wrap:
    """Make a wrapper that calls `note` first; what that raises goes to `failed`."""

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def noted(*args: Any, **kwargs: Any) -> Any:
            try:
                note()
            except Exception as error:  # noqa: BLE001 - metering never stops a training run
                failed(getattr(note, "__qualname__", str(note)), error)
            return call(*args, **kwargs)

        return noted

    return wrap


class Patches:
    """Methods replaced on single objects: others see nothing of it.

    Of a class every object sees it; that is for classes whose objects cannot be found, and briefly.
    """

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, owner: Any, name: str, wrap: Wrap) -> None:
        """Replace `owner.name` by its wrapped self.

        Raises:
            AttributeError: the object has no such method.
        """
        before = vars(owner).get(name, _NOTHING)
        wrapped = wrap(getattr(owner, name))
        setattr(owner, name, wrapped)
        self._undo.append((owner, name, wrapped, before))

    def remove(self) -> None:
        """Take every wrap off; one that somebody wrapped again is left to them."""
        while self._undo:
            owner, name, wrapped, before = self._undo.pop()
            if vars(owner).get(name) is not wrapped:
                continue
            if before is _NOTHING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
