"""How much memory there is to use, and a limit for a process on what it may take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SHARE = 0.9
"""Of what is available: the rest is for whoever else needs some meanwhile."""
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
# Of both versions of control groups: limit, what is used, and the cache of files within that,
# which the system gives up for whoever needs memory.
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def usable_memory() -> int | None:
    """Return the bytes that a probe may take; None where nobody says (no Linux)."""
    found = [_available(), *_left_in_groups()]
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


def _left_in_groups() -> Iterator[int | None]:
    """Look at this process's own group and all above it, as far as they can be seen from here."""
    with suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            root, files = (_GROUPS / "memory", _VERSION_1) if kinds else (_GROUPS, _VERSION_2)
            own = root / path.lstrip("/")
            yield from (
                _left(each, *files) for each in (own, *own.parents) if root in {each, *each.parents}
            )


def _left(group: Path, limit: str, used: str, cached: tuple[str, str]) -> int | None:
    with suppress(OSError, ValueError):  # no such group, or "max"
        most, now = (int((group / name).read_text(encoding="ascii")) for name in (limit, used))
        stat = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        sizes = dict(line.split(maxsplit=1) for line in stat)
        return max(0, most - now + sum(int(sizes.get(name, 0)) for name in cached))
    return None
