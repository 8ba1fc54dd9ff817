"""Find or make the W&B run that a ledger is pushed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from computemeter.ledger import LedgerHeader
from computemeter.sinks import describe, redact
from computemeter.sources import SourceError
from computemeter_wandb import WandbSink, full_id
from computemeter_wandb._source import api, split

# It is in every row, and no two steps of a run have the same: a row is known again by it. W&B's
# own step and time are not ours in a row that the user logged.
_FINGERPRINT = "compute/device_hours"
_SECONDS_TO_ANSWER = 30
_SECONDS_TO_UPLOAD = 300
# Everything else that a run's end may be is a failure to W&B.
_EXIT_CODES = {"finished": 0, "unknown": None}


def open_run(
    uri: str,
    header: LedgerHeader,
    run_id: str | None,
    status: str = "unknown",
    *,
    warn: Callable[[str], None],
) -> PushedRun:
    """Open the run that a ledger belongs to, or make one under the ledger's own id.

    For a command of the user's, in a process where nothing trains: it calls `wandb.init`.

    Args:
        uri: `wandb://entity/project`, which may go on with `/run_id`.
        header: of the ledger; of several segments, the first.
        run_id: of a run that exists; None to find it by the URI or the ledger.
        status: of the run by its ledger; W&B cannot bear two that write to one that still goes.
        warn: takes one line when W&B fails; called from another thread.

    Raises:
        SourceError: W&B cannot be reached, there is no such run, or it still goes.
    """
    entity, project, named = split(uri)
    asked_for = run_id or named
    known = asked_for or header.trackers.get("wandb") or header.run
    here = _id_in(entity, project, known)
    if here is None and asked_for:
        raise SourceError(f"{redact(uri)}: run {known} is of another project")
    if status == "running":
        raise SourceError(
            f"run {known} still goes, by its ledger: push it when it has ended, or two "
            "minutes after it was killed"
        )
    run = init(
        entity=entity,
        project=project,
        # A run of the same id may be here, and be another.
        id=here or known.replace("/", "-"),
        resume="must" if asked_for else "allow",
    )
    if not run.resumed and header.name:
        run.name = header.name
    return PushedRun(run, _rows_there(run, warn), warn=warn)


class PushedRun(WandbSink):
    """A run that a push writes to: rows that it has are not logged again."""

    def __init__(
        self, run: Any, there: frozenset[float] | None, *, warn: Callable[[str], None]
    ) -> None:
        """Prepare.

        Args:
            run: an open `wandb.Run`.
            there: fingerprints of the rows it has; None where that cannot be known: then there is
                none logged, only the totals.
            warn: takes one line when W&B fails.
        """
        super().__init__(run, rows=there is not None, warn=warn)
        self._there = there or frozenset()

    def finish(self, status: str, _time: float) -> None:
        """Wait until W&B has everything, and set how the run ended, if that is known.

        Else W&B has it as it had it, and calls it crashed once it has heard nothing for a while.
        Only an offline run cannot be left without an end: that has failed.
        """
        run, code = self._run, _EXIT_CODES.get(status, 1)
        run.finish(exit_code=1 if code is None else code)
        if code is None or run.offline:
            return
        again = {"entity": run.entity, "project": run.project, "id": run.id, "resume": "must"}
        init(**again, ends=True).finish(exit_code=code)

    def _has(self, values: Mapping[str, float]) -> bool:
        return values.get(_FINGERPRINT) in self._there


def _id_in(entity: str, project: str, run: str) -> str | None:
    """Take the id of a run, full or bare; None where it is of another project.

    >>> _id_in("ann", "p", "ann/p/r1"), _id_in("ann", "p", "r1"), _id_in("ann", "q", "ann/p/r1")
    ('r1', 'r1', None)
    """
    run_id = run.rpartition("/")[2]
    here = {run_id, full_id(None, project, run_id), full_id(entity, project, run_id)}
    return run_id if run in here else None


def init(*, ends: bool = False, **run: Any) -> Any:
    """Open a run; what is sent to it ends it only where `ends` says so, however a push ends."""
    import wandb

    # This machine and this command are not where the run ran.
    quiet = wandb.Settings(
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        finish_timeout=_SECONDS_TO_UPLOAD,
        finish_timeout_raises=True,
        init_timeout=_SECONDS_TO_ANSWER,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        x_update_finish_state=ends,
    )
    try:
        return wandb.init(**run, reinit="create_new", settings=quiet)
    except Exception as error:  # noqa: BLE001 - W&B raises what it likes
        place = redact(f"wandb://{run['entity']}/{run['project']}/{run['id']}")
        raise SourceError(f"{place}: {describe(error)}") from None


def _rows_there(run: Any, warn: Callable[[str], None]) -> frozenset[float] | None:
    if run.offline:
        warn("W&B is offline: only the totals are written, the run may have the rows already")
        return None
    if not run.resumed:
        return frozenset()
    try:
        there = api().run(f"{run.entity}/{run.project}/{run.id}")
        # Of a run without any row W&B says that it finds no history.
        rows = there.scan_history([_FINGERPRINT]) if there.lastHistoryStep >= 0 else ()
        return frozenset(row[_FINGERPRINT] for row in rows)
    except Exception as error:  # noqa: BLE001 - W&B raises what it likes
        warn(
            "W&B does not say which rows the run has, so that only the totals are written "
            f"({describe(error)})"
        )
        return None
