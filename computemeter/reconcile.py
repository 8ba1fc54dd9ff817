"""Whether the two methods agree, and why not: ratio, divergence, verdict, cause, diagnosis, MFU.

The one place for these. Method 1 counts operations; method 2 assumes that the devices ran at a
fixed share of their peak. So ratio = assumed utilisation / utilisation that the count implies, and
a wide ratio means one of four things: operations without a formula, a wrong peak, a device that
waits, or a run that really uses little of its device. Only the first two are faults worth a
warning, and most work here goes into not raising one for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from computemeter.evidence import Evidence
from computemeter.records import Cause, Judgement, Verdict
from computemeter.units import format_compute, format_flops, format_seconds
from computemeter.wording import called, counted, name_ops, percent, times

_LOUD: frozenset[Cause] = frozenset({"count_suspect", "peak_suspect"})
_IDLE_BELOW = 0.5
"""Share of training time spent in steps below which waiting is named as the cause."""
_PLAUSIBLE_SHARE = {"cpu": 0.9}
_PLAUSIBLE_ELSEWHERE = 0.66
"""Shares of peak that training reaches without any fault in the numbers. A CPU's matrix library
comes near the peak; on a GPU two thirds is what the best published runs reach."""
_COMPILING_FROM = 0.25
"""Share of training time spent on compiling from which the run is called short."""
_SMALL_BELOW_SECONDS = 10e-6
"""Time of a contraction at peak below which starting it costs more than running it: a kernel launch
takes some 5 us, and the framework's own work on an operator as long again."""


def mfu(flops: int, device_seconds: float, peak_flops: float | None) -> float | None:
    """Return the share of peak that `flops` make up: MFU of model FLOPs, HFU of hardware FLOPs.

    Source: Chowdhery et al., "PaLM", 2022, appendix B. None where there is nothing to divide: no
    peak, no time, or no FLOP (training always does work: 0 means that it was not counted). None
    also above 1, which is no utilisation but a fault in the peak or the count; `judge` names it.

    >>> round(mfu(486 * 10**15, 2 * 5.5 * 86_400, 1.58e12), 4)  # AlexNet on two GTX 580
    0.3236
    >>> mfu(10**15, 1.0, 1e12) is None
    True

    Args:
        flops: model or hardware FLOPs.
        device_seconds: training seconds x devices.
        peak_flops: dense peak of one device in FLOP/s.
    """
    share = _share_of_peak(flops, device_seconds, peak_flops)
    return share if share is not None and share <= 1 else None


def judge(evidence: Evidence) -> Judgement:
    """Compare the two methods and say in one sentence what follows.

    The verdict comes from the divergence alone: "agree" below `warn_at`, "warn" from `warn_at`,
    "alarm" from `alarm_at`; "unknown" where a method has no number or the run has not settled.
    The cause is the first that fits, faults before facts: work above the peak, a count that is
    incomplete, a device that waits, a run that mostly compiles, low utilisation with what explains
    it best. Work above the peak is a fault at any
    verdict; every other "agree" has cause "none".

    Args:
        evidence: the numbers of both methods and what surrounds them; steps, seconds and totals
            may be zero.

    Returns:
        ratio and divergence wherever both methods have a number, settled or not.
    """
    case = _Case(evidence, *_compare(evidence))
    unknown = _first(_UNKNOWN, case)
    cause, diagnosis = unknown or _first(_KNOWN, case) or _low_utilization(case)
    if evidence.idle_accelerator is not None:
        diagnosis += f"; it runs on the CPU though {evidence.idle_accelerator} is there"
    return Judgement(
        ratio=case.ratio,
        divergence=case.divergence,
        verdict="unknown" if unknown else _verdict(case),
        cause=cause,
        diagnosis=diagnosis,
    )


def is_loud(judgement: Judgement) -> bool:
    """Say whether a judgement deserves a warning: only a fault in the count or the peak does.

    >>> is_loud(Judgement(17.0, 17.0, "alarm", "low_utilization", "this run uses 1 % of peak"))
    False
    """
    return judgement.cause in _LOUD


