"""Read runs back from MLflow: its latest values and tags, and no history.

A database is read by `_sql`, a server by `_rest`. MLflow's own client is for a database of a
version that is not known here; through it everything is read each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from computemeter.reading import Harvest, Request
from computemeter.records import RunRecord
from computemeter_mlflow._connect import ask_database, connect, page_through
from computemeter_mlflow._stored import COMPUTE, SCHEMA, Maker, StoredRun

_RUNS_IN_A_PAGE = 1000
_TAGGED = f"tags.`{SCHEMA}` != ''"
_UNTAGGED = f"metrics.`{COMPUTE}` > 0 AND tags.`{SCHEMA}` IS NULL"


def records(
    source: str, request: Request | None = None, *, warn: Callable[[str], None]
) -> list[RunRecord]:
    """Read the runs of all active experiments.

    Args:
        source: URI of the server or database.
        request: every metered run if left out.
        warn: takes one line for each segment whose totals cannot be read, and for a database that
            is not read directly.

    Raises:
        SourceError: it cannot be read.
        ImportError: where mlflow, or the driver of the database, is not installed.
    """
    wanted = request or Request()
    maker = Maker(source, wanted, warn)
    if source.startswith(("http://", "https://")):
        from computemeter_mlflow._rest import read_server

        return read_server(source, maker, wanted)
    if find_spec("mlflow") is None:
        raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
    from computemeter_mlflow._sql import UnknownTablesError, read_tables

    ask_database(source)
    try:
        return read_tables(source, maker, wanted)
    except UnknownTablesError as why:
        warn(f"{maker.shown}: {why}, so that it is read through MLflow's client, which takes long")
        return _through_client(source, maker, wanted)


def _through_client(source: str, maker: Maker, request: Request) -> list[RunRecord]:
    client, harvest = connect(source), Harvest(request)
    names = {
        each.experiment_id: each.name
        for each in page_through(client.search_experiments, max_results=_RUNS_IN_A_PAGE)
    }
    for run in _search(client, list(names), request):
        stored = _stored(run, names)
        harvest.take(stored.run_id, maker.make(stored))
        request.progress(len(harvest.records), None)
    return harvest.records


def _search(client: Any, experiments: list[str], request: Request) -> Iterator[Any]:
    search = partial(
        page_through,
        client.search_runs,
        experiment_ids=experiments,
        max_results=_RUNS_IN_A_PAGE,
    )
    for condition in ("",) if request.unmetered else (_TAGGED, _UNTAGGED):
        yield from search(filter_string=condition)


def _stored(run: Any, names: Mapping[str, str]) -> StoredRun:
    info, data = run.info, run.data
    return StoredRun(
        run_id=info.run_id,
        name=info.run_name,
        user=info.user_id,
        status=info.status,
        start_time=info.start_time,
        end_time=info.end_time,
        experiment_id=info.experiment_id,
        experiment=names.get(info.experiment_id, ""),
        metrics=data.metrics,
        tags=data.tags,
        params=data.params,
    )
