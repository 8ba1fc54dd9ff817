"""How figures read in a disclosure: two significant digits, and the exact number beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from computemeter.disclosure.totals import Amount
from computemeter.units import SECONDS_PER_DAY, SECONDS_PER_HOUR, format_pfs_days, pfs_days
from computemeter.wording import percent, times

UNKNOWN = "unknown"


def two_digits(value: float) -> str:
    """Write a figure to two significant digits.

    >>> two_digits(129_600_000_000_000_000_000), two_digits(0)
    ('1.3e20', '0')
    """
    if not value:
        return "0"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def two_digits_of_time(seconds: float) -> str:
    """Write a duration to two significant digits.

    >>> two_digits_of_time(16_200), two_digits_of_time(1_000_000), two_digits_of_time(8.76)
    ('4.5 hours', '12 days', '8.8 seconds')
    """
    hours, days = seconds / SECONDS_PER_HOUR, seconds / SECONDS_PER_DAY
    value, unit = (seconds, "seconds") if hours < 1 else (hours, "hours")
    value, unit = (days, "days") if days >= 2 else (value, unit)
    return f"{float(f'{value:.2g}'):,g} {unit}"


def cells(amount: Amount) -> tuple[str, str, str]:
    """Write a sum as three cells: two digits, exact, petaflop/s-days."""
    if amount.flops is None or not (amount.flops or amount.complete):
        return UNKNOWN, UNKNOWN, UNKNOWN
    least = "" if amount.complete else "at least "
    return (
        f"{least}{two_digits(amount.flops)}",
        f"{least}{amount.flops:,}",
        format_pfs_days(pfs_days(amount.flops)).removesuffix(" pfs-days"),
    )


def exact_seconds(seconds: float) -> str:
    """Write a duration to the millisecond.

    >>> exact_seconds(16_200), exact_seconds(19.8924)
    ('16,200 s', '19.892 s')
    """
    return f"{seconds:,.3f}".rstrip("0").rstrip(".") + " s"


def both(flops: int | None) -> str:
    """Write FLOP to two digits, and exactly.

    >>> both(129_600)
    '1.3e5 (129,600)'
    """
    return UNKNOWN if flops is None else f"{two_digits(flops)} ({flops:,})"


def share(part: float | None) -> str:
    """Write a share; above 1 as a factor.

    >>> share(0.278), share(4.19), share(None)
    ('28 %', '4.19x', 'unknown')
    """
    if part is None:
        return UNKNOWN
    return percent(part) if part <= 1 else times(part)


def ratio(value: float) -> str:
    """Write method 2 / method 1.

    >>> ratio(0.8251), ratio(7537.4)
    ('0.825', '7,537')
    """
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def day(seconds: float | None) -> str | None:
    """Write a time as its day in UTC; None where it is not known, or of no such year.

    >>> day(1773480413.59), day(None), day(1e300)
    ('2026-03-14', None, None)
    """
    try:
        return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return None


def days(first: float | None, last: float | None) -> str:
    """Write a period by its first day and its last.

    >>> days(1773480413.59, 1773480725.0), days(None, 1773480725.0), days(None, None)
    ('2026-03-14', 'unknown to 2026-03-14', 'unknown')
    """
    ends = [day(seconds) or UNKNOWN for seconds in (first, last)]
    return " to ".join(dict.fromkeys(ends))


def number(whole: int | None) -> str:
    """Write a whole number."""
    return UNKNOWN if whole is None else f"{whole:,}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a table of Markdown, line by line; none where there are no rows."""
    listed = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *listed] if listed else []
