"""A run's compute worked out by hand, as the appendix of "AI and compute" does it.

    one = by_operations(750e6, examples=1.2e6, epochs=90)
    two = by_gpu_time(Machine(1.58e12, 2, name="GTX 580"), 5.5 * 86_400)
    print(compare(one, two).diagnosis)

The formulas are those of `computemeter.estimate`, the verdict is that of `computemeter.reconcile`;
here every factor gets its unit, and every intermediate product is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from computemeter.estimate import (
    flops_from_gpu_time,
    flops_from_operations,
    flops_from_parameters,
)
from computemeter.evidence import Evidence
from computemeter.options import Options
from computemeter.planning.factors import Factor, Method, count
from computemeter.planning.frozen import TRAINING_PASSES, Frozen
from computemeter.planning.machine import Machine
from computemeter.planning.quantities import WIDEST_DIVERGENCE, check_size, check_total, check_whole
from computemeter.reconcile import judge
from computemeter.records import Judgement, Verdict
from computemeter.units import (
    SECONDS_PER_DAY,
    SECONDS_PER_HOUR,
    format_compute,
    format_flops,
    format_seconds,
)
from computemeter.wording import percent, times

_RARE_BELOW = 0.05
"""Utilisation below which a run is rarer than a slip in a unit (public tables: median 0.33)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run by one method or by both.

    Attributes:
        operations: method 1; None where its factors are not known.
        gpu_time: method 2; None where its factors are not known.
        judgement: ratio, divergence, verdict and cause; None with one method.
        implied_utilization: share of peak that method 1 implies; None with one method, above 1
            where an input is wrong.
    """

    operations: Method | None
    gpu_time: Method | None
    judgement: Judgement | None = None
    implied_utilization: float | None = None

    @property
    def ratio(self) -> float | None:
        """Method 2 / method 1."""
        return self.judgement.ratio if self.judgement else None

    @property
    def divergence(self) -> float | None:
        """The larger of the methods over the smaller."""
        return self.judgement.divergence if self.judgement else None

    @property
    def verdict(self) -> Verdict:
        """Whether they agree; "unknown" with one method."""
        return self.judgement.verdict if self.judgement else "unknown"

    @property
    def diagnosis(self) -> str:
        """What follows, in one sentence."""
        return (
            self.judgement.diagnosis if self.judgement else "one method has nothing to agree with"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for `json.dumps`; FLOP are exact."""
        return {
            "operations": self.operations and self.operations.to_dict(),
            "gpu_time": self.gpu_time and self.gpu_time.to_dict(),
            "ratio": self.ratio,
            "divergence": self.divergence,
            "verdict": self.verdict,
            "diagnosis": self.diagnosis,
            "implied_utilization": self.implied_utilization,
        }


def by_operations(
    per_pass: float,
    examples: float,
    epochs: float = 1,
    *,
    flops_per_add_multiply: float = 2,
    passes: float = TRAINING_PASSES,
    frozen: Frozen | None = None,
    extra_factor: float = 1,
) -> Method:
    """Work method 1 out: see `computemeter.estimate.flops_from_operations`.

    Examples:
        >>> print(by_operations(750e6, examples=1.2e6, epochs=90))
        750M add-multiplies per example x 2 FLOP per add-multiply x 3 passes \
(forward 1, backward 2) x 1.2M examples x 90 epochs = 486 PFLOP = 0.00562 pfs-days

    Args:
        per_pass: add-multiplies of one forward pass over one example; FLOP where
            `flops_per_add_multiply` is 1.
        examples: in the training set.
        epochs: how often each is trained on.
        flops_per_add_multiply: 2, or 1 where `per_pass` has both counted.
        passes: cost of a training step in forward passes; 1 is inference.
        frozen: what is not trained, which says the passes instead.
        extra_factor: anything else the run multiplies by.

    Raises:
        ValueError: an argument is not a finite number above 0; operations or examples are few and
            not whole, so that a G or M was left out; passes are below 1, or given with frozen.
    """
    cost = _passes(passes, frozen)
    flops = flops_from_operations(
        per_pass,
        examples,
        epochs,
        flops_per_add_multiply=flops_per_add_multiply,
        passes=cost,  # type: ignore[arg-type] # a Fraction is exact
        extra_factor=extra_factor,
    )
    check_whole("operations per example", per_pass, "G")
    check_whole("examples", examples, "M")
    factors = [
        *_per_pass(per_pass, flops_per_add_multiply),
        Factor(float(cost), _passes_text(cost), f"FLOP per example{_trained(cost)}"),
        Factor(examples, f"{count(examples)} examples", "FLOP per epoch"),
        Factor(epochs, "1 epoch" if epochs == 1 else f"{count(epochs)} epochs", "FLOP"),
        *_extra(extra_factor),
    ]
    return Method("operations", tuple(factors), flops, _about_passes(cost, frozen))


