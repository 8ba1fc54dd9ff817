"""Compute from plain numbers: the two methods of "AI and compute", and 6PD for language models.

For runs that no meter watched (a paper, a plan, a row in a tracker) and for the meter itself, whose
method 2 is `flops_from_gpu_time` and nothing else. Everything is in FLOP, one per add and one per
multiply; `computemeter.units` converts to petaflop/s-days.

Source of both methods: Amodei and Hernandez, "AI and compute", OpenAI, 2018, appendix.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Rational, Real

GPU_UTILIZATION = 0.33
"""Share of peak that method 2 assumes of a GPU or TPU ("AI and compute", 2018)."""
CPU_UTILIZATION = 0.17
"""Share of peak that method 2 assumes of a CPU ("AI and compute", 2018)."""


def flops_from_operations(
    add_multiplies_per_pass: float,
    examples: float,
    epochs: float = 1.0,
    *,
    flops_per_add_multiply: float = 2,
    passes: float = 3,
    extra_factor: float = 1.0,
) -> int:
    """Estimate a run's FLOP by method 1: count the operations of the architecture.

    The product of all arguments, computed exactly and rounded half to even once.

    Examples:
        AlexNet, as the appendix works it out (it prints 470 PF):

        >>> flops_from_operations(7.5e8, 1.2e6, 90)
        486000000000000000

    Args:
        add_multiplies_per_pass: multiply-adds of one forward pass over one example.
        examples: examples in the training set (images, words, frames: whatever one pass reads).
        epochs: how often each is trained on; 7.5 is fine.
        flops_per_add_multiply: 2, as an add and a multiply count separately.
        passes: cost of a training step in forward passes: 3, as backward takes about twice a
            forward; near 2 where the first layer dominates, toward 4 with tiny batches.
        extra_factor: anything else the run multiplies by, such as restarts.

    Raises:
        ValueError: an argument is not a finite number above 0.
    """
    return _rounded_product(
        add_multiplies_per_pass=add_multiplies_per_pass,
        examples=examples,
        epochs=epochs,
        flops_per_add_multiply=flops_per_add_multiply,
        passes=passes,
        extra_factor=extra_factor,
    )


def flops_from_gpu_time(
    devices: float,
    seconds: float,
    peak_flops: float,
    utilization: float = GPU_UTILIZATION,
    *,
    extra_factor: float = 1.0,
) -> int:
    """Estimate a run's FLOP by method 2: devices x seconds x peak x assumed utilisation.

    Computed exactly and rounded half to even once.

    Examples:
        AlexNet on two GTX 580, "five to six days" (the appendix prints 500 PF):

        >>> flops_from_gpu_time(2, 5.5 * 86_400, 1.58e12)
        495538560000000000

    Args:
        devices: devices that trained at the same time.
        seconds: training time of the run, not summed over devices.
        peak_flops: dense peak of one device in FLOP/s at the precision used.
        utilization: share of the peak that training is assumed to reach, above 0, at most 1.
        extra_factor: anything else the run multiplies by.

    Raises:
        ValueError: an argument is not a finite number above 0, or `utilization` is above 1.
    """
    _check_share("utilization", utilization)
    return _rounded_product(
        devices=devices,
        seconds=seconds,
        peak_flops=peak_flops,
        utilization=utilization,
        extra_factor=extra_factor,
    )


def flops_from_parameters(parameters: float, tokens: float, *, passes: float = 3) -> int:
    """Estimate the FLOP of training a dense language model: 6PD.

    Each parameter does one multiply-add (2 FLOP) per token and pass, and a training step costs 3
    passes. Attention over the context is left out, so long contexts come out low; for a mixture
    of experts give the parameters active per token. Source: Kaplan et al., "Scaling Laws for
    Neural Language Models", 2020, section 2.1 (C = 6ND).

    Examples:
        >>> flops_from_parameters(3.8e9, 3.3e12)
        75240000000000000000000

    Args:
        parameters: weights that multiply each token.
        tokens: tokens trained on, repetitions included.
        passes: cost of a training step in forward passes; 1 for inference.

    Raises:
        ValueError: an argument is not a finite number above 0.
    """
    return _rounded_product(
        flops_per_parameter=2, parameters=parameters, tokens=tokens, passes=passes
    )


def _rounded_product(**factors: float) -> int:
    # One pass over integers and one rounding: Fraction x Fraction reduces at every step and took
    # three times as long, and the meter calls this whenever it logs.
    numerator = denominator = 1
    for name, value in factors.items():
        top, bottom = _positive_ratio(name, value)
        numerator *= top
        denominator *= bottom
    return round(Fraction(numerator, denominator))


def _positive_ratio(name: str, value: object) -> tuple[int, int]:
    ratio = _as_ratio(value)
    if ratio is None or ratio[0] <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return ratio


def _check_share(name: str, value: object) -> None:
    ratio = _as_ratio(value)
    if ratio is None or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(
            f"{name} must be a share of peak above 0 and at most 1 (0.33, not 33), got {value!r}"
        )


def _as_ratio(value: object) -> tuple[int, int] | None:
    if isinstance(value, float):  # asked first: the abstract classes below are slow
        return _as_decimal(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Integral):
        return int(value), 1
    if isinstance(value, Rational):
        return int(value.numerator), int(value.denominator)
    return _as_decimal(float(value)) if isinstance(value, Real) else None


def _as_decimal(value: float) -> tuple[int, int] | None:
    # A float stands for the decimal it prints as: 0.33 is 33/100, so that a product agrees with
    # the one worked out by hand, and not 0.33000000000000001554.
    if not math.isfinite(value):
        return None
    return Decimal(float.__repr__(value)).as_integer_ratio()
