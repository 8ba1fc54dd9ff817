"""The tracker's end of a run: requests without side effects, and what their answers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from computemeter.delivery import Gone, Rejected
from computemeter_mlflow._batches import Value

_FOLDER = "compute"
"""Of the run's artifacts, for the meter's files."""

_RUNS = "/api/2.0/mlflow/runs"


class RemoteRun(Protocol):
    """A run that exists, on a server or in a database."""

    def log_batch(self, values: Sequence[Value], tags: Mapping[str, str]) -> None:
        """Store values and tags, or raise."""

    def store_file(self, path: Path) -> None:
        """Store a file among the run's artifacts, in the folder "compute", or raise."""


def open_run(uri: str, run_id: str) -> RemoteRun:
    """Prepare to write to a run: over HTTP by one request at a time, else through MLflow's client.

    MLflow's client tries an HTTP request eight times within minutes, sleeping for times drawn from
    `random`'s global state: an outage would change the numbers the training draws. Delivery tries
    again by itself.
    """
    if uri.startswith(("http://", "https://")):
        return _OverHttp(uri, run_id)
    return _ThroughClient(uri, run_id)


def judged(error: Exception, *, reached: bool) -> Exception:
    """Tell an answer that is for good from one that passes.

    Args:
        error: what MLflow's client or `verify_rest_response` raised.
        reached: whether the run was written to before. A bare 404 is then a proxy's whose server
            is away; before, the address is wrong.

    Returns:
        `Gone`, `Rejected`, or the error itself where trying again may help.
    """
    code, text = getattr(error, "error_code", None), str(error)
    # A deleted run: the databases' wording, and that of folders of files.
    deleted = "must be in" in text and "'active'" in text
    if deleted or code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
        return Gone(text)
    if code == "ENDPOINT_NOT_FOUND" and not reached:
        return Gone(text)
    # Not BAD_REQUEST: that is also two writers in each other's way, and any proxy's opinion.
    return Rejected(text) if code == "INVALID_PARAMETER_VALUE" else error


class _OverHttp:
    def __init__(self, uri: str, run_id: str) -> None:
        self._uri, self._run_id = uri, run_id

    def log_batch(self, values: Sequence[Value], tags: Mapping[str, str]) -> None:
        body = {
            "run_id": self._run_id,
            "metrics": [value._asdict() for value in values],
            "tags": [{"key": key, "value": text} for key, text in tags.items()],
        }
        self._answer("POST", "log-batch", json=body)

    def store_file(self, path: Path) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

        run = self._answer("GET", "get", params={"run_id": self._run_id})["run"]
        place = get_artifact_repository(run["info"]["artifact_uri"], tracking_uri=self._uri)
        if isinstance(place, HttpArtifactRepository):
            _upload(place.artifact_uri, path)
        else:
            place.log_artifact(str(path), _FOLDER)

    def _answer(self, method: str, what: str, **arguments: Any) -> Any:
        from mlflow.utils.rest_utils import verify_rest_response

        endpoint = f"{_RUNS}/{what}"
        answer = _request(self._uri, endpoint, method, **arguments)
        return verify_rest_response(answer, endpoint).json()


class _ThroughClient:
    def __init__(self, uri: str, run_id: str) -> None:
        from mlflow import MlflowClient

        self._client, self._run_id = MlflowClient(uri), run_id

    def log_batch(self, values: Sequence[Value], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Metric, RunTag

        self._client.log_batch(
            self._run_id,
            metrics=[Metric(*value) for value in values],
            tags=[RunTag(key, text) for key, text in tags.items()],
            synchronous=True,  # whatever MLFLOW_ENABLE_ASYNC_LOGGING says: async drops batches
        )

    def store_file(self, path: Path) -> None:
        self._client.log_artifact(self._run_id, str(path), _FOLDER)


def _upload(folder: str, path: Path) -> None:
    from mlflow.utils.mime_type_utils import _guess_mime_type
    from mlflow.utils.request_utils import augmented_raise_for_status

    headers = {"Content-Type": _guess_mime_type(path.name)}
    with path.open("rb") as data:
        endpoint = f"/{_FOLDER}/{path.name}"
        answer = _request(folder, endpoint, "PUT", data=data, extra_headers=headers)
    augmented_raise_for_status(answer)


def _request(host: str, endpoint: str, method: str, **arguments: Any) -> Any:
    """Ask once, as MLflow's client would."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    # Credentials are asked for each time: a token may have been renewed.
    creds = get_default_host_creds(host)
    return http_request(creds, endpoint, method, max_retries=0, backoff_jitter=0.0, **arguments)