def by_parameters(
    parameters: float,
    tokens: float,
    *,
    all_parameters: float | None = None,
    passes: float = TRAINING_PASSES,
    frozen: Frozen | None = None,
) -> Method:
    """Work method 1 out for a language model, 6PD: see `flops_from_parameters`.

    Args:
        parameters: weights that multiply each token: for a mixture of experts the active ones.
        tokens: trained on, repetitions included.
        all_parameters: of a mixture of experts, where they are known.
        passes: cost of a training step in forward passes; 1 is inference.
        frozen: what is not trained, which says the passes instead.

    Raises:
        ValueError: an argument is not a finite number above 0, is too small for a language model,
            more parameters are active than there are, or passes and frozen are both given.
    """
    cost = _passes(passes, frozen)
    flops = flops_from_parameters(parameters, tokens, passes=cost)  # type: ignore[arg-type] # exact
    check_size("parameters", parameters)
    check_size("tokens", tokens)
    if all_parameters is not None and all_parameters < parameters:
        raise ValueError(
            f"{count(parameters)} active parameters are more than all {count(all_parameters)}"
        )
    active = "" if all_parameters is None else f"active (of {count(all_parameters)}) "
    factors = (
        Factor(parameters, f"{count(parameters)} {active}parameters"),
        Factor(2, "2 FLOP per parameter and token", "FLOP per token, forward"),
        Factor(float(cost), _passes_text(cost), f"FLOP per token{_trained(cost)}"),
        Factor(tokens, f"{count(tokens)} tokens", "FLOP"),
    )
    attention = "attention over the context is left out, so that long contexts come out low"
    return Method("operations", factors, flops, (*_about_passes(cost, frozen), attention))


def by_gpu_time(
    machine: Machine, seconds: float, *, summed: bool = False, extra_factor: float = 1
) -> Method:
    """Work method 2 out: see `computemeter.estimate.flops_from_gpu_time`.

    Args:
        machine: devices, peak and assumed utilisation.
        seconds: training time.
        summed: `seconds` are those of all devices together (device-hours).
        extra_factor: anything else the run multiplies by.

    Raises:
        ValueError: an argument is not a finite number above 0.
    """
    devices = 1 if summed else machine.devices
    flops = flops_from_gpu_time(
        devices, seconds, machine.peak_flops, machine.utilization, extra_factor=extra_factor
    )
    peak = f"{format_flops(machine.peak_flops, 'FLOP/s')} peak"
    length = f"{count(seconds / SECONDS_PER_HOUR)} device-hours" if summed else _length(seconds)
    factors = [
        Factor(devices, (machine.name or "device") if summed else str(machine)),
        Factor(seconds, length),
        Factor(machine.peak_flops, peak, "FLOP at peak"),
        Factor(machine.utilization, f"{machine.utilization:g} utilisation", "FLOP"),
        *_extra(extra_factor),
    ]
    assumed = f"{percent(machine.utilization)} of peak is an assumption, not a measurement"
    return Method("gpu_time", tuple(factors), flops, (assumed,), machine.utilization)


