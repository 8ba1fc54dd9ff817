"""Units of compute and how they are printed.

A FLOP is one add or one multiply, whatever the precision; a multiply-add is 2. Totals are Python
integers throughout: one petaflop/s-day is 8.64e19 FLOP, past what int64 or float32 hold exactly.
"""

from __future__ import annotations

SECONDS_PER_HOUR = 3600
SECONDS_PER_DAY = 86_400
PF = 10**15
"""One petaFLOP: 1e15 operations, as the appendix of "AI and compute" (OpenAI, 2018) uses it."""
PFS_DAY = PF * SECONDS_PER_DAY
"""One petaflop/s-day in FLOP: 1e15 FLOP/s for a day, 8.64e19."""

_PREFIXES = ("", "K", "M", "G", "T", "P", "E", "Z", "Y")


def pfs_days(flops: float) -> float:
    """Convert FLOP to petaflop/s-days.

    Examples:
        >>> pfs_days(8_640_000_000_000_000_000_0)
        1.0
    """
    return flops / PFS_DAY


def format_flops(flops: float, unit: str = "FLOP") -> str:
    """Write a number of FLOP with three significant digits and a prefix.

    >>> format_flops(116_800_000_000)
    '117 GFLOP'
    >>> format_flops(989.4e12, "FLOP/s")
    '989 TFLOP/s'
    """
    value, prefix = float(flops), 0
    # 999.5 would round to "1000": it belongs to the next prefix.
    while abs(value) >= 999.5 and prefix < len(_PREFIXES) - 1:
        value /= 1000
        prefix += 1
    return f"{_three_digits(value)} {_PREFIXES[prefix]}{unit}"


def format_compute(flops: float) -> str:
    """Write a total as people read it: FLOP first, petaflop/s-days after.

    >>> format_compute(117_000_000_000)
    '117 GFLOP = 1.4e-9 pfs-days'
    """
    return f"{format_flops(flops)} = {format_pfs_days(pfs_days(flops))}"


def format_pfs_days(days: float) -> str:
    """Write petaflop/s-days at any size.

    >>> format_pfs_days(1.354e-9), format_pfs_days(0.0932), format_pfs_days(3640)
    ('1.4e-9 pfs-days', '0.0932 pfs-days', '3,640 pfs-days')
    """
    if not 0 < abs(days) < 1e-3:
        return f"{_three_digits(days)} pfs-days"
    mantissa, _, exponent = f"{days:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)} pfs-days"


def format_seconds(seconds: float) -> str:
    """Write a duration at the precision a reader wants.

    >>> format_seconds(0.0123), format_seconds(75), format_seconds(11_520)
    ('12.3 ms', '1 min 15 s', '3 h 12 min')
    """
    # Each limit is where the smaller unit would round up to the larger: no "1e+03 ms", no "60 s".
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
