"""Counting one live PyTorch step: a dispatch mode that sees every operator as it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    _pop_mode,
    _push_mode,
)

from computemeter.counters.torch_ops import higher_order_operator_of, operator_of
from computemeter.counters.torch_tally import Tally, flat
from computemeter.records import Count

_FLAGS = (
    "old_dispatch_mode_flags",
    "old_non_infra_dispatch_mode_flags",
    "old_without_ignore_compile_internals_dispatch_mode_flags",
)


class CountingMode(TorchDispatchMode):
    """Counts the operators that run while it is on; changes nothing about them.

    Enter it with `start` and leave it with `stop`, in a `finally`. A failure inside the counting
    is kept in `failure` and never reaches the user's step; the count is then not to be used.

    Args:
        parameters: of the model, as far as they are known.
        learning: whether to look for parameters in what the operators are given.

    Attributes:
        failure: what went wrong, None while all is well.
        paused: whether what runs now does not count.
        tally: what was counted so far.
    """

    # Higher-order operators (flex_attention, Triton kernels) must come through here and run.
    supports_higher_order_operators = True

    def __init__(self, parameters: Iterable[Parameter] = (), *, learning: bool = True) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.paused = False
        self.tally = Tally(parameters, learning=learning)

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Keep compiled code alive: a frame first called under a plain mode never compiles."""
        return True

    def start(self) -> Self:
        """Begin to count."""
        self.tally.watch.start()
        self.__enter__()
        return self

    def stop(self) -> None:
        """Stop counting.

        Modes are a stack: if the step left one of its own on top, leaving ours would remove that
        one instead. Ours is then taken out from below it, and the count is not to be used.
        """
        self.tally.watch.stop()
        if _get_current_dispatch_mode() is self:
            self.__exit__(None, None, None)
        else:
            self.failure = RuntimeError("the step left a dispatch mode of its own open")
            take_out(self)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        if not isinstance(func, torch._ops.OpOverload):
            return self._run_higher_order(func, args, kwargs)
        subclasses = [cls for cls in types if _has_own_dispatch(cls)] if types else ()
        if any(issubclass(cls, FakeTensor) for cls in subclasses):
            return func(*args, **kwargs)  # a shape computed ahead of time, not work
        if subclasses:
            # A DTensor, a quantised weight: let it take itself apart, and count the plain
            # operators that arrive then, whose tensors are parameters no longer. Without gradients
            # it is an optimizer that asks, maybe for the shards of what was counted whole.
            if torch.is_grad_enabled():
                self._guard(self.tally.meet, (*args, *kwargs.values()))
            return NotImplemented
        operator = operator_of(func)
        if operator.decomposes:
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if self.tally.wants(operator):
            self._guard(self.tally.book, operator, args, kwargs, out)
        return out

    def _run_higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operator = higher_order_operator_of(func)
        if any(isinstance(tensor, FakeTensor) for tensor in flat(args, Tensor)):
            return func(*args, **kwargs)
        if operator.decomposes:
            return func(*[self._counting_inside(arg) for arg in args], **kwargs)
        out = func(*args, **kwargs)
        if operator.wraps_another:
            self._guard(self._book_wrapped, args, kwargs, out)
        else:
            self._guard(self.tally.book, operator, args, kwargs, out)
        return out

    def _book_wrapped(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Book the operator that a higher-order one has run, with the random state put back."""
        at, func = next(
            (at, x) for at, x in enumerate(args) if isinstance(x, torch._ops.OpOverload)
        )
        # `run_and_save_rng_state(op, ...)` returns the state as well; `run_with_rng_state(state,
        # op, ...)` does not.
        result = out if at else out[1]
        self.tally.book(operator_of(func), args[at + 1 :], kwargs, result)

    def _counting_inside(self, value: Any) -> Any:
        """Turn a branch of a control-flow operator into one that is counted when it runs.

        No mode is on while such an operator runs, and so only the branches taken count. In its
        backward pass `cond` runs the branch forward once more; that counts as model work.
        """
        if not callable(value):
            return value

        def counted(*args: Any) -> Any:
            with self:
                return value(*args)

        return counted

    def _guard(self, book: Callable[..., None], *args: Any) -> None:
        try:
            book(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user's step goes on
            # Without its traceback, which would keep the step's tensors alive.
            error.__context__ = None
            self.failure = self.failure or error.with_traceback(None)


def count(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Count:
    """Count the operations of one call, forward and backward alike.

    Raises:
        RuntimeError: the counting itself failed; the cause is attached.
    """
    mode = CountingMode().start()
    try:
        function(*args, **kwargs)
    finally:
        mode.stop()
    if mode.failure is not None:
        raise RuntimeError("counting failed") from mode.failure
    return mode.tally.count()


def take_out(mode: TorchDispatchMode) -> None:
    """Remove a mode from below others; where it is not among them, change nothing."""
    above: list[Any] = []
    while (top := _get_current_dispatch_mode()) is not None and not top.is_infra_mode():
        _pop_mode()
        if top is mode:
            break
        above.append(top)
    if top is mode and above:
        # The one right above ours remembers how things were when it was entered, with ours on.
        for flags in _FLAGS:
            getattr(above[-1], flags)[-1] = getattr(mode, flags)[-1]
    for other in reversed(above):
        _push_mode(other)


@lru_cache(maxsize=256)
def _has_own_dispatch(cls: type) -> bool:
    plain = (Tensor.__torch_dispatch__, torch._C._disabled_torch_dispatch_impl)
    return getattr(cls, "__torch_dispatch__", plain[0]) not in plain
