"""What results depend on: versions, the processor, and how busy it was."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

from benchmarks.measuring.report import Facts

LOAD_BEFORE = os.getloadavg()[0]  # of the machine, in the minute before: it should be near 0


def software(*packages: str) -> Facts:
    """Return the date and the versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def processor() -> Facts:
    """Return its name and the number of its cores."""
    from computemeter.cpu import cpu_device

    return {"cpu": cpu_device().name, "cores": os.cpu_count() or 0}


def load() -> Facts:
    """Return how busy the machine was before."""
    return {"load before": f"{LOAD_BEFORE:.1f}"}
