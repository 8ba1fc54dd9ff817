"""Quantities as people type them: '3.8B', '3.3T tokens', '5.5 days', '312 TFLOP/s', '33 %'.

    number(text)            a count above 0: int where it is whole, else float
    seconds(text)           a time above 0, a plain number being seconds
    flops_per_second(text)  a peak, a plain number being FLOP/s
    share(text)             above 0, at most 1

Each raises a ValueError of one line that names the text and what is accepted. The limits past which
a figure is questioned, because units were probably mixed up, are all in this file.
"""

from __future__ import annotations

import re
from decimal import Decimal

from computemeter.table import printable
from computemeter.units import SECONDS_PER_DAY, format_flops

SLOWEST_PEAK = 1e9
"""Peak in FLOP/s below which units were mixed up: one core of a telephone is faster."""
FASTEST_PEAK = 1e20
"""Peak in FLOP/s above which units were mixed up: a hundred exaFLOP/s is no machine of today."""
FEWEST_PARAMETERS = 1000
"""Parameters of a language model, and tokens, below which the B, M or T was left out."""
SMALLEST_FRACTIONAL = 1000
"""Operations or examples below which a fraction is no mean, but a figure without its M or G."""
WIDEST_DIVERGENCE = 1e6
"""Divergence of the two methods from which they are refused: no utilisation explains it, while
TFLOP/s given as FLOP/s are 1e12 off."""

LARGEST_RUN = 1e33
"""FLOP above which a factor is wrong: a million times 1e27, more than any run published by 2025."""

_LARGEST_EXPONENT = 60  # a number past it is no amount of compute, and would only fill the memory
_SHOWN = 60
_FIGURE = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3}(?!\d))?"
_AMOUNT = re.compile(rf"([+-]?{_FIGURE})\s*(.*)", re.ASCII | re.IGNORECASE)
_TIMES = re.compile(rf"({_FIGURE})\s*([a-z]+)\s*", re.ASCII | re.IGNORECASE)
_SUFFIXES = {
    "": 0,
    **dict.fromkeys(("k", "thousand"), 3),
    **dict.fromkeys(("m", "million"), 6),
    **dict.fromkeys(("b", "bn", "g", "billion"), 9),
    **dict.fromkeys(("t", "trillion"), 12),
}
_PREFIXES = {"": 0, "k": 3, "m": 6, "g": 9, "t": 12, "p": 15, "e": 18}
_COUNTED = re.compile(
    r"(tokens?|examples?|samples?|images?|words?|frames?|timesteps?|param(eter)?s?|epochs?|passes"
    r"|add-multiplies|multiply-adds|operations|flops?|macs?|devices?|gpus?|steps?|hours)",
    re.IGNORECASE,
)
_RATE = re.compile(r"([kmgtpe]?)(?:flops?(?:/s(?:ec)?)?|flop/s|f)?|([kmgtpe])", re.IGNORECASE)
_SECONDS = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), Decimal("0.001")),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Decimal(1)),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), Decimal(60)),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), Decimal(3600)),
    **dict.fromkeys(("d", "day", "days"), Decimal(SECONDS_PER_DAY)),
    **dict.fromkeys(("w", "week", "weeks"), Decimal(7 * SECONDS_PER_DAY)),
}


def number(text: str) -> int | float:
    """Read a count: 90, 7.5, 1,280,000, 7.72e9, 200k, 1.28M, 3.8B, 3.3T tokens.

    K, M, B or G, and T in either case are 1e3 to 1e12; a word for what is counted may follow.

    >>> number("3.8B"), number("3.3T tokens"), number("7.5")
    (3800000000, 3300000000000, 7.5)

    Raises:
        ValueError: not of this form, or not above 0.
    """
    accepted = "a number above 0, such as 90, 7.72e9, 200k, 3.8B or 3.3T tokens"
    figure, rest = _split(text, accepted)
    suffix, *words = rest.split() or [""]
    if suffix.lower() not in _SUFFIXES and not words:
        suffix, words = "", [suffix]
    if suffix.lower() not in _SUFFIXES or not all(map(_COUNTED.fullmatch, words[:1])) or words[1:]:
        raise _refused(text, accepted)
    return _plain(_above_zero(figure.scaleb(_SUFFIXES[suffix.lower()]), text, accepted))


def seconds(text: str) -> int | float:
    """Read a time: 11520, 90 min, 3 h, 3 h 12 min, 5.5 days; a plain number is seconds.

    >>> seconds("5.5 days"), seconds("3 h 12 min"), seconds("90")
    (475200, 11520, 90)

    Raises:
        ValueError: not of this form, or not above 0.
    """
    accepted = "a time above 0, such as 11520 (seconds), 90 min, 3 h 12 min, 5.5 days or 2 weeks"
    if not (parts := _TIMES.findall(text.strip())) or _TIMES.sub("", text.strip()):
        figure, unit = _split(text, accepted)
        parts = [(str(figure), unit or "s")]
    if not all(unit.lower() in _SECONDS for _, unit in parts):
        raise _refused(text, accepted)
    total = sum(_decimal(figure, text, accepted) * _SECONDS[unit.lower()] for figure, unit in parts)
    return _plain(_above_zero(Decimal(total), text, accepted))


