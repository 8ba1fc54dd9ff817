"""Keep the page and the picture of a team's trend in an MLflow run of their own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from computemeter.sinks import redact
from computemeter.sources import SourceError
from computemeter.trend.publish import Publication
from computemeter_mlflow._connect import connect, end_run, page_through
from computemeter_mlflow._remote import open_run
from computemeter_mlflow._stored import TREND, page_of

EXPERIMENT = "computemeter trend"


def publish(uri: str, what: Publication, *, warn: Callable[[str], None]) -> str:  # noqa: ARG001
    """Store the files among the artifacts of the run that an earlier call made, or of a new one.

    Args:
        uri: of a server or database.
        what: the files; those of the same name are replaced.
        warn: not used.

    Returns:
        The run's page, or its id where MLflow has no pages.

    Raises:
        SourceError: MLflow cannot be reached, or its experiment was deleted.
        MlflowException, OSError: it does not take them.
    """
    client = connect(uri)
    experiment = _experiment(client, uri)
    run_id = _published_before(client, experiment, what.key) or _make(client, experiment, what)
    try:
        run = open_run(uri, run_id)
        for file in what.files:
            run.store_file(file)
        client.set_tag(run_id, "mlflow.note.content", what.headline)
    except BaseException:  # it would be shown as running for ever
        with suppress(Exception):
            end_run(client, run_id, status="FAILED")
        raise
    end_run(client, run_id)
    return page_of(uri, experiment, run_id) or f"run {run_id} in {redact(uri)}"


def _experiment(client: Any, uri: str) -> str:
    known = client.get_experiment_by_name(EXPERIMENT)
    if known is None:
        return str(client.create_experiment(EXPERIMENT))
    if known.lifecycle_stage != "active":
        command = f"mlflow experiments restore -x {known.experiment_id}"
        raise SourceError(
            f"{redact(uri)}: its experiment {EXPERIMENT!r} was deleted; {command} brings it back"
        )
    return str(known.experiment_id)


def _published_before(client: Any, experiment: str, key: str) -> str | None:
    found = page_through(
        client.search_runs, experiment_ids=[experiment], filter_string=f"tags.`{TREND}` = '{key}'"
    )
    return next((str(run.info.run_id) for run in found), None)


def _make(client: Any, experiment: str, what: Publication) -> str:
    run = client.create_run(experiment, tags={TREND: what.key}, run_name=what.title)
    return str(run.info.run_id)
