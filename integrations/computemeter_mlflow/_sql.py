"""Read runs straight from MLflow's tables: read-only, and some hundred times as fast as its client.

The tables are MLflow's own affair, and so they are read only at a version that the MLflow which is
installed here knows too. No object of MLflow's is made and none of its modules imported.
"""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from computemeter.reading import SETTLING_SECONDS, Harvest, Request
from computemeter.records import RunRecord
from computemeter_mlflow._connect import as_url, limits
from computemeter_mlflow._estimated import GPU_METRICS, KEYS
from computemeter_mlflow._stored import COMPUTE, SCHEMA, TOTALS, Maker, StoredRun

_TESTED = "3"
"""The MLflow whose tables this was written for; another one may keep the same names for others."""

_MIGRATIONS = "store/db_migrations/versions"
_RUNS_AT_ONCE = 1000  # SQL Server takes 2,100 values in a question
_SEGMENT = "computemeter.segment."

_runs, _experiments, _tags, _metrics, _params, _version = (
    sql.table(name, *map(sql.column, columns.split()))
    for name, columns in {
        "runs": "run_uuid name user_id status start_time end_time lifecycle_stage experiment_id",
        "experiments": "experiment_id name lifecycle_stage",
        "tags": "run_uuid key value",
        "latest_metrics": "run_uuid key value is_nan",
        "params": "run_uuid key value",
        "alembic_version": "version_num",
    }.items()
)


class UnknownTablesError(Exception):
    """Tables that are not read from here; the message says why."""


class _Listed(NamedTuple):
    run_id: str
    name: str | None
    user: str | None
    status: str
    start_time: int | None
    end_time: int | None
    experiment_id: Any
    experiment: str

    @property
    def stamp(self) -> str | None:
        """What tells that an ended run is another now; None for one that has not ended."""
        if not self.end_time or self.status == "RUNNING":
            return None
        return f"{self.status} {self.start_time} {self.end_time} {self.experiment}/{self.name}"


def read_tables(uri: str, maker: Maker, request: Request) -> list[RunRecord]:
    """Read what is asked for of a database.

    Raises:
        UnknownTablesError: it is to be read through MLflow's client.
        SQLAlchemyError: it cannot be read.
    """
    began, harvest = time.time(), Harvest(request)
    with _reading(uri) as connection:
        _check(connection)
        listed = _list(connection, request)
        changed, unchanged = _sort(listed, request)
        harvest.recall(unchanged)
        for runs in _lots(changed):
            for run, stored in zip(runs, _details(connection, runs, request), strict=True):
                harvest.take(run.run_id, maker.make(stored), run.stamp)
            request.progress(len(harvest.records), len(listed))
    if request.since is None:
        request.memory.forget(request.memory.stamps().keys() - {run.run_id for run in listed})
    request.memory.completed(began, request.since)
    return harvest.records


@contextmanager
def _reading(uri: str) -> Iterator[sql.Connection]:
    url = as_url(uri)
    if url.get_backend_name() == "sqlite":
        # The one way that can write nothing: no journal, no empty database.
        file = f"file:{quote(str(Path(url.database or '').resolve()))}?mode=ro"
        engine = sql.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(file, uri=True), poolclass=NullPool
        )
    else:
        engine = sql.create_engine(url, connect_args=limits(url), poolclass=NullPool)
    try:
        with engine.connect().execution_options(postgresql_readonly=True) as connection:
            if engine.dialect.name in {"mysql", "mariadb"}:
                connection.execute(sql.text("SET SESSION TRANSACTION READ ONLY"))
            yield connection
    finally:
        engine.dispose()


def _check(connection: sql.Connection) -> None:
    try:
        found = set(connection.execute(sql.select(_version.c.version_num)).scalars())
    except SQLAlchemyError:
        raise UnknownTablesError("its tables have no version") from None
    known = known_versions()
    if not found or not found <= known:
        raise UnknownTablesError(f"its tables are of a version ({', '.join(found)}) not known here")


def known_versions() -> frozenset[str]:
    """Return the versions of the tables that the installed MLflow knows."""
    spec = find_spec("mlflow")
    try:
        tested = version("mlflow").partition(".")[0] == _TESTED
    except PackageNotFoundError:  # mlflow-skinny, or a checkout on the path
        tested = False
    if spec is None or spec.origin is None or not tested:
        return frozenset()
    files = (Path(spec.origin).parent / _MIGRATIONS).glob("*_*.py")
    return frozenset(file.name.partition("_")[0] for file in files)


