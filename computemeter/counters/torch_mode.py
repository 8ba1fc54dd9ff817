"""Counting one live PyTorch step: a dispatch mode that sees every operator as it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from computemeter.counters.torch_formulas import NoFormulaError
from computemeter.counters.torch_ops import Operator, operator_of
from computemeter.counters.torch_recompute import RecomputeWatch
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

    Attributes:
        failure: what went wrong, None while all is well.
        unreadable: operators whose formula failed, with the error; they are uncounted.
        paused: whether what runs now does not count.
        parameters: the module parameters that the operators touched.
        device: where the first contraction ran.
    """

    # Higher-order operators (flex_attention, Triton kernels) must come through here and run.
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.unreadable: dict[str, Exception] = {}
        self.paused = False
        self.parameters: dict[int, Parameter] = {}
        self.device: torch.device | None = None
        self._model: Counter[str] = Counter()
        self._dtypes: Counter[str] = Counter()
        self._uncounted: Counter[str] = Counter()
        self._recomputed = 0
        self._watch = RecomputeWatch()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Keep compiled code alive: a frame first called under a plain mode never compiles."""
        return True

    def start(self) -> Self:
        """Begin to count."""
        self._watch.start()
        self.__enter__()
        return self

    def stop(self) -> None:
        """Stop counting.

        Modes are a stack: if the step left one of its own on top, leaving ours would remove that
        one instead. Ours is then taken out from below it, and the count is not to be used.
        """
        self._watch.stop()
        if _get_current_dispatch_mode() is self:
            self.__exit__(None, None, None)
        else:
            self.failure = RuntimeError("the step left a dispatch mode of its own open")
            take_out(self)

    def count(self) -> Count:
        """Return what was counted so far."""
        model = sum(self._model.values())
        return Count(
            model_flops=model,
            hardware_flops=model + self._recomputed,
            by_op=dict(self._model),
            by_dtype=dict(self._dtypes),
            uncounted_ops=dict(self._uncounted),
        )

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
        subclasses = [cls for cls in types if _has_own_dispatch(cls)]
        if any(issubclass(cls, FakeTensor) for cls in subclasses):
            return func(*args, **kwargs)  # a shape computed ahead of time, not work
        if subclasses:
            # A DTensor, a quantised weight: let it take itself apart, and count the plain
            # operators that arrive then.
            return NotImplemented
        operator = operator_of(func)
        if operator.decomposes:
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        self._guard(lambda: self._book(operator, args, kwargs, out))
        return out

    def _run_higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        self._uncounted[str(func)] += 1
        return out

    def _guard(self, book: Callable[[], None]) -> None:
        try:
            book()
        except Exception as error:  # noqa: BLE001 - whatever it is, the user's step goes on
            self.failure = self.failure or error

    def _book(
        self, operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        for parameter in _parameters((*args, *kwargs.values())):
            self.parameters[id(parameter)] = parameter
        if operator.uncounted:
            self._uncounted[operator.name] += 1
        if operator.formula is None:
            return
        # strict=False: arguments left at their defaults are not passed.
        arguments = {**dict(zip(operator.arguments, args, strict=False)), **kwargs}
        try:
            flops = operator.formula(arguments, out)
        except Exception as error:  # noqa: BLE001 - one odd operator must not cost the whole count
            self._uncounted[operator.name] += 1
            if not isinstance(error, NoFormulaError):
                self.unreadable[operator.name] = error
            return
        operands = [value for value in arguments.values() if isinstance(value, Tensor)]
        first = operands[0]
        self.device = self.device or first.device
        if self._watch.is_recomputation(operator.name, operands):
            self._recomputed += flops.model + flops.recomputed
            return
        self._model[operator.name] += flops.model
        self._dtypes[_precision(operator.name, first)] += flops.model
        self._recomputed += flops.recomputed


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
    return mode.count()


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


def _precision(operator: str, tensor: Tensor) -> str:
    """Name the arithmetic: the inputs' dtype, or "tf32" where the GPU rounds float32 to it."""
    if tensor.dtype is torch.float32 and tensor.is_cuda and _allows_tf32(operator):
        return "tf32"
    return str(tensor.dtype).removeprefix("torch.")


def _allows_tf32(operator: str) -> bool:
    # Read through the new attribute: the old one (`allow_tf32`) raises once the new was set.
    backends: Any = torch.backends
    if "conv" in operator:
        return bool(backends.cudnn.conv.fp32_precision == "tf32")
    if "rnn" in operator:
        return bool(backends.cudnn.rnn.fp32_precision == "tf32")
    return bool(backends.cuda.matmul.fp32_precision == "tf32")


@lru_cache(maxsize=256)
def _has_own_dispatch(cls: type) -> bool:
    plain = (Tensor.__torch_dispatch__, torch._C._disabled_torch_dispatch_impl)
    return getattr(cls, "__torch_dispatch__", plain[0]) not in plain


def _parameters(values: Iterable[Any]) -> Iterator[Parameter]:
    for value in values:
        if isinstance(value, Parameter):
            yield value
        elif isinstance(value, list | tuple):
            yield from _parameters(value)