@dataclass(frozen=True, slots=True)
class _Case:
    """The evidence with what every rule derives from it."""

    evidence: Evidence
    ratio: float | None
    divergence: float | None

    @property
    def apart(self) -> str:
        return times(self.divergence or 1.0)

    def share_of_peak(self, flops: int) -> float:
        e = self.evidence
        share = _share_of_peak(flops, e.device_seconds, e.peak_flops)
        if share is not None:
            return share
        # Segments on different devices have no one peak, but method 2 carries their peaks.
        return e.assumed_utilization * flops / e.gpu_time_flops if e.gpu_time_flops else 0.0

    @property
    def implied(self) -> float:
        return self.share_of_peak(self.evidence.model_flops)

    @property
    def busy_fraction(self) -> float | None:
        return self._of_training(self.evidence.busy_seconds)

    @property
    def stalled(self) -> float | None:
        return self._of_training(self.evidence.stall_seconds)

    @property
    def compiling(self) -> float | None:
        return self._of_training(self.evidence.compile_seconds)

    def _of_training(self, seconds: float | None) -> float | None:
        whole = self.evidence.training_seconds
        return None if seconds is None or whole <= 0 else min(1.0, seconds / whole)


_Finding = tuple[Cause, str]
_Rule = Callable[[_Case], _Finding | None]


def _share_of_peak(flops: int, device_seconds: float, peak_flops: float | None) -> float | None:
    if flops <= 0 or device_seconds <= 0 or peak_flops is None or peak_flops <= 0:
        return None
    return flops / (device_seconds * peak_flops)


def _compare(e: Evidence) -> tuple[float | None, float | None]:
    one, two = e.model_flops, e.gpu_time_flops
    if two is None or one <= 0 or two <= 0:
        return None, None
    # The larger over the smaller and not 1 / ratio, which would round twice: a run exactly at a
    # threshold must land on the same side of it whichever method is higher.
    return two / one, max(one, two) / min(one, two)


def _verdict(case: _Case) -> Verdict:
    divergence = case.divergence or 1.0
    if divergence >= case.evidence.alarm_at:
        return "alarm"
    return "warn" if divergence >= case.evidence.warn_at else "agree"


def _first(rules: tuple[_Rule, ...], case: _Case) -> _Finding | None:
    return next((finding for rule in rules if (finding := rule(case))), None)


# Why there is no verdict, most telling first.


def _no_step(case: _Case) -> _Finding | None:
    if case.evidence.steps > 0:
        return None
    return "short_run", "no training step has run"


def _nothing_counted(case: _Case) -> _Finding | None:
    e = case.evidence
    if e.model_flops > 0:
        return None
    reason = e.no_count_reason or (
        f"{name_ops(e.uncounted_ops)} without a formula"
        if called(e.uncounted_ops)
        else "no matmul, convolution or attention ran where the meter could see it"
    )
    return "count_suspect", f"nothing was counted in {counted(e.steps, 'step')}: {reason}"


def _no_peak(case: _Case) -> _Finding | None:
    e = case.evidence
    if e.peak_flops is not None or e.gpu_time_flops is not None:
        return None
    reason = e.no_peak_reason.strip().rstrip(".") or "the peak of the device is not known"
    return "no_peak", f"the operations have nothing to be compared with: {reason}"


def _not_settled(case: _Case) -> _Finding | None:
    e = case.evidence
    if e.settled and e.steps > 1 and case.ratio is not None:
        return None
    so_far = f"{counted(e.steps, 'step')} in {format_seconds(e.training_seconds)}"
    # A run that settled and still cannot be judged has one step or no time: say no more than that.
    when = "" if e.settled else f": it settles after {_settling(e)}"
    return "short_run", f"the run is too short to judge at {so_far}{when}"


_UNKNOWN: tuple[_Rule, ...] = (_no_step, _nothing_counted, _no_peak, _not_settled)


# Why the methods differ, faults first.


def _above_peak(case: _Case) -> _Finding | None:
    e = case.evidence
    share, work = max(
        (case.share_of_peak(e.model_flops), "counted"),
        (case.share_of_peak(e.hardware_flops), "counted with recomputation"),
        key=lambda pair: pair[0],
    )
    if share <= 1:
        return None
    return "peak_suspect", (
        f"the work {work} is {times(share)} what the hardware can do at {_peak(e)}, "
        f"so the peak is too low or the count too high: {_what_to_check(e)}"
    )


def _agree(case: _Case) -> _Finding | None:
    e = case.evidence
    if _verdict(case) != "agree":
        return None
    one, two = format_compute(e.model_flops), format_compute(e.gpu_time_flops or 0)
    return "none", (
        f"the methods agree within {case.apart}: {one} by operations, {two} by device time"
        f"{_left_out(e)}"
    )


