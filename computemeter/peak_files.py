"""A user's own peaks: a file in the form of `data/peaks.toml` that wins over the project's table.

It is found by `peak_flops="my_peaks.toml"`, else by the environment variable `COMPUTEMETER_PEAKS`,
else as `peaks.toml` in the user's config folder. The first is configuration, and a wrong file an
error at once; the other two are read when a run has begun, where a wrong file is a warning.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Self

from computemeter.peak_table import PeakEntry, by_alias, find, read_table
from computemeter.sinks import log_warning

VARIABLE = "COMPUTEMETER_PEAKS"


@dataclass(frozen=True, slots=True)
class PeakFile:
    """A table of a user's.

    Attributes:
        name: of the file, without its folders; the rows' `source` begins with it.
        entries: its rows.
    """

    name: str
    entries: tuple[PeakEntry, ...] = field(repr=False, hash=False)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no table of peaks; says where and what is accepted.
        """
        file = Path(path).expanduser()
        rows = read_table(file.read_text("utf-8"))
        return cls(file.name, tuple(_from_file(row, file.name) for row in rows))

    def find(self, name: str) -> PeakEntry | None:
        """Return the row of the device that a framework reports as `name`, None if none has it."""
        return find(name, by_alias(self.entries))


def user_file() -> tuple[PeakFile | None, str]:
    """Return the file that the environment or the config folder has, and what is wrong with it.

    Never raises. What is wrong ("" for nothing) is logged too, the same only once a process; no
    file in the config folder is nothing wrong.
    """
    named = os.environ.get(VARIABLE, "")
    name = Path(named).name if named else "peaks.toml in the config folder"
    try:
        return PeakFile.read(named or config_file()), ""
    except Exception as error:  # noqa: BLE001 - a wrong file never stops a training run
        if isinstance(error, FileNotFoundError) and not named:
            return None, ""
        problem = f"{VARIABLE if named else 'peaks'}: {name} is not used: {reason(error)}"
        _warn_once(problem)
        return None, problem


def config_file() -> Path:
    """Return where a user's own peaks are looked for, whether or not there are any."""
    import platformdirs

    return platformdirs.user_config_path("computemeter") / "peaks.toml"


def reason(error: Exception) -> str:
    """Return in one line, without a path, why a file could not be read.

    >>> reason(FileNotFoundError(2, "No such file or directory", "/home/me/peaks.toml"))
    'No such file or directory'
    """
    return " ".join(str(getattr(error, "strerror", None) or error).split())


@cache
def _warn_once(problem: str) -> None:
    log_warning(problem)


def _from_file(entry: PeakEntry, name: str) -> PeakEntry:
    return replace(entry, source=f"{name}, {entry.source}" if entry.source else name)
