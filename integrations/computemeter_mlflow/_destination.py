"""Find or make the MLflow run that a ledger is pushed to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from computemeter.ledger import LedgerHeader
from computemeter.sinks import redact
from computemeter.sources import SourceError
from computemeter_mlflow import MLflowSink
from computemeter_mlflow._connect import connect, end_run, page_through

_RUN_TAG = "computemeter.run"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


def open_run(
    uri: str,
    header: LedgerHeader,
    run_id: str | None,
    _status: str = "unknown",
    *,
    warn: Callable[[str], None],
) -> MLflowSink:
    """Open the run that a ledger belongs to.

    It is the one of this id; else the one the ledger's header names; else one that an earlier
    push made for the ledger; else a new one.

    Args:
        uri: of a server or database.
        header: of the ledger; of several segments, the first.
        run_id: of an MLflow run that exists; None to find it.
        warn: takes one line when MLflow fails; called from another thread.

    Raises:
        SourceError: MLflow cannot be reached, or there is no such run.
    """
    client = connect(uri, may_create=run_id is None)
    named = run_id or header.trackers.get("mlflow")
    if named is not None:
        if _is_active(client, named):
            return MLflowSink(tracking_uri=uri, run_id=named, warn=warn)
        if run_id is not None:
            raise SourceError(f"{redact(uri)} has no run {run_id}, or it was deleted")
        warn(f"{redact(uri)} has no run {named}, which the ledger names: it goes to one of its own")
    own = _pushed_before(client, header.run) or _make(client, header)
    return PushedRun(client, tracking_uri=uri, run_id=own, warn=warn)


class PushedRun(MLflowSink):
    """A run that a push made: nobody else says how it ended."""

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(**options)
        self._client = client

    def finish(self, status: str, time: float) -> None:
        """Set how the run ended, and when (seconds since the epoch)."""
        known = _STATUS.get(status)
        if known is not None:
            end_run(self._client, self.run_id, status=known, end_time=round(1000 * time))


def _is_active(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return False
        raise
    return bool(run.info.lifecycle_stage == "active")


def _pushed_before(client: Any, run: str) -> str | None:
    quote = '"' if "'" in run else "'"
    if quote in run:  # no filter of MLflow's can hold both
        return None
    everywhere = [each.experiment_id for each in page_through(client.search_experiments)]
    found = client.search_runs(
        everywhere, filter_string=f"tags.`{_RUN_TAG}` = {quote}{run}{quote}", max_results=1
    )
    return found[0].info.run_id if found else None


def _make(client: Any, header: LedgerHeader) -> str:
    """Make a run in the experiment of the project's name where there is one, else in the default.

    It looks as if the training had made it.
    """
    known = client.get_experiment_by_name(header.project) if header.project else None
    experiment = "0" if known is None or known.lifecycle_stage != "active" else known.experiment_id
    tags = {_RUN_TAG: header.run}
    if header.user:
        tags["mlflow.user"] = header.user
    run = client.create_run(
        experiment,
        start_time=round(1000 * header.started),
        tags=tags,
        run_name=header.name or header.run,  # MLflow would make a name up
    )
    return str(run.info.run_id)
