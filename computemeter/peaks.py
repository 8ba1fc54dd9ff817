"""Dense peak FLOP/s of devices, looked up by the name a framework reports.

Names match whole or not at all. Part of a name is the name of another card ("L4" in "NVIDIA L40S"),
so what is not in the table has no peak, and the user is told what to pass instead. The figures and
their sources are in `data/peaks.toml`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from computemeter.peak_table import PeakEntry, by_alias, find, normalise, rate_of, read_table

PRECISION_OF_DTYPE: Mapping[str, str] = {
    "float64": "fp64",
    "complex128": "fp64",
    "float32": "fp32",
    "complex64": "fp32",
    "tf32": "tf32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e3m4": "fp8",
    "float8_e4m3": "fp8",
    "float8_e4m3fn": "fp8",
    "float8_e4m3fnuz": "fp8",
    "float8_e4m3b11fnuz": "fp8",
    "float8_e5m2": "fp8",
    "float8_e5m2fnuz": "fp8",
    "float4_e2m1fn": "fp4",
    "float4_e2m1fn_x2": "fp4",
    "int8": "int8",
    "uint8": "int8",
}
"""Precision of a contraction by the data type of its inputs, as torch, JAX and TensorFlow call it.

"tf32" is no data type: it is what a counter books float32 work under that may use TF32 units.
A complex product is made of real ones, so it runs at the rate of its parts.
"""

REMEDY = "pass peak_flops= (dense FLOP/s of one device) to ComputeMeter/Meter"
"""What a user does about a device that is not known; ends every sentence that says so."""


@cache
def load_table() -> tuple[PeakEntry, ...]:
    """Return the rows of the project's own table, read once, on first use."""
    return read_table(files("computemeter").joinpath("data", "peaks.toml").read_text("utf-8"))


def lookup(name: str) -> PeakEntry | None:
    """Return the row of the project's table for the device that a framework reports as `name`.

    None if there is none. See `computemeter.peak_table.find` for what matches.

    >>> lookup("NVIDIA L40S").peaks["bf16"]
    362050000000000.0
    >>> lookup("NVIDIA H100") is None  # SXM5, PCIe or NVL?
    True
    """
    return find(name, _index())


def explain_unknown(name: str) -> str:
    """Return one sentence on why `name` has no peak and what to do about it.

    A name that fits several cards is called ambiguous; for any other the nearest names are given.
    """
    candidates = _names_with(_words(name))
    if len(candidates) > 1:
        return f'"{name}" is ambiguous: it could be {_or(candidates)}; {REMEDY}'
    nearest = candidates or _nearest(name)
    hint = f" (nearest: {_or(nearest)})" if nearest else ""
    return f'"{name}" is not in the table of peaks{hint}; {REMEDY}'


def precision_peak(peaks: Mapping[str, float], precision: str) -> float | None:
    """Return the peak of a device at a precision, None where it is not known.

    A precision without units of its own is emulated at a rate that nobody states, so bf16, fp8,
    fp4 and int8 fall back on nothing. Two cases are sure: fp16 without matrix units runs on the
    vector units, where they have a rate for it; and TF32 is a permission, which a chip that has
    neither TF32 nor bf16 units (a V100) cannot use: it computes in fp32. A chip with bf16 units
    may put TF32 together from bf16 products, so there it stays unknown.

    Args:
        peaks: FLOP/s by precision, from `PeakEntry.peaks` or `Device.peaks`.
        precision: one of `PRECISIONS`.
    """
    rate = rate_of(peaks, precision)
    if rate is None and precision == "tf32" and "bf16" not in peaks:
        return peaks.get("fp32")
    return rate


def effective_peak(by_dtype: Mapping[str, int], peaks: Mapping[str, float]) -> float | None:
    """Return the peak of a mix of precisions, in FLOP/s: all FLOPs over the least time they take.

    That is total / sum(flops_i / peak_i). None where nothing was counted, and where a data type
    that did work has no peak.

    >>> effective_peak({"float32": 100, "bfloat16": 300}, {"fp32": 10.0, "bf16": 60.0})
    26.666666666666668
    """
    seconds = 0.0
    for precision, flops in _by_precision(by_dtype).items():
        peak = precision_peak(peaks, precision)
        if not peak:
            return None
        seconds += flops / peak
    return sum(by_dtype.values()) / seconds if seconds else None


def unknown_precisions(by_dtype: Mapping[str, int], peaks: Mapping[str, float]) -> list[str]:
    """Return the precisions that did work and have no peak: why `effective_peak` is None."""
    return [each for each in _by_precision(by_dtype) if not precision_peak(peaks, each)]


def main_precision(by_dtype: Mapping[str, int]) -> str | None:
    """Return the precision of most of the FLOPs, None where nothing was counted.

    A data type that `PRECISION_OF_DTYPE` lacks stands for itself: better a name nobody has a peak
    for than a wrong one.
    """
    flops = _by_precision(by_dtype)
    return max(flops, key=flops.__getitem__) if flops else None


def _by_precision(by_dtype: Mapping[str, int]) -> dict[str, int]:
    flops: dict[str, int] = {}
    for dtype, count in by_dtype.items():
        precision = PRECISION_OF_DTYPE.get(dtype, dtype)
        if count:
            flops[precision] = flops.get(precision, 0) + count
    return flops


@cache
def _index() -> Mapping[str, PeakEntry]:
    return by_alias(load_table())


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", normalise(name)))


def _names_with(words: frozenset[str]) -> list[str]:
    """Return the devices that have all of these words in a name."""
    return [
        entry.name
        for entry in load_table()
        if words and any(words <= _words(label) for label in (entry.name, *entry.aliases))
    ]


def _nearest(name: str) -> list[str]:
    """Return devices of which an alias, or a part of one that has as many words, is like this."""
    number = max(1, len(normalise(name).split()))
    named: dict[str, list[str]] = {}
    for alias, entry in _index().items():
        for part in {alias, *_parts(alias, number)}:
            named.setdefault(part, []).append(entry.name)
    close = difflib.get_close_matches(normalise(name), named)
    return list(dict.fromkeys(each for part in close for each in named[part]))


def _parts(alias: str, number: int) -> list[str]:
    """Return so many words of an alias that stand side by side, wherever they begin."""
    words = re.split(r"[\s-]", alias)
    return [" ".join(words[start : start + number]) for start in range(len(words) - number + 1)]


def _or(names: list[str], most: int = 4) -> str:
    if len(names) > most + 1:  # one more is as short as to say so
        return f"{', '.join(names[:most])} or one of {len(names) - most} more"
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
