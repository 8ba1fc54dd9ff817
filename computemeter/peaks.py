"""Dense peak FLOP/s of devices, looked up by the name a framework reports.

Names match whole or not at all. Part of a name is the name of another card ("L4" in "NVIDIA L40S"),
so what is not in the table has no peak, and the user is told what to pass instead. The figures and
their sources are in `data/peaks.toml`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8")
"""The precisions a peak is given for, as `Device.peaks` keys them."""

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

# Where a chip has two rates for one precision, the one contractions run at comes first: BLAS uses
# the matrix units for fp64 by itself, and half precision only runs on vector units where there are
# no matrix units.
_RATES: Mapping[str, tuple[str, ...]] = {
    "fp64": ("fp64_tensor", "fp64"),
    "fp16": ("fp16", "fp16_vector"),
}
_COLUMNS = frozenset(PRECISIONS) | {"fp64_tensor", "fp16_vector"}
_TERA = 1e12

_MARKS = re.compile(r"\((?:r|tm|c)\)|[®™©]")
_MIG = re.compile(r"(?P<card>.+) mig (?P<profile>(?:(?P<c>\d)c\.)?(?P<g>\d)g\.\d+gb\S*)")


@dataclass(frozen=True, slots=True)
class PeakEntry:
    """A row of the table: one board or chip.

    Attributes:
        name: how the table calls it ("A100 SXM4 40GB").
        vendor: who makes it.
        aliases: how frameworks report it.
        devices_per_board: devices a framework sees on one board (2 on a Tesla K80).
        tflops: dense TFLOP/s of the whole board, by precision; also "fp64_tensor" and
            "fp16_vector" where they differ from "fp64" and "fp16".
        memory_gb: memory of the board in GB.
        bandwidth_gbs: memory bandwidth of the board in GB/s.
        source: where the figures are printed.
        confidence: "high", "medium" or "low".
        note: what a user should know.
        year: when it came out.
        mig_slices: compute slices of the full card, where it can be partitioned.
    """

    name: str
    tflops: Mapping[str, float]
    aliases: tuple[str, ...]
    vendor: str = ""
    devices_per_board: int = 1
    memory_gb: float | None = None
    bandwidth_gbs: float | None = None
    source: str = ""
    confidence: str = ""
    note: str = ""
    year: int | None = None
    mig_slices: int | None = None

    @property
    def peaks(self) -> dict[str, float]:
        """Dense peak of one device as a framework sees it, in FLOP/s, by `PRECISIONS`.

        The board's figure over `devices_per_board`. For fp64 the rate of the matrix units where
        there are any, for fp16 that of the vector units where there are no others.
        """
        scale = _TERA / self.devices_per_board
        board = ((precision, _rate(self.tflops, precision)) for precision in PRECISIONS)
        return {precision: tflops * scale for precision, tflops in board if tflops is not None}


def normalise(name: str) -> str:
    """Return a device's name in the form in which names are compared.

    >>> normalise("Intel(R) Data Center  GPU Max 1550")
    'intel data center gpu max 1550'
    >>> normalise("NVIDIA L40S")
    'l40s'
    """
    return " ".join(_MARKS.sub(" ", name.casefold()).split()).removeprefix("nvidia ")


@cache
def load_table() -> tuple[PeakEntry, ...]:
    """Return the rows of the project's own table, read once, on first use."""
    return read_table(files("computemeter").joinpath("data", "peaks.toml").read_text("utf-8"))


def read_table(text: str) -> tuple[PeakEntry, ...]:
    """Return the rows of a table in the form of `data/peaks.toml`, whose header describes it.

    Raises:
        ValueError: no TOML, a key that is not known, a figure that is not a positive number, or
            one alias on two rows.
    """
    entries = tuple(_entry(row) for row in tomllib.loads(text).get("device", ()))
    _by_alias(entries)
    return entries


def lookup(name: str) -> PeakEntry | None:
    """Return the row of the device that a framework reports as `name`, None if there is none.

    Only a whole alias matches. A MIG slice ("NVIDIA A100-SXM4-40GB MIG 1g.5gb") is its card with
    the peaks scaled by compute slices, 1g of an A100 to a seventh. Slices are not quite even: this
    is 15 % too much for 1g of an H100 (16 of 132 SMs) and 6 % too little for 3g (60).

    >>> lookup("NVIDIA L40S").peaks["bf16"]
    362050000000000.0
    >>> lookup("NVIDIA H100") is None  # SXM5, PCIe or NVL?
    True
    """
    wanted = normalise(name)
    slice_ = _MIG.fullmatch(wanted)
    entry = _index().get(slice_["card"] if slice_ else wanted)
    return _sliced(entry, slice_) if entry and slice_ else entry


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
    rate = _rate(peaks, precision)
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


def _rate(figures: Mapping[str, float], precision: str) -> float | None:
    columns = _RATES.get(precision, (precision,))
    return next((figures[column] for column in columns if column in figures), None)


@cache
def _index() -> Mapping[str, PeakEntry]:
    return _by_alias(load_table())


def _by_alias(entries: Iterable[PeakEntry]) -> dict[str, PeakEntry]:
    index: dict[str, PeakEntry] = {}
    for entry in entries:
        # A dict: "thor" and "nvidia thor" of one row are the same name here.
        for alias in dict.fromkeys(map(normalise, entry.aliases)):
            if alias in index:
                raise ValueError(f"{alias!r} is an alias of {index[alias].name} and {entry.name}")
            index[alias] = entry
    return index


def _entry(row: Mapping[str, Any]) -> PeakEntry:
    name = row.get("name", "a device without a name")
    known = {entry_field.name for entry_field in fields(PeakEntry)}
    if missing := {"name", "aliases", "tflops"} - row.keys():
        raise ValueError(f"{name}: {', '.join(sorted(missing))} missing")
    if unknown := row.keys() - known:
        raise ValueError(f"{name}: {', '.join(sorted(unknown))} not known")
    _check_figures(name, row["tflops"] | {"devices_per_board": row.get("devices_per_board", 1)})
    return PeakEntry(**{**row, "aliases": tuple(row["aliases"])})


def _check_figures(name: str, figures: Mapping[str, object]) -> None:
    if unknown := figures.keys() - _COLUMNS - {"devices_per_board"}:
        accepted = ", ".join(sorted(_COLUMNS))
        raise ValueError(f"{name}: tflops takes {accepted}, not {', '.join(sorted(unknown))}")
    for key, value in figures.items():
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{name}: {key} must be a positive number, not {value!r}")


def _sliced(card: PeakEntry, slice_: re.Match[str]) -> PeakEntry | None:
    """Return the part of a card that a MIG profile holds; "1c.2g.10gb" computes on 1 slice of 2."""
    slices = int(slice_["c"] or slice_["g"])
    if card.mig_slices is None or slices > card.mig_slices:
        return None
    return replace(
        card,
        name=f"{card.name}, MIG {slice_['profile']}",
        tflops={column: t * slices / card.mig_slices for column, t in card.tflops.items()},
        aliases=(),
        memory_gb=None,
        bandwidth_gbs=None,
        source=f"{slices} of {card.mig_slices} compute slices of: {card.source}",
    )


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
    close = difflib.get_close_matches(normalise(name), _index())
    return list(dict.fromkeys(_index()[alias].name for alias in close))


def _or(names: list[str], most: int = 4) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} or one of {len(names) - most} more"
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
