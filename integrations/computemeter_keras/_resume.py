"""What an interrupted fit leaves for the one that resumes it: a file beside its backup."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from computemeter.carried import Carried
from computemeter.sinks import describe

_SUFFIX = ".computemeter.json"

_newest: WeakValueDictionary[Path, ResumeFile] = WeakValueDictionary()
"""Who writes each file: a fit that raised may be ended when the next one has long begun."""


class ResumeFile:
    """The run's totals as of the model's last backup, and as of the last moment known.

    The first go with the weights that a resumed fit starts from; what came after was spent.

    Args:
        backup: Keras's `BackupAndRestore`; None where the fit cannot be resumed.
        writes: False on every process but the first.

    Attributes:
        steps: trained when the backup was made that this fit starts from.
    """

    def __init__(self, backup: Any, *, writes: bool = True) -> None:
        self._weights = None if backup is None else str(backup._weights_path)  # noqa: SLF001
        folder = None if backup is None else os.fspath(backup.backup_dir).rstrip("/")
        # Beside the folder and not in it: Keras deletes that at the end.
        self._path = None if folder is None else Path(folder + _SUFFIX)
        self._keeps = not getattr(backup, "delete_checkpoint", True)
        self._writes = writes
        if self._path is not None:
            _newest[self._path] = self
        self._backed_up: Mapping[str, Any] | None = None
        self.steps = 0

    def read(self) -> Carried | None:
        """Return what this fit goes on from; None where it begins anew.

        Without a backup of the model the work done is not in the weights; it was spent all the
        same, unless the backup was taken away: then this is another run.

        Raises:
            ValueError: the file is damaged, or of a newer version.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            return self._read(json.loads(self._path.read_text(encoding="utf-8")))
        except Exception as error:  # noqa: BLE001 - a damaged file may hold anything
            raise ValueError(
                f"{self._path}: the compute of the resumed run is not in it, and is counted "
                f"from here on ({describe(error)})"
            ) from None

    def _read(self, state: Any) -> Carried | None:
        latest, backed_up = Carried.from_state(state["latest"]), state["backed_up"]
        restored = self._weights is not None and Path(self._weights).exists()
        if backed_up is None or not restored:
            return None if backed_up else replace(latest, run_flops=0)
        carried = replace(latest, run_flops=Carried.from_state(backed_up).run_flops)
        self._backed_up, self.steps = backed_up, int(backed_up["steps"])
        return carried

    def is_backup(self, path: object) -> bool:
        """Say whether a file that weights are saved to is the model's backup."""
        return self._weights is not None and str(path) == self._weights

    def write(self, state: Mapping[str, Any], *, backed_up: bool = False) -> None:
        """Keep the run's totals; a reader finds the old file or the new one, whole.

        Args:
            state: of the meter.
            backed_up: the model has just been backed up.
        """
        if self._path is None or not self._may_write():
            return
        if backed_up:
            self._backed_up = dict(state)
        new = self._path.with_name(self._path.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump({"latest": dict(state), "backed_up": self._backed_up}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)

    def end(self, state: Mapping[str, Any], *, finished: bool) -> None:
        """Leave what there is to resume: nothing after a fit that ended well.

        Unless its backup is kept: then the next fit starts from that.
        """
        if not finished or self._keeps:
            self.write(state)
        elif self._path is not None and self._may_write():
            self._path.unlink(missing_ok=True)

    def _may_write(self) -> bool:
        return self._writes and self._path is not None and _newest.get(self._path) is self
