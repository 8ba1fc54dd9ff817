"""Read runs from an MLflow server, page by page, and only those that may have changed.

A server tells when a run started and ended and no more. So the second reading asks for runs that
ended since the first (with `SETTLING_SECONDS` to spare), those that have not ended, those of
experiments that were not known or had another name, and the ids of those that were deleted. What it
cannot see before the memory is a week old: a run that was pushed with old dates, one that was
erased for good, and a tag or a name that was changed later than `SETTLING_SECONDS` after the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from computemeter.reading import SETTLING_SECONDS, Harvest, Request
from computemeter.records import RunRecord
from computemeter.sources import SourceError
from computemeter_mlflow._connect import NotNowError, RefusedError, ask_server
from computemeter_mlflow._stored import COMPUTE, SCHEMA, Maker, StoredRun

_API = "/api/2.0/mlflow"
_RUNS_IN_A_PAGE = 1000
_WAITS = (1.0, 4.0)
"""Seconds before a question is asked again; MLflow's own client goes on for minutes."""

_TAGGED = f"tags.`{SCHEMA}` != ''"
# Killed before its tags were sent.
_UNTAGGED = f"metrics.`{COMPUTE}` > 0 AND tags.`{SCHEMA}` IS NULL"
_GOING_ON = " AND ".join(
    f"attributes.status != '{end}'" for end in ("FINISHED", "FAILED", "KILLED")
)


def read_server(uri: str, maker: Maker, request: Request) -> list[RunRecord]:
    """Read what is asked for of a server; of one that stops half-way, what came until then.

    Raises:
        SourceError: it does not answer as MLflow, or stops before the first run.
    """
    began, harvest = time.time(), Harvest(request)
    names = _experiments(uri)
    stamps = {run: stamp for run, stamp in request.memory.stamps().items() if _is(stamp, names)}
    seen: set[str] = set()
    try:
        for run in _changed(uri, request, names, stamps):
            seen.add(run.run_id)
            stamp = _stamp(run.experiment_id, run.experiment) if run.end_time else None
            harvest.take(run.run_id, maker.make(run), stamp)
            request.progress(len(seen), None)
        if stamps:
            deleted = _deleted(uri, request, names)
            request.memory.forget(deleted)
            seen |= deleted
    except SourceError as error:
        if not seen and not stamps:
            raise
        request.skip(f"source that stopped: {error}: what it had not told until then is missing", 1)
    else:
        request.memory.completed(began, request.since)
    harvest.recall(stamps.keys() - seen)
    return harvest.records


def _changed(
    uri: str, request: Request, names: Mapping[str, str], stamps: Mapping[str, str]
) -> Iterator[StoredRun]:
    read_at = request.memory.read_at(request.since)
    known = set(stamps.values()) if read_at is not None else set()
    old = [each for each, name in names.items() if _stamp(each, name) in known]
    yield from _search(uri, names, sorted(names.keys() - set(old)), request, "")
    if read_at is not None:
        ended = round(1000 * (read_at - SETTLING_SECONDS))
        yield from _search(uri, names, old, request, f"attributes.end_time > {ended}")
        yield from _search(uri, names, old, request, _GOING_ON)


def _deleted(uri: str, request: Request, names: Mapping[str, str]) -> set[str]:
    found = _search(uri, names, list(names), request, "", run_view_type="DELETED_ONLY")
    return {run.run_id for run in found}


def _search(
    uri: str,
    names: Mapping[str, str],
    experiments: Sequence[str],
    request: Request,
    condition: str,
    **options: Any,
) -> Iterator[StoredRun]:
    if not experiments:
        return
    since = f"attributes.start_time >= {round(1000 * request.since)}" if request.since else ""
    for metered in ("",) if request.unmetered else (_TAGGED, _UNTAGGED):
        conditions = " AND ".join(filter(None, (metered, condition, since)))
        question = {"experiment_ids": experiments, "filter": conditions, **options}
        try:
            for run in _pages(uri, f"{_API}/runs/search", "runs", question):
                yield _stored(run, names)
        except RefusedError:
            if metered != _UNTAGGED:  # an older server, without IS NULL
                raise


def _experiments(uri: str) -> dict[str, str]:
    found = _pages(uri, f"{_API}/experiments/search", "experiments", {})
    return {str(each["experiment_id"]): str(each.get("name", "")) for each in found}


def _pages(uri: str, endpoint: str, what: str, question: Mapping[str, Any]) -> Iterator[Any]:
    wanted = {"max_results": _RUNS_IN_A_PAGE, **question}
    while True:
        answer = _ask(uri, endpoint, wanted)
        yield from answer.get(what) or ()
        token = answer.get("next_page_token")
        if not token:
            return
        wanted["page_token"] = token


def _ask(uri: str, endpoint: str, question: Mapping[str, Any]) -> dict[str, Any]:
    for wait in _WAITS:
        try:
            return ask_server(uri, endpoint, **question)
        except NotNowError:
            time.sleep(wait)
    return ask_server(uri, endpoint, **question)


def _stored(run: Mapping[str, Any], names: Mapping[str, str]) -> StoredRun:
    info, data = run["info"], run.get("data") or {}
    experiment = str(info["experiment_id"])
    return StoredRun(
        run_id=str(info["run_id"]),
        name=info.get("run_name"),
        user=info.get("user_id"),
        status=str(info.get("status")),
        start_time=int(info.get("start_time") or 0) or None,
        end_time=int(info.get("end_time") or 0) or None,
        experiment_id=experiment,
        experiment=names.get(experiment, ""),
        metrics={key: value for key, value in _pairs(data, "metrics") if _is_number(value)},
        tags=dict(_pairs(data, "tags")),
        params=dict(_pairs(data, "params")),
    )


def _pairs(data: Mapping[str, Any], what: str) -> Iterator[tuple[str, Any]]:
    return ((each["key"], each.get("value", "")) for each in data.get(what) or ())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _stamp(experiment: str, name: str) -> str:
    return f"{experiment} {name}"


def _is(stamp: str, names: Mapping[str, str]) -> bool:
    experiment, _, name = stamp.partition(" ")
    return names.get(experiment) == name
