"""The switch of a whole machine or site: COMPUTEMETER=0 disables every meter."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A Trainer without a meter asks for the switch too, and need not read what a summary is.
    from computemeter.records import Summary

VARIABLE = "COMPUTEMETER"

_OFF = ("0", "off", "false", "no")
_ON = ("1", "on", "true", "yes")


def switched_off() -> bool:
    """Say whether every meter is to do nothing.

    Raises:
        ValueError: the variable has a value that is not accepted.
    """
    return _word() in _OFF


def switched_on() -> bool:
    """Say whether every Lightning Trainer is to have a meter; see `computemeter.site`.

    Raises:
        ValueError: the variable has a value that is not accepted.
    """
    return _word() in _ON


def nothing_measured(summary: Summary) -> Summary:
    """Say in the summary of a disabled meter why nothing is in it."""
    reason = f"nothing was measured: {VARIABLE}={os.environ.get(VARIABLE, '')} disables every meter"
    return replace(
        summary,
        cause="none",
        diagnosis=reason,
        busy_seconds=None,
        compile_seconds=None,
        host_seconds={},
        samples=None,
        warnings=(reason, *summary.warnings),
    )


def _word() -> str:
    """Return the value in lower case; empty is not set."""
    given = os.environ.get(VARIABLE, "")
    word = given.strip().lower()
    if word and word not in (*_OFF, *_ON):
        raise ValueError(
            f"{VARIABLE}={given!r}: accepted are {', '.join(_OFF)} (no meter at all) and "
            f"{', '.join(_ON)} (a meter on every Lightning Trainer)"
        )
    return word
