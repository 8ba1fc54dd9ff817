"""How numbers read in a sentence."""

from __future__ import annotations

import time
from collections.abc import Mapping

from computemeter.forecast import Forecast, Projection
from computemeter.units import (
    format_compute,
    format_flops,
    format_pfs_days,
    format_seconds,
    pfs_days,
)

_OPS_NAMED = 3
_TINY = 1e-3
"""Petaflop/s-days below which FLOP say more."""
_DAY, _WEEK = 86_400, 7 * 86_400


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


def expected(forecast: Forecast, devices: str, *, carried: bool = False) -> str:
    """Write a forecast: "about 0.012 pfs-days, 3 h 12 min left on 4 x A100, done by 18:40".

    Args:
        forecast: of which the time is what is left, and the compute the whole run's.
        devices: "4 x A100".
        carried: the run has earlier launches.
    """
    parts = [f"{format_seconds(forecast.seconds_left)} left on {devices}"]
    if forecast.run_flops:
        parts.insert(0, _in_all(forecast.run_flops) + (" in all" if carried else ""))
    end = clock_time(forecast.ends_at, now=forecast.ends_at - forecast.seconds_left)
    limit = f" ({forecast.limit})" if forecast.timed else ""
    sentence = f"about {', '.join(parts)}, done by {end}{limit}"
    if forecast.rounds_missing:
        sentence += "; validation or checkpoints that were not seen yet may come on top"
    if forecast.may_stop:
        sentence += f"; {' or '.join(forecast.may_stop)} may end it sooner"
    return sentence


def clock_time(at: float, *, now: float) -> str:
    """Write a time of the local clock: "18:40", from the next day on "Tue 18:40", then the date.

    Args:
        at: seconds since the epoch.
        now: likewise.
    """
    same_day = time.localtime(at)[:3] == time.localtime(now)[:3]
    day = "" if same_day else "%a " if at - now < _WEEK - _DAY else "%Y-%m-%d "
    return time.strftime(f"{day}%H:%M", time.localtime(at))


def projected(projection: Projection) -> str:
    """Write what was projected, and once the run has ended what became of it."""
    sentence = _both(projection.run_flops, projection.seconds)
    sentence += f" of wall time, said at step {projection.step:,}"
    if projection.rounds_missing:
        sentence += " before validation or checkpoints were seen"
    if projection.real_seconds is None:
        return sentence
    real_steps = f"ended after {projection.real_steps:,} of {counted(projection.steps, 'step')}"
    if projection.real_steps != projection.steps and projection.seconds_error is None:
        return f"{sentence}; {real_steps}"
    real = _both(
        projection.real_run_flops,
        projection.real_seconds,
        projection.flops_error,
        projection.seconds_error,
    )
    if projection.real_steps != projection.steps:
        real += f", {real_steps}"
    return f"{sentence}; it became {real}"


def _both(
    flops: int | None,
    seconds: float,
    flops_error: float | None = None,
    seconds_error: float | None = None,
) -> str:
    took = format_seconds(seconds) + _off(seconds_error)
    return took if not flops else f"{_short(flops)}{_off(flops_error)} in {took}"


def _off(error: float | None) -> str:
    return "" if error is None else f" (off by {100 * error:+.1f} %)"


def _short(flops: int) -> str:
    days = pfs_days(flops)
    return format_flops(flops) if days < _TINY else format_pfs_days(days)


def _in_all(flops: int) -> str:
    days = pfs_days(flops)
    return format_compute(flops) if days < _TINY else format_pfs_days(days)