def _list(connection: sql.Connection, request: Request) -> list[_Listed]:
    run, experiment = _runs.c, _experiments.c
    chosen = (
        sql.select(
            *(run.run_uuid, run.name, run.user_id, run.status, run.start_time, run.end_time),
            *(experiment.experiment_id, experiment.name),
        )
        .join_from(_runs, _experiments, run.experiment_id == experiment.experiment_id)
        .where(run.lifecycle_stage == "active", experiment.lifecycle_stage == "active")
    )
    if request.since is not None:
        chosen = chosen.where(run.start_time >= round(1000 * request.since))
    if not request.unmetered:
        chosen = chosen.where(run.run_uuid.in_(_metered()))
    return [_Listed._make(row) for row in connection.execute(chosen)]


def _metered() -> sql.Select[Any] | sql.CompoundSelect[Any]:
    tag, metric = _tags.c, _metrics.c
    # Killed before its tags were sent, a run has the metric alone.
    return sql.union(
        sql.select(tag.run_uuid).where(tag.key == SCHEMA, tag.value != ""),
        sql.select(metric.run_uuid).where(metric.key == COMPUTE, metric.value > 0),
    )


def _sort(listed: Sequence[_Listed], request: Request) -> tuple[list[_Listed], list[str]]:
    """Return the runs to read, and the ids of those that are as they were."""
    stamps, read_at = request.memory.stamps(), request.memory.read_at(request.since)
    if read_at is None:
        return list(listed), []
    settled = 1000 * (read_at - SETTLING_SECONDS)
    changed, unchanged = [], []
    for run in listed:
        stamp = run.stamp
        if stamp is None or stamps.get(run.run_id) != stamp or (run.end_time or 0) > settled:
            changed.append(run)
        else:
            unchanged.append(run.run_id)
    return changed, unchanged


def _lots(runs: Sequence[_Listed]) -> Iterator[Sequence[_Listed]]:
    for start in range(0, len(runs), _RUNS_AT_ONCE):
        yield runs[start : start + _RUNS_AT_ONCE]


def _details(
    connection: sql.Connection, runs: Sequence[_Listed], request: Request
) -> Iterator[StoredRun]:
    """Yield the runs with their tags, and with metrics and parameters where these matter."""
    tags = _values(connection, _TAGS, [run.run_id for run in runs])
    bare = [run.run_id for run in runs if not _has_segments(tags[run.run_id])]
    metrics = _values(connection, _METRICS[request.unmetered], bare)
    strange = [run_id for run_id in bare if SCHEMA not in tags[run_id]]
    params = _values(connection, _PARAMS, strange if request.unmetered else [])
    for run in runs:
        facts = run._replace(experiment_id=str(run.experiment_id))
        yield StoredRun(*facts, metrics[run.run_id], tags[run.run_id], params[run.run_id])


def _has_segments(tags: Mapping[str, str]) -> bool:
    return SCHEMA in tags and any(key.startswith(_SEGMENT) for key in tags)


def _values(
    connection: sql.Connection, question: sql.Select[Any], run_ids: Sequence[str]
) -> Mapping[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    if run_ids:
        for run_id, key, value in connection.execute(question, {"run_ids": run_ids}):
            if value is not None:
                found[run_id][key] = value
    return found


def _question(table: sql.TableClause, *conditions: Any) -> sql.Select[Any]:
    run_ids: sql.BindParameter[str] = sql.bindparam("run_ids", expanding=True)
    of_runs = sql.select(table.c.run_uuid, table.c.key, table.c.value)
    return of_runs.where(table.c.run_uuid.in_(run_ids), *conditions)


def _metrics_question(*, unmetered: bool) -> sql.Select[Any]:
    metric = _metrics.c
    keys = metric.key.in_(TOTALS)
    # MLflow keeps NaN as 0 with a mark.
    return _question(
        _metrics,
        metric.is_nan.is_(sql.false()),
        sql.or_(keys, metric.key.like(GPU_METRICS)) if unmetered else keys,
    )


_TAGS = _question(
    _tags,
    sql.or_(_tags.c.key.not_like("mlflow.%"), _tags.c.key.in_(("mlflow.user", "mlflow.runName"))),
)
_METRICS = {each: _metrics_question(unmetered=each) for each in (False, True)}
_PARAMS = _question(_params, _params.c.key.in_(KEYS))