def compare(operations: Method | None, gpu_time: Method | None) -> Estimate:
    """Set the methods against each other.

    Args:
        operations: method 1.
        gpu_time: method 2.

    Raises:
        ValueError: there is neither, or they differ so much that a unit must be wrong.
    """
    if operations is None and gpu_time is None:
        raise ValueError("neither method has its factors")
    for method in filter(None, (operations, gpu_time)):
        check_total(method.flops)
    if operations is None or gpu_time is None:
        return Estimate(operations, gpu_time)
    utilization = gpu_time.utilization
    assert utilization is not None, "method 2 assumes one"
    judgement = judge(_evidence(operations.flops, gpu_time.flops, utilization))
    apart = judgement.divergence or math.inf
    if apart >= WIDEST_DIVERGENCE:
        raise ValueError(
            f"the methods differ {apart:.1e}x ({format_compute(operations.flops)} by operations, "
            f"{format_compute(gpu_time.flops)} by GPU time): a unit must be wrong; a plain peak is "
            "FLOP/s, a plain time is seconds, operations are those of one example"
        )
    implied = utilization * operations.flops / gpu_time.flops
    diagnosis = _diagnosis(apart, implied, utilization)
    return Estimate(operations, gpu_time, replace(judgement, diagnosis=diagnosis), implied)


def _passes(passes: float, frozen: Frozen | None) -> float | Fraction:
    if passes < 1:
        raise ValueError(f"a training step costs at least 1 pass, the forward one, got {passes:g}")
    if frozen is None:
        return passes
    if passes != TRAINING_PASSES:
        raise ValueError("passes and a frozen share say the same thing twice: give one of them")
    return frozen.passes


def _passes_text(cost: float | Fraction) -> str:
    passes = float(cost)
    if passes == 1:
        return "1 pass (forward only)"
    return f"{passes:g} passes (forward 1, backward {passes - 1:g})"


def _trained(cost: float | Fraction) -> str:
    return "" if cost == 1 else ", trained"


def _about_passes(cost: float | Fraction, frozen: Frozen | None) -> tuple[str, ...]:
    if frozen is not None:
        return (str(frozen),)
    return ("forward passes only: training costs 3 times as much",) if cost == 1 else ()


def _per_pass(per_pass: float, flops_per_add_multiply: float) -> Iterator[Factor]:
    gives = "FLOP per example, forward"
    if flops_per_add_multiply == 1:
        yield Factor(per_pass, format_flops(per_pass, gives))
        return
    yield Factor(per_pass, f"{count(per_pass)} add-multiplies per example")
    text = f"{flops_per_add_multiply:g} FLOP per add-multiply"
    yield Factor(flops_per_add_multiply, text, gives)


def _extra(factor: float) -> list[Factor]:
    return [] if factor == 1 else [Factor(factor, f"{factor:.4g}, a factor given", "FLOP")]


def _length(seconds: float) -> str:
    if seconds < 2 * SECONDS_PER_DAY:
        return f"{format_seconds(seconds)} of training"
    return f"{count(seconds / SECONDS_PER_DAY)} days of {SECONDS_PER_DAY:,} s"


def _evidence(model_flops: int, gpu_time_flops: int, utilization: float) -> Evidence:
    # Given by hand, both are final: nothing has to settle, and no device was watched.
    return Evidence(
        model_flops=model_flops,
        gpu_time_flops=gpu_time_flops,
        hardware_flops=model_flops,
        device_seconds=0,
        training_seconds=0,
        busy_seconds=None,
        steps=2,
        peak_flops=None,
        assumed_utilization=utilization,
        uncounted_ops={},
        settled=True,
        settle_steps=0,
        settle_seconds=0,
        no_peak_reason="",
        warn_at=Options().warn_at,
        alarm_at=Options().alarm_at,
        device_kind="cuda",
    )


def _diagnosis(apart: float, implied: float, assumed: float) -> str:
    if implied > 1:
        return (
            f"an input is wrong: the operations are {times(implied)} what the devices can do in "
            "that time at their peak; check the units of time, peak and operations"
        )
    said = (
        f"the methods are {times(apart)} apart: the operations would be {percent(implied)} of peak "
        f"where {percent(assumed)} is assumed"
    )
    if implied < _RARE_BELOW:
        said += "; so little is rare: check the units of time, peak and operations"
    return said
