"""What an interrupted fit leaves for the one that resumes it: a file beside its backup."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from computemeter.carried import Carried
from computemeter.records import SegmentTotals
from computemeter.sinks import describe

_SUFFIX = ".computemeter.json"

_newest: WeakValueDictionary[Path, ResumeFile] = WeakValueDictionary()
"""Who writes each file: a fit that raised may be ended when the next one has long begun."""


class ResumeFile:
    """The run's totals as of the model's last backup, and as of the last moment known.

    The first go with the weights that a resumed fit starts from; what came after was spent. A fit
    may be killed while it backs up: then the file also has the totals that the new weights go with,
    and the weights themselves tell whether they are the new ones.

    Args:
        backup: Keras's `BackupAndRestore`; None where the fit cannot be resumed.
        writes: False on every process but the first.

    Attributes:
        steps: trained when the backup was made that this fit starts from.
        checkpoints: where the run last saved its model, the backup apart; None before.
    """

    def __init__(self, backup: Any, *, writes: bool = True) -> None:
        self._weights = None if backup is None else str(backup._weights_path)  # noqa: SLF001
        folder = None if backup is None else os.fspath(backup.backup_dir).rstrip("/")
        self._remote = folder is not None and "://" in folder
        # Beside the folder and not in it: Keras deletes that at the end.
        self._path = None if folder is None or self._remote else Path(folder + _SUFFIX)
        self._keeps = not getattr(backup, "delete_checkpoint", True)
        self._writes = writes
        if self._path is not None:
            _newest[self._path] = self
        self._backed_up: Mapping[str, Any] | None = None
        self._saving: Mapping[str, Any] | None = None
        self._mark: int | None = None
        self.steps = 0
        self.checkpoints: Path | None = None

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
                f"{self._path}: the compute of the resumed run is not in it ({describe(error)})"
            ) from None

    def _read(self, state: Any) -> Carried | None:
        latest, backed_up = Carried.from_state(state["latest"]), state["backed_up"]
        self.checkpoints = Path(state["checkpoints"]) if state["checkpoints"] else None
        if self._weights is None or not Path(self._weights).exists():
            return None if backed_up else replace(latest, run_flops=0)
        self._mark = _mark_restored(self._weights)
        if backed_up is None or self._mark != state["mark"]:
            backed_up = state["saving"]
        self._backed_up = backed_up
        self.steps = int((backed_up or state["latest"])["steps"])
        if backed_up is None:
            return _trained_without_a_meter(latest)
        return replace(latest, run_flops=Carried.from_state(backed_up).run_flops)

    @property
    def restores(self) -> bool:
        """Whether there is a backup, from which Keras goes on."""
        return self._weights is not None and Path(self._weights).exists()

    def begin(self, state: Mapping[str, Any]) -> None:
        """Keep the run's id, for a fit that is killed before its first backup.

        Raises:
            OSError: the file cannot be written, or the backup is on no disk of this host.
        """
        if self._remote:
            raise OSError(
                "the backup is not in a folder of this host: the compute of a resumed fit is "
                "counted from there on"
            )
        if self._path is None or not self._may_write():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._backed_up is None and self._weights and self.restores:
            self._backed_up, self._mark = dict(state), _mark_restored(self._weights)
        self.write(state)

    def is_backup(self, path: object) -> bool:
        """Say whether a file that weights are saved to is the model's backup."""
        return self._weights is not None and str(path) == self._weights

    def backing_up(self, state: Mapping[str, Any]) -> None:
        """Keep the totals that the backup is going to be of; see `write`."""
        self._saving = dict(state)
        self.write(state)

    def backed_up(self, state: Mapping[str, Any]) -> None:
        """Keep the totals that the backup is of; see `write`."""
        self._backed_up, self._saving = dict(state), None
        self._mark = None if self._weights is None else _mark(self._weights)
        self.write(state)

    def write(self, state: Mapping[str, Any]) -> None:
        """Keep the run's totals; a reader finds the old file or the new one, whole.

        Args:
            state: of the meter.
        """
        if self._path is None or not self._may_write():
            return
        content = {
            "latest": dict(state),
            "backed_up": self._backed_up,
            "mark": self._mark,
            "saving": self._saving,
            "checkpoints": str(self.checkpoints) if self.checkpoints else None,
        }
        new = self._path.with_name(self._path.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(content, file)
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


def _trained_without_a_meter(latest: Carried) -> Carried:
    """Go on from weights that no meter saw saved: what made them is not known."""
    segments = {**latest.segments, "unmetered": SegmentTotals()}
    return replace(latest, run_flops=None, segments=segments)


def _mark_restored(weights: str) -> int | None:
    """Return the mark of the weights that Keras restores: the copy of a file that was cut short."""
    for path in (weights, weights + ".bkp"):
        with suppress(OSError):
            return _mark(path)
    return None


def _mark(weights: str) -> int | None:
    """Return how often the optimizer had stepped when the weights were saved; None: not told.

    Raises:
        OSError: the file is cut short.
    """
    import h5py  # type: ignore[import-untyped]  # it comes with Keras, which saves with it

    with h5py.File(weights, "r", locking=False) as file:
        for optimizer in ("optimizer/inner_optimizer", "optimizer"):
            if (stepped := file.get(f"{optimizer}/vars/0")) is not None:
                return int(stepped[()])
    return None
