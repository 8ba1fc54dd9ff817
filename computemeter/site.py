"""Meters every Lightning Trainer of a site where COMPUTEMETER=1 is set.

Lightning asks each entry point of the groups `lightning.pytorch.callbacks_factory` and
`pytorch_lightning.callbacks_factory`, whenever a Trainer is made, for callbacks to add to it. What
an entry point raises reaches the user, and its import is every Trainer's cost.
"""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from typing import Any

from computemeter.switch import VARIABLE, switched_on


def callbacks() -> list[Any]:
    """Return a meter for a new Trainer where the site asks for one; never raises.

    Its options come from the environment: `COMPUTEMETER_PROJECT`, `_TEAM`, `_LEDGER`, `_PEAKS`.
    """
    if not os.environ.get(VARIABLE):
        return []
    try:
        return _site_meter() if switched_on() else []
    except Exception as error:  # noqa: BLE001 - the Trainer is the user's, the wish the site's
        with suppress(Exception):
            from computemeter.sinks import describe

            _warn_once(f"no meter is attached to any Trainer: {describe(error)}")
        return []


def _site_meter() -> list[Any]:
    from computemeter_lightning._site import SiteMeter

    return [SiteMeter()]


@functools.cache
def _warn_once(message: str) -> None:
    from computemeter.sinks import log_warning

    log_warning(message)
