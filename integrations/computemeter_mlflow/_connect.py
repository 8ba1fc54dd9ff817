"""A client for a store that answers, or one line on why there is none.

MLflow's own client asks a server that is down for minutes, and makes a database where none is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from computemeter.sinks import describe, redact
from computemeter.sources import SourceError

_SECONDS_TO_ANSWER = 30
# Any question that a server answers at once; it needs the same login as all others.
_QUESTION = "/api/2.0/mlflow/experiments/search"
_LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
    "to one that may"
)


def connect(uri: str, *, may_create: bool = False) -> Any:
    """Return an `MlflowClient` of a store that has answered.

    Args:
        uri: of a server or database.
        may_create: make MLflow's tables in a database that is empty or missing.

    Raises:
        SourceError: it does not answer, needs a login, or is not MLflow's.
        ImportError: where mlflow, or the driver of the database, is not installed.
    """
    from mlflow import MlflowClient

    if uri.startswith(("http://", "https://")):
        _ask_server(uri)
    else:
        _ask_database(uri, may_create=may_create)
    return MlflowClient(uri)


def page_through(search: Any, **arguments: Any) -> Any:
    """Yield what a search of MLflow's client finds, page by page."""
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def _ask_server(uri: str) -> None:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = redact(uri)
    try:
        answer = http_request(
            get_default_host_creds(uri),
            _QUESTION,
            "POST",
            json={"max_results": 1},
            max_retries=0,
            raise_on_status=False,
            timeout=_SECONDS_TO_ANSWER,
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer
        raise SourceError(f"{shown} does not answer: {describe(_root(error))}") from None
    status = answer.status_code
    if status in {401, 403}:
        raise SourceError(f"{shown} needs a login (it answered {status}): {_LOGIN}")
    if status != 200:
        raise SourceError(f"{shown} answered {status} {answer.reason}, where MLflow answers 200")
    if not answer.text.lstrip().startswith("{"):
        raise SourceError(f"{shown} answers, but not as an MLflow server does")


def _ask_database(uri: str, *, may_create: bool) -> None:
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    shown = redact(uri)
    try:
        url = sqlalchemy.make_url(uri)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            if may_create and url.database:
                return
            raise SourceError(f"{shown}: there is no such database")
        tables = _tables(url)
    except SQLAlchemyError as error:
        raise SourceError(f"{shown} cannot be opened: {describe(error)}") from None
    if not {"experiments", "runs"} <= tables and (tables or not may_create):
        raise SourceError(f"{shown} is not MLflow's: it has no tables of runs and experiments")


def _tables(url: Any) -> set[str]:
    import sqlalchemy

    waits = url.get_backend_name() in {"postgresql", "mysql"}
    limit = {"connect_timeout": _SECONDS_TO_ANSWER} if waits else {}
    engine = sqlalchemy.create_engine(url, connect_args=limit)
    try:
        return set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def _root(error: BaseException) -> BaseException:
    """Return what it began with: "Connection refused" says more than three layers around it."""
    cause = error.__cause__ or error.__context__
    return error if cause is None else _root(cause)