def _high_utilization(case: _Case) -> _Finding | None:
    e = case.evidence
    if case.ratio is None or case.ratio >= 1:
        return None
    if case.implied <= _PLAUSIBLE_SHARE.get(e.device_kind, _PLAUSIBLE_ELSEWHERE):
        return "none", (
            f"the methods differ {case.apart} because this run uses {percent(case.implied)} of "
            f"peak where {percent(e.assumed_utilization)} is assumed, as large products and "
            f"convolutions do{_left_out(e)}"
        )
    return "peak_suspect", (
        f"this would be {percent(case.implied)} of peak where "
        f"{percent(e.assumed_utilization)} is assumed: possible where large matrix products fill "
        f"the device, else {_peak(e)} is too low for what ran; {_what_to_check(e)}"
    )


def _incomplete_count(case: _Case) -> _Finding | None:
    e = case.evidence
    if not called(e.uncounted_ops):
        return None
    return "count_suspect", (
        f"the methods differ {case.apart} and the count is incomplete: "
        f"{name_ops(e.uncounted_ops)} without a formula"
    )


def _waiting(case: _Case) -> _Finding | None:
    busy, stalled = case.busy_fraction, case.stalled
    # A device that works while the host waits for data is not held up by it.
    idle = stalled if busy is None else 1 - busy - (case.compiling or 0.0)
    if idle is None or idle <= 1 - _IDLE_BELOW:
        return None
    if stalled is not None and stalled >= idle / 2:
        where = f"{percent(stalled)} of the training time was spent waiting for data"
    else:
        where = (
            f"{percent(idle)} of the training time was spent outside the steps (data loading, "
            "logging, callbacks)"
        )
    return "input_bound", (
        f"the methods differ {case.apart}: every operator has a formula, {where}"
        f"{_within_steps(case.implied, 1 - idle)}"
    )


def _mostly_compiling(case: _Case) -> _Finding | None:
    share = case.compiling
    if share is None or share < _COMPILING_FROM:
        return None
    return "short_run", (
        f"the methods differ {case.apart}: every operator has a formula, {percent(share)} of the "
        "training time was spent compiling, which a longer run would not notice"
    )


def _low_utilization(case: _Case) -> _Finding:
    return "low_utilization", (
        f"the methods differ {case.apart}: every operator has a formula, this run uses "
        f"{percent(case.implied)} of peak where {percent(case.evidence.assumed_utilization)} is "
        f"assumed{_why_low(case.evidence)}"
    )


def _why_low(e: Evidence) -> str:
    """Explain a low utilisation by the shape of the work, as far as that is known."""
    each, intensity, peak = e.flops_per_contraction, e.flops_per_byte, e.peak_flops
    if each and peak and each / peak < _SMALL_BELOW_SECONDS:
        return (
            f": its operations are small, {format_flops(each)} each, and take less than it takes "
            "to start one; larger batches would use more"
        )
    if intensity and peak and e.bandwidth and intensity < peak / e.bandwidth:
        return (
            f": its operations wait for memory, {intensity:.3g} FLOP for each byte where this "
            f"device needs {peak / e.bandwidth:.3g}"
        )
    return ", as small or memory-bound models do"


_KNOWN: tuple[_Rule, ...] = (
    _above_peak,
    _agree,
    _high_utilization,
    _incomplete_count,
    _waiting,
    _mostly_compiling,
)


# How numbers read in a diagnosis.


def _what_to_check(e: Evidence) -> str:
    if e.device_kind == "cpu":
        return "check cores, clock, vector width and work counted twice"
    return (
        "check device, precision, number of devices, masked attention (counted dense) and work "
        "counted twice"
    )


def _peak(e: Evidence) -> str:
    if e.peak_flops is None:
        return "the peak assumed"
    return f"a peak of {format_flops(e.peak_flops, 'FLOP/s')} a device"


def _within_steps(implied: float, busy: float) -> str:
    # Waiting rarely explains all of a wide ratio: this is what would be left without it. Above 1
    # the busy time is wrong, and a wrong number is no evidence.
    if not 0 < implied <= busy:
        return ""
    return f"; within them it uses {percent(implied / busy)} of peak"


def _settling(e: Evidence) -> str:
    steps = [counted(e.settle_steps, "step")] if e.settle_steps > 0 else []
    seconds = [format_seconds(e.settle_seconds)] if e.settle_seconds > 0 else []
    return " and ".join(steps + seconds) or "its second step"


def _left_out(e: Evidence) -> str:
    if not called(e.uncounted_ops):
        return ""
    return f"; the count leaves out {name_ops(e.uncounted_ops)}"
