"""Method 2 for runs that no meter watched, from what a tracker knows: device, count, wall time.

Such a run has no count of operations. Its GPU time is devices x dense peak x wall time x assumed
utilisation, with the whole time from start to end in place of the training seconds: validation,
checkpoints and a forgotten notebook included. It is a hollow dot, and in no fit unless asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from computemeter.devices import named_device
from computemeter.estimate import GPU_UTILIZATION, flops_from_gpu_time
from computemeter.peak_table import PRECISIONS, PeakEntry, normalise
from computemeter.peaks import explain_unknown, load_table, precision_peak

ASSUMPTION = (
    f"estimated runs: devices x dense peak x wall time x {GPU_UTILIZATION} (method 2 alone); the "
    "peak is at the precision that a run states, else at bf16, or fp16 or fp32 where the device "
    "has no faster one"
)
"""What an estimate rests on, for whoever shows one."""

NO_DEVICE = "not metered, and what they ran on is not known (--assume-device says it)"
NO_TIME = "not metered, and how long they ran is not known"

# From the fastest that training commonly uses: where nothing is said, 2020s training is bf16.
_USUAL = ("bf16", "fp16", "fp32")
_LONGEST_SECONDS = 10 * 365.25 * 86_400
_ASSUMED = re.compile(
    r"(?:(?P<count>\d{1,7})\s*[x\u00d7]\s*)?(?P<name>[^@]+?)(?:@(?P<precision>\w+))?"
)
_WORDS_OF_PRECISION = {
    **dict.fromkeys(("bf16", "bf16-mixed", "bf16-true", "bfloat16"), "bf16"),
    **dict.fromkeys(("16", "16-mixed", "16-true", "fp16", "float16", "half"), "fp16"),
    **dict.fromkeys(("32", "32-true", "fp32", "float32", "no"), "fp32"),
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a run ran on, as far as it is known.

    Attributes:
        name: of one device, as a framework reports it.
        count: of devices.
        precision: one of `PRECISIONS`.
    """

    name: str | None = None
    count: int | None = None
    precision: str | None = None


@cache
def assumed_hardware(text: str) -> Hardware:
    """Read "4xA100", "8 x NVIDIA H100 80GB HBM3" or "4xA100@fp32"; without a count it is one.

    Raises:
        ValueError: not of this form, or a device that has no peak; says which there are.
    """
    parts = _ASSUMED.fullmatch(text.strip())
    if parts is None or parts["count"] == "0" or (parts["precision"] or "bf16") not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ValueError(
            f"{text!r}: accepted is COUNTxDEVICE or COUNTxDEVICE@PRECISION, such as '4xA100', "
            f"'8xNVIDIA H100 80GB HBM3@fp8'; precisions are {known}"
        )
    found = Hardware(parts["name"], int(parts["count"] or 1), parts["precision"])
    if _peak(parts["name"], parts["precision"], loosely=True) is None:
        raise ValueError(explain_unknown(parts["name"]).partition(";")[0])
    return found


def peak_of(found: Hardware) -> tuple[float, str] | None:
    """Return the dense peak of one device in FLOP/s and the precision it is at; None: not known.

    Where no precision is given it is bf16, or fp16 or fp32 where the device has no faster one.

    >>> peak_of(assumed_hardware("4xA100"))
    (312000000000000.0, 'bf16')

    Args:
        found: named as a framework reports it, or as a person types it.
    """
    return _peak(found.name or "", found.precision, loosely=True)


def stated_precision(word: object) -> str | None:
    """Read what frameworks write for a precision ("bf16-mixed", 16); None for anything else."""
    return _WORDS_OF_PRECISION.get(str(word).strip().lower())


def is_device(name: str) -> bool:
    """Say whether the name is that of a device with a peak: whole, as everywhere."""
    return _peak(name, None) is not None


def estimate(
    found: Hardware, assumed: Hardware | None, seconds: float | None
) -> dict[str, Any] | str:
    """Return the fields of an estimated `RunRecord`, or why there is no estimate.

    Args:
        found: what the tracker says; it comes first.
        assumed: for what it does not say.
        seconds: from the run's start to its end.
    """
    assumed = assumed or Hardware()
    by_tracker = found.name is not None and _peak(found.name, None) is not None
    chosen = found if by_tracker else assumed
    peak = _peak(chosen.name or "", found.precision or chosen.precision, loosely=not by_tracker)
    if peak is None:
        unknown = found.name if assumed.name is None else None
        return f'not metered, and "{unknown[:80]}" has no known peak' if unknown else NO_DEVICE
    if seconds is None or not 0 < seconds < _LONGEST_SECONDS:
        return NO_TIME
    count, rate = found.count or assumed.count or 1, peak[0]
    return {
        "run_flops": None,
        "spent_flops": None,
        "lineage_flops": None,
        "gpu_time_flops": flops_from_gpu_time(count, seconds, rate),
        "possible_flops": round(count * seconds * rate),
        "ratio": None,
        "verdict": "unknown",
        "cause": "none",
        "mfu": None,
        "device_seconds": count * seconds,
        "device_name": chosen.name,
        "device_count": count,
        "segments": 1,
        "steps": None,
        "estimated": True,
    }


@lru_cache(4096)  # names come from trackers
def _peak(name: str, precision: str | None, *, loosely: bool = False) -> tuple[float, str] | None:
    """Return the peak of one device in FLOP/s and the precision: the given or the fastest usual.

    Args:
        name: matched whole.
        precision: None where it is not known.
        loosely: what a person typed ("A100") is also every card of these words, where all of them
            have one peak.
    """
    peaks = [dict(named_device(name, "cuda").peaks)] if name else []
    if loosely and peaks == [{}]:
        peaks = [entry.peaks for entry in _cards(name)]
    rates = {_rate(each, precision) for each in peaks}
    return rates.pop() if len(rates) == 1 else None


def _rate(peaks: dict[str, float], precision: str | None) -> tuple[float, str] | None:
    rates = ((precision_peak(peaks, each), each) for each in ([precision] if precision else _USUAL))
    return next(((rate, each) for rate, each in rates if rate), None)


def _cards(name: str) -> list[PeakEntry]:
    words = _words(name)
    return [
        entry
        for entry in load_table()
        if words and any(words <= _words(label) for label in (entry.name, *entry.aliases))
    ]


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", normalise(name)))
