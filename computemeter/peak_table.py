"""Tables of devices' peaks: their rows, how a name finds its row, and the file they are kept in.

The project's own is `data/peaks.toml`, whose header describes the form; a user's takes the same.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any

PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8")
"""The precisions a peak is given for, as `Device.peaks` keys them."""

# Where a chip has two rates for one precision, the one contractions run at comes first: BLAS uses
# the matrix units for fp64 by itself, and half precision only runs on vector units where there are
# no matrix units.
_RATES: Mapping[str, tuple[str, ...]] = {
    "fp64": ("fp64_tensor", "fp64"),
    "fp16": ("fp16", "fp16_vector"),
}
_COLUMNS = frozenset(PRECISIONS) | {"fp64_tensor", "fp16_vector"}
_TEXTS = ("name", "vendor", "source", "confidence", "note")
_WHOLE_NUMBERS = ("devices_per_board", "mig_slices", "year")
_NUMBERS = ("memory_gb", "bandwidth_gbs")
_TERA = 1e12
_GIGA = 1e9

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
    def bandwidth(self) -> float | None:
        """Memory bandwidth of one device, in bytes/s; None where it is not known."""
        board = self.bandwidth_gbs
        return None if board is None else board * _GIGA / self.devices_per_board

    @property
    def peaks(self) -> dict[str, float]:
        """Dense peak of one device as a framework sees it, in FLOP/s, by `PRECISIONS`.

        The board's figure over `devices_per_board`. For fp64 the rate of the matrix units where
        there are any, for fp16 that of the vector units where there are no others.
        """
        scale = _TERA / self.devices_per_board
        board = ((precision, rate_of(self.tflops, precision)) for precision in PRECISIONS)
        return {precision: tflops * scale for precision, tflops in board if tflops is not None}


def read_table(text: str) -> tuple[PeakEntry, ...]:
    """Return the rows of a table in the form of `data/peaks.toml`, whose header describes it.

    Raises:
        ValueError: no TOML, no row, a key that is not known, a value of the wrong kind, a figure
            that is not a positive number, or one alias on two rows. In one line.
    """
    document = tomllib.loads(text)
    if unknown := document.keys() - {"device"}:
        raise ValueError(f"a table of peaks has [[device]] alone, not {_and(unknown)}")
    rows = document.get("device")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("a table of peaks has a [[device]] for each device, and this one has none")
    entries = tuple(_entry(row) for row in rows)
    by_alias(entries)
    return entries


def by_alias(entries: Iterable[PeakEntry]) -> dict[str, PeakEntry]:
    """Return rows by the names that find them, as `normalise` writes these.

    Raises:
        ValueError: two rows have the same alias.
    """
    index: dict[str, PeakEntry] = {}
    for entry in entries:
        # A dict: "thor" and "nvidia thor" of one row are the same name here.
        for alias in dict.fromkeys(map(normalise, entry.aliases)):
            if alias in index:
                raise ValueError(f"{alias!r} is an alias of {index[alias].name} and {entry.name}")
            index[alias] = entry
    return index


def find(name: str, index: Mapping[str, PeakEntry]) -> PeakEntry | None:
    """Return the row of the device that a framework reports as `name`, None if there is none.

    Only a whole alias matches. A MIG slice ("NVIDIA A100-SXM4-40GB MIG 1g.5gb") that is no alias
    itself is its card with the peaks scaled by compute slices, 1g of an A100 to a seventh. Slices
    are not quite even: this is 15 % too much for 1g of an H100 (16 of 132 SMs) and 6 % too little
    for 3g (60).

    Args:
        name: as a framework reports it.
        index: rows by name, from `by_alias`.
    """
    wanted = normalise(name)
    slice_ = _MIG.fullmatch(wanted)
    if wanted in index or slice_ is None:
        return index.get(wanted)
    card = index.get(slice_["card"])
    return _sliced(card, slice_) if card else None


def normalise(name: str) -> str:
    """Return a device's name in the form in which names are compared.

    >>> normalise("Intel(R) Data Center  GPU Max 1550")
    'intel data center gpu max 1550'
    >>> normalise("NVIDIA L40S")
    'l40s'
    """
    return " ".join(_MARKS.sub(" ", name.casefold()).split()).removeprefix("nvidia ")


def rate_of(figures: Mapping[str, float], precision: str) -> float | None:
    """Return the rate at which contractions of a precision run, None where there is none.

    Args:
        figures: rates by column, in any unit; "fp64_tensor" wins over "fp64", "fp16" over
            "fp16_vector".
        precision: one of `PRECISIONS`.
    """
    columns = _RATES.get(precision, (precision,))
    return next((figures[column] for column in columns if column in figures), None)


def _entry(row: Mapping[str, Any]) -> PeakEntry:
    name = row.get("name", "a device without a name")
    known = {entry_field.name for entry_field in fields(PeakEntry)}
    if missing := {"name", "aliases", "tflops"} - row.keys():
        raise ValueError(f"{name}: {_and(missing)} missing")
    if unknown := row.keys() - known:
        raise ValueError(f"{name}: {_and(unknown)} not known")
    _check_texts(name, row)
    _check_numbers(name, row)
    _check_tflops(name, row["tflops"])
    return PeakEntry(**{**row, "aliases": tuple(row["aliases"])})


def _check_texts(name: object, row: Mapping[str, Any]) -> None:
    if wrong := [key for key in _TEXTS if not isinstance(row.get(key, ""), str)]:
        raise ValueError(f"{name}: {wrong[0]} must be a text, not {row[wrong[0]]!r}")
    aliases = row["aliases"]
    # A single text would be taken for its letters.
    if not isinstance(aliases, list) or not all(isinstance(a, str) and a.strip() for a in aliases):
        raise ValueError(f"{name}: aliases must be a list of names, not {aliases!r}")


def _check_numbers(name: object, row: Mapping[str, Any]) -> None:
    for key in row.keys() & {*_NUMBERS, *_WHOLE_NUMBERS}:
        _check_positive(name, key, row[key])
        if key in _WHOLE_NUMBERS and not isinstance(row[key], int):
            raise ValueError(f"{name}: {key} must be a whole number, not {row[key]!r}")


def _check_tflops(name: object, tflops: object) -> None:
    accepted = _and(_COLUMNS)
    if not isinstance(tflops, dict) or not tflops:
        raise ValueError(f"{name}: tflops must be TFLOP/s by precision ({accepted})")
    if unknown := tflops.keys() - _COLUMNS:
        raise ValueError(f"{name}: tflops takes {accepted}, not {_and(unknown)}")
    for key, value in tflops.items():
        _check_positive(name, key, value)


def _check_positive(name: object, key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not isfinite(value) or value <= 0:
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


def _and(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
