"""What one counted step adds up to, operator by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from computemeter.counters.torch_breakdown import Attribution
from computemeter.counters.torch_flops import NoFormulaError
from computemeter.counters.torch_ops import Operator
from computemeter.counters.torch_optimizer import is_optimizer_work
from computemeter.counters.torch_recompute import RecomputeWatch
from computemeter.records import Count
from computemeter.sinks import describe

T = TypeVar("T")
Pass = Literal["forward", "backward"]


class Tally:
    """Adds up the operators of one step.

    Args:
        parameters: of the model, as far as they are known.
        learning: whether to look for parameters in what the operators are given.

    Attributes:
        unreadable: operators whose formula failed, with why; they are uncounted. No exception is
            kept: its traceback would keep the step's tensors.
        parameters: the module parameters that the operators touched.
        device: where the first contraction ran.
        attribution: whose FLOPs they are.
        watch: tells recomputation apart.
    """

    def __init__(self, parameters: Iterable[Parameter] = (), *, learning: bool = True) -> None:
        self.unreadable: dict[str, str] = {}
        self.parameters: dict[int, Parameter] = {}
        self.device: torch.device | None = None
        self.attribution = Attribution(parameters)
        self.watch = RecomputeWatch()
        self._learning = learning
        self._model: Counter[str] = Counter()
        self._dtypes: Counter[str] = Counter()
        self._uncounted: Counter[str] = Counter()
        self._recomputed = self._causal = 0
        self._calls = self._bytes = 0
        self._ran: set[Pass] = set()
        self._contracted: set[Pass] = set()

    @property
    def one_sided(self) -> bool:
        """Whether arithmetic ran in a backward pass and none before it."""
        return self._ran == {"backward"}

    @property
    def doubtful(self) -> bool:
        """Whether contractions ran in a backward pass alone, and other arithmetic before it.

        That may be the whole forward pass, or a loss after a forward pass that was not seen.
        """
        return self._contracted == {"backward"} and "forward" in self._ran

    def wants(self, operator: Operator) -> bool:
        """Say whether a call of this operator adds anything."""
        return operator.formula is not None or operator.uncounted or self._learning

    def count(self) -> Count:
        """Return what was counted so far."""
        model = sum(self._model.values())
        return Count(
            model_flops=model,
            hardware_flops=model + self._recomputed,
            by_op=dict(self._model),
            by_dtype=dict(self._dtypes),
            uncounted_ops=dict(self._uncounted),
            causal_flops=self._causal,
            contractions=self._calls,
            contraction_bytes=self._bytes,
        )

    def meet(self, values: Iterable[Any]) -> None:
        """Learn the parameters among what an operator is given."""
        if not self._learning:
            return
        for parameter in flat(values, Parameter):
            if id(parameter) not in self.parameters:
                self.parameters[id(parameter)] = parameter
                self.attribution.learn(parameter)

    def book(
        self, operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Add one call of an operator."""
        self.meet((*args, *kwargs.values()))
        if not (operator.uncounted or operator.formula) or is_optimizer_work():
            return
        self._ran.add(_pass())
        if operator.formula is None:
            self._uncounted[operator.name] += 1
            return
        # strict=False: arguments left at their defaults are not passed.
        arguments = {**dict(zip(operator.arguments, args, strict=False)), **kwargs}
        tensors = list(flat(arguments.values(), Tensor))
        if tensors:
            self._book_flops(operator, arguments, tensors, out)
        else:  # nothing says in which precision and where
            self._uncounted[operator.name] += 1

    def _book_flops(
        self, operator: Operator, arguments: dict[str, Any], tensors: list[Tensor], out: Any
    ) -> None:
        assert operator.formula is not None
        try:
            flops = operator.formula(arguments, out)
        except Exception as error:  # noqa: BLE001 - one odd operator must not cost the whole count
            self._uncounted[operator.name] += 1
            if not isinstance(error, NoFormulaError):
                self.unreadable[operator.name] = describe(error)
            return
        self._contracted.add(_pass())
        self.device = self.device or tensors[0].device
        # Ragged batches have no shape to know them by.
        operands = [tensor for tensor in tensors if not tensor.is_nested]
        self._calls += 1
        self._bytes += sum(
            each.nbytes for each in (*operands, *flat((out,), Tensor)) if _dense(each)
        )
        if self.watch.is_recomputation(operator.name, operands):
            self._recomputed += flops.model + flops.recomputed
            return
        self._model[operator.name] += flops.model
        self._dtypes[_precision(operator.name, tensors[0])] += flops.model
        self._recomputed += flops.recomputed
        self._causal += flops.causal
        self.attribution.book(operands, flops.model)


def _pass() -> Pass:
    return "forward" if torch._C._current_graph_task_id() == -1 else "backward"


def flat(values: Iterable[Any], kind: type[T]) -> Iterator[T]:
    """Yield the values of a kind, those in lists too (`_foreach_mm`, the layers of an LSTM)."""
    for value in values:
        if isinstance(value, kind):
            yield value
        elif isinstance(value, list | tuple):
            yield from flat(value, kind)


def _dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested


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
