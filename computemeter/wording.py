"""How numbers read in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

_OPS_NAMED = 3


def called(ops: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the operators that were called, most calls first."""
    # By calls, then by name: the same run must give the same sentence every time.
    return sorted(
        ((name, calls) for name, calls in ops.items() if calls > 0),
        key=lambda item: (-item[1], item[0]),
    )


def name_ops(ops: Mapping[str, int]) -> str:
    """Write the operators that were called: "aten::mv (20 calls) and 2 more"."""
    most = called(ops)
    named = [f"{name} ({counted(calls, 'call')})" for name, calls in most[:_OPS_NAMED]]
    if more := len(most) - len(named):
        named.append(f"{more} more")
    return ", ".join(named[:-1]) + " and " + named[-1] if len(named) > 1 else named[0]


def counted(number: int, noun: str) -> str:
    """Write a number of things: "1 step", "1,000 steps"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def times(factor: float) -> str:
    """Write a factor: "1.07x", "17x"."""
    return f"{factor:.2f}x" if factor < 9.995 else f"{factor:,.0f}x"


def percent(share: float) -> str:
    """Write a share: 0.17 as "17 %", 0.0012 as "0.12 %"."""
    hundredths = 100 * share
    return f"{hundredths:.0f} %" if hundredths >= 9.95 else f"{hundredths:#.2g} %"
