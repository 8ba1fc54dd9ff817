"""A client for a store that answers, or one line on why there is none.

MLflow's own client asks a server that is down for minutes, and makes a database where none is.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from computemeter.sinks import describe, redact, root_of
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
        ask_server(uri)
    else:
        ask_database(uri, may_create=may_create)
    return MlflowClient(uri)


def as_url(uri: str) -> Any:
    """Take the URI of a database apart.

    Raises:
        SQLAlchemyError: it is none.
    """
    import sqlalchemy

    return sqlalchemy.make_url(uri)


def limits(url: Any) -> dict[str, Any]:
    """Return the driver's options that bound how long it waits for a database."""
    waits = url.get_backend_name() in {"postgresql", "mysql"}
    return {"connect_timeout": _SECONDS_TO_ANSWER} if waits else {}


def page_through(search: Any, **arguments: Any) -> Any:
    """Yield what a search of MLflow's client finds, page by page."""
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def end_run(client: Any, run_id: str, **how: Any) -> None:
    """Set a run's end as `set_terminated` does, without what that prints.

    MLflow's client prints the run's address, with the password in it. For commands only: it is
    the output of the whole process that is held back meanwhile.
    """
    with redirect_stdout(StringIO()):
        client.set_terminated(run_id, **how)


class NotNowError(SourceError):
    """A server that may answer if it is asked again."""


class RefusedError(SourceError):
    """A server that does not understand the question."""


def ask_server(uri: str, endpoint: str = _QUESTION, **body: Any) -> dict[str, Any]:
    """Ask an MLflow server once and return its answer.

    Raises:
        NotNowError: it does not answer, or not now.
        RefusedError: it answers with an error that stays.
        SourceError: it needs a login, or is not MLflow's.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = redact(uri)
    try:
        answer = http_request(
            get_default_host_creds(uri),
            endpoint,
            "POST",
            json={"max_results": 1, **body},
            max_retries=0,
            raise_on_status=False,
            timeout=_SECONDS_TO_ANSWER,
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer
        raise NotNowError(f"{shown} does not answer: {describe(root_of(error))}") from None
    status = answer.status_code
    if status in {401, 403}:
        raise SourceError(f"{shown} needs a login (it answered {status}): {_LOGIN}")
    if status != 200:
        passing = status == 429 or status >= 500
        kind = NotNowError if passing else RefusedError
        raise kind(f"{shown} answered {status} {answer.reason}, where MLflow answers 200")
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SourceError(f"{shown} answers, but not as an MLflow server does")
    return found


def ask_database(uri: str, *, may_create: bool = False) -> None:
    """See that a database opens and is MLflow's; see `connect`."""
    from sqlalchemy.exc import SQLAlchemyError

    shown = redact(uri)
    try:
        url = as_url(uri)
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

    engine = sqlalchemy.create_engine(url, connect_args=limits(url))
    try:
        return set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
