"""Read runs back from MLflow: by what the meter tagged them with, one search and no history."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, SegmentRecord, add_up, latest
from computemeter.sinks import redact
from computemeter_mlflow._connect import connect, page_through

_RUNS_IN_A_PAGE = 1000
_TAGGED = "tags.`computemeter.schema` != ''"
# Killed before its tags were sent.
_UNTAGGED = "metrics.`compute/flops` > 0 AND tags.`computemeter.schema` IS NULL"
_SEGMENT = "computemeter.segment."
_STATUS = {
    "RUNNING": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "interrupted",
}


def records(source: str, *, warn: Callable[[str], None]) -> list[RunRecord]:
    """Read every metered run of all active experiments.

    Args:
        source: URI of the server or database.
        warn: takes one line for each segment whose totals cannot be read.

    Raises:
        SourceError: it cannot be read.
    """
    client = connect(source)
    experiments = {
        each.experiment_id: each.name
        for each in page_through(client.search_experiments, max_results=_RUNS_IN_A_PAGE)
    }
    found = _search(client, list(experiments))
    return [_run_record(run, source, experiments, warn) for run in found]


def _search(client: Any, experiments: list[str]) -> Iterator[Any]:
    from mlflow.exceptions import MlflowException

    search = partial(
        page_through,
        client.search_runs,
        experiment_ids=experiments,
        max_results=_RUNS_IN_A_PAGE,
    )
    yield from search(filter_string=_TAGGED)
    try:
        yield from search(filter_string=_UNTAGGED)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":  # an older server, without IS NULL
            raise


def _run_record(
    run: Any, source: str, experiments: Mapping[str, str], warn: Callable[[str], None]
) -> RunRecord:
    info, tags = run.info, run.data.tags
    parts = list(_parts(info.run_id, tags, warn))
    verdict, cause = tags.get("computemeter.verdict"), tags.get("computemeter.cause")
    count, _, device = tags.get("computemeter.device", "").partition(" x ")
    return SegmentedRun(
        run_id=info.run_id,
        source=redact(source),
        url=_url(source, info.experiment_id, info.run_id),
        name=info.run_name or "",
        user=tags.get("mlflow.user") or info.user_id or None,
        project=tags.get("computemeter.project") or experiments.get(info.experiment_id),
        team=tags.get("computemeter.team"),
        started=_seconds(info.start_time),
        ended=_seconds(info.end_time),
        status=_STATUS.get(info.status, "unknown"),
        device_name=device or None,
        device_count=int(count) if count.isdecimal() else None,
        estimated=False,
        **(add_up(parts) if parts else latest(run.data.metrics, verdict=verdict, cause=cause)),
    )


def _parts(
    run_id: str, tags: Mapping[str, str], warn: Callable[[str], None]
) -> Iterator[SegmentRecord]:
    for key, text in tags.items():
        if not key.startswith(_SEGMENT):
            continue
        segment = key.removeprefix(_SEGMENT)
        try:
            totals = dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            warn(f"MLflow run {run_id}: the totals of segment {segment} cannot be read, left out")
        else:
            yield SegmentRecord.from_totals(segment, totals)


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _url(source: str, experiment: str, run_id: str) -> str | None:
    """Return the run's page; a database has none."""
    parts = urlsplit(source)
    if parts.scheme not in {"http", "https"}:
        return None
    # Without a user and password, and without a query, either of which may hold a secret.
    host = parts.netloc.rpartition("@")[2]
    page = f"/#/experiments/{experiment}/runs/{run_id}"
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}{page}"
