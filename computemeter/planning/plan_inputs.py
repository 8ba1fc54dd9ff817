"""What a plan is made from: numbers, and the operations in one of four ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

from computemeter.estimate import flops_from_gpu_time
from computemeter.planning.factors import Factor, Method, count
from computemeter.planning.frozen import TRAINING_PASSES
from computemeter.planning.worked import by_operations, by_parameters
from computemeter.units import format_flops

WAYS = ("flops_per_example", "operations_per_pass", "add_multiplies_per_pass", "parameters")
"""How the operations may be given; the last with tokens."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done.

    Attributes:
        method: method 1 worked out for the whole training; None where it is not known.
        examples: of one epoch.
        epochs: how often each is trained on.
        in_tokens: an example is a token, and a batch size a number of tokens.
    """

    method: Method | None
    examples: int
    epochs: float
    in_tokens: bool = False

    def iterations(self, batch_size: int) -> int:
        """Return the steps of all epochs, the last, smaller batch of each included."""
        each = math.ceil(Fraction(self.examples, batch_size))
        return math.ceil(each * Fraction(str(self.epochs)))


def operations(
    given: Mapping[str, float | None],
    *,
    examples: float | None,
    epochs: float,
    passes: float | None,
    tokens: float | None,
) -> Work:
    """Return what is to be done.

    Args:
        given: a number for one of `WAYS`, None or nothing for the others.
        examples: in the training set; None: tokens are the examples.
        epochs: how often each is trained on.
        passes: cost of a training step in forward passes; None: 3, or as they were counted.
        tokens: trained on, with "parameters".

    Raises:
        ValueError: none of the ways or several, what is not a number above 0, or passes where all
            are counted already.
    """
    ways = {way: value for way, value in given.items() if value is not None}
    if len(ways) != 1:
        said = " and ".join(ways) or "none"
        raise ValueError(f"give the operations in one way, {_or(WAYS)} (with tokens): got {said}")
    ((way, value),) = ways.items()
    if way == "flops_per_example" and passes is not None:
        raise ValueError(
            "flops_per_example, given or counted on a model, are of all passes: leave passes out"
        )
    cost = TRAINING_PASSES if passes is None else passes
    for name, number in ((way, value), ("passes", cost), ("epochs", epochs)):
        positive(name, number)
    if way == "parameters":
        return _language_model(value, tokens, examples, epochs, cost)
    if tokens is not None:
        raise ValueError("tokens go with parameters: 6 x parameters x tokens")
    if examples is None:
        raise ValueError("examples are missing: how many the training set has")
    number = whole("examples", examples)
    if way == "flops_per_example":
        return Work(_per_example(value, number, epochs), number, epochs)
    each = 2 if way == "add_multiplies_per_pass" else 1
    method = by_operations(value, number, epochs, flops_per_add_multiply=each, passes=cost)
    return Work(method, number, epochs)


def check_utilization(utilization: float | None) -> None:
    """Question a share of peak, unless it is left to the kind of device.

    Raises:
        ValueError: it is not above 0 and at most 1.
    """
    if utilization is not None:
        flops_from_gpu_time(1, 1, 1, utilization)  # which checks it


def positive(name: str, value: object) -> float:
    """Return a number above 0 as it is.

    Raises:
        ValueError: it is none; names it.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:  # type: ignore[operator] # a number by now
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return value  # type: ignore[return-value] # numpy's numbers are Real too


def whole(name: str, value: object) -> int:
    """Return a whole number above 0 as an int; 1.28e6 is one.

    Raises:
        ValueError: it is none; names it.
    """
    number = positive(name, value)
    if number != int(number):
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
    return int(number)


def several(name: str, values: Any) -> list[Any]:
    """Return one value or several as a list.

    Raises:
        ValueError: it is neither; names it.
    """
    if isinstance(values, str | Real):
        return [values]
    if not isinstance(values, Iterable):
        raise ValueError(f"{name} must be a sequence, got {values!r}")  # noqa: TRY004 - as all bad options
    return list(values)


def whole_numbers(name: str, each: str, values: Any) -> list[int]:
    """Return one whole number above 0 or several, each once.

    Raises:
        ValueError: it is neither; calls the values `name` and one of them `each`.
    """
    return list(dict.fromkeys(whole(each, value) for value in several(name, values)))


def _per_example(flops: float, examples: int, epochs: float) -> Method:
    # One pass of one FLOP each: what a training step costs is in the figure.
    product = by_operations(flops, examples, epochs, flops_per_add_multiply=1, passes=1).flops
    factors = (
        Factor(flops, format_flops(flops, "FLOP per example, trained")),
        Factor(examples, f"{count(examples)} examples"),
        Factor(epochs, f"{count(epochs)} epoch{'s' * (epochs != 1)}", "FLOP"),
    )
    return Method("operations", factors, product)


def _language_model(
    parameters: float, tokens: float | None, examples: float | None, epochs: float, passes: float
) -> Work:
    if tokens is None:
        raise ValueError("tokens are missing: with parameters, those of the whole training")
    if examples is None and epochs != 1:
        raise ValueError("tokens are those of all epochs: leave epochs out, or give examples")
    positive("tokens", tokens)
    method = by_parameters(parameters, tokens, passes=passes)
    if examples is None:
        return Work(method, whole("tokens", tokens), epochs, in_tokens=True)
    return Work(method, whole("examples", examples), epochs)


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