def flops_per_second(text: str) -> int | float:
    """Read a peak: 312 TFLOP/s, 312 TFLOPS, 312 TF, 312T, 312e12; a plain number is FLOP/s.

    >>> flops_per_second("312 TFLOP/s") == flops_per_second("312e12") == 312 * 10**12
    True

    Raises:
        ValueError: not of this form, not above 0, or so slow or fast that units were mixed up.
    """
    accepted = "dense FLOP/s of one device, such as 312 TFLOP/s or 312e12"
    figure, rest = _split(text, accepted)
    unit = _RATE.fullmatch(rest.replace(" ", ""))
    if unit is None:
        raise _refused(text, accepted)
    prefix = (unit[1] or unit[2] or "").lower()
    peak = _plain(_above_zero(figure.scaleb(_PREFIXES[prefix]), text, accepted))
    check_peak(peak)
    return peak


def share(text: str) -> float:
    """Read a share: 0.33 or 33 %.

    >>> share("0.33"), share("33 %")
    (0.33, 0.33)

    Raises:
        ValueError: not of this form, not above 0, or above 1: percent given as a share.
    """
    accepted = "a share above 0 and at most 1, such as 0.33 or 33 %"
    figure, rest = _split(text, accepted)
    if rest not in {"", "%"}:
        raise _refused(text, accepted)
    value = _above_zero(figure.scaleb(-2) if rest else figure, text, accepted)
    if value > 1:
        meant = f"; did you mean {figure:f} %?" if not rest and figure <= 100 else ""
        raise ValueError(f"{_cut(text)}: accepted is {accepted}{meant}")
    return float(value)


def check_peak(peak: float) -> None:
    """Question a peak that no device has.

    Raises:
        ValueError: below `SLOWEST_PEAK` or above `FASTEST_PEAK`.
    """
    if peak < SLOWEST_PEAK:
        raise ValueError(
            f"a peak of {format_flops(peak, 'FLOP/s')} is slower than any device; did you mean "
            f"{peak:g} TFLOP/s?"
        )
    if peak > FASTEST_PEAK:
        raise ValueError(
            f"a peak of {format_flops(peak, 'FLOP/s')} is faster than any machine: a plain number "
            "is FLOP/s, 312 TFLOP/s or 312e12 is an A100"
        )


def check_total(flops: int) -> None:
    """Question a total that no training run comes near.

    Raises:
        ValueError: 0 when rounded, or above `LARGEST_RUN`.
    """
    if flops == 0:
        raise ValueError("that is less than one FLOP: a factor or its unit must be wrong")
    if flops > LARGEST_RUN:
        raise ValueError(
            f"{Decimal(flops):.1e} FLOP are a million times the largest training runs there are: a "
            "factor or its unit must be wrong"
        )


def check_size(name: str, value: float) -> None:
    """Question a number of parameters or tokens of which the B, M or T was left out.

    Raises:
        ValueError: below `FEWEST_PARAMETERS`.
    """
    if value < FEWEST_PARAMETERS:
        raise ValueError(
            f"{value:g} {name} are too few for a language model; did you mean {value:g}B?"
        )


def check_whole(name: str, value: float, meant: str) -> None:
    """Question a count of which the M or G was left out: 7.72 operations, 1.28 images.

    Args:
        name: what is counted.
        value: how many.
        meant: the letter that is likely to be missing.

    Raises:
        ValueError: below `SMALLEST_FRACTIONAL` and not whole.
    """
    if value < SMALLEST_FRACTIONAL and value != int(value):
        raise ValueError(
            f"{value:g} {name}: that is no whole number; did you mean {value:g}{meant}?"
        )


def _split(text: str, accepted: str) -> tuple[Decimal, str]:
    """Cut a figure from what follows it."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise _refused(text, accepted)
    return _decimal(found[1], text, accepted), found[2]


def _decimal(figure: str, text: str, accepted: str) -> Decimal:
    value = Decimal(figure.replace(",", ""))
    if value and abs(value.adjusted()) > _LARGEST_EXPONENT:
        raise _refused(text, accepted)
    return value


def _above_zero(value: Decimal, text: str, accepted: str) -> Decimal:
    if value <= 0:
        raise _refused(text, accepted)
    return value


def _plain(value: Decimal) -> int | float:
    # Exact where it is whole: 3.8B is 3,800,000,000.
    return int(value) if value == value.to_integral_value() else float(value)


def _refused(text: str, accepted: str) -> ValueError:
    return ValueError(f"{_cut(text)}: accepted is {accepted}")


def _cut(text: str) -> str:
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return f'"{printable(shown)}"'
