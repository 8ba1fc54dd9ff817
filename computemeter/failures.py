"""What goes wrong inside the meter stays inside the meter: warned of once, kept for the summary."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from computemeter.sinks import describe, log_warning

_KEPT = 20

P = ParamSpec("P")
R = TypeVar("R")


class Failures:
    """The meter's own troubles in one run.

    Each is logged as a warning and kept for the summary and the ledger, the same one once; after
    twenty different ones, no more.
    """

    def __init__(self) -> None:
        self._messages: dict[str, int] = {}

    def record(self, where: str, error: BaseException) -> None:
        """Keep an exception that must not reach the user's training."""
        self.warn(f"{where} failed: {describe(error)}")

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Call a function of the meter's; an exception is kept and the result is None."""
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - metering never stops a training run
            self.record(_name_of(function), error)
            return None

    def warn(self, message: str) -> None:
        """Keep a message; log it if it is new."""
        first = message not in self._messages
        if first and len(self._messages) >= _KEPT:
            return
        self._messages[message] = self._messages.get(message, 0) + 1
        if first:
            with suppress(Exception):  # a user's logging handler may raise whatever it likes
                log_warning(message)

    @property
    def messages(self) -> tuple[str, ...]:
        """What went wrong, each once, with how often."""
        return tuple(
            f"{message} ({times} times)" if times > 1 else message
            # A copy: sinks warn from their own threads.
            for message, times in list(self._messages.items())
        )


def _name_of(function: Callable[..., object]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__name__)


class HasFailures(Protocol):
    """What `guarded` needs of the object whose method it guards."""

    @property
    def failures(self) -> Failures:
        """Where exceptions go instead of into the training."""


S = TypeVar("S", bound=HasFailures)


def guarded(
    method: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], R | None]:
    """Keep a hook from raising: the exception goes to `self.failures`, the result is None."""

    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        return self.failures.call(method, self, *args, **kwargs)

    functools.update_wrapper(call, method)
    return call
