"""How much memory there is to use, and a limit for a process on what it may take."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

_SHARE = 0.9
"""Of what is available: the rest is for whoever else needs some meanwhile."""
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def usable_memory() -> int | None:
    """Return the bytes that a probe may take; None where nobody says (no Linux)."""
    found = [_available(), *(_left(*files) for files in _CGROUPS)]
    known = [each for each in found if each is not None]
    return int(_SHARE * min(known)) if known else None


def limit_memory(most: int | None) -> bool:
    """Keep this process from taking more; say whether the system does that.

    The limit is on writable memory of its own (`RLIMIT_DATA`). One on all addresses would also
    count what is reserved and never used, which with XLA is tens of gigabytes.
    """
    with suppress(OSError):
        # Should memory run out before the limit does, this process goes first, not the user's.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    if most is None or not sys.platform.startswith("linux"):
        return False
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    least = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (least, hard))
    return True


def _available() -> int | None:
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(line.split()[1])
    return None


def _left(limit: str, used: str) -> int | None:
    with suppress(OSError, ValueError):  # no such group, or "max"
        most, now = (int(Path(file).read_text(encoding="ascii")) for file in (limit, used))
        return max(0, most - now)
    return None
