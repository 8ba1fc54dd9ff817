"""One `log-batch` call to MLflow: how large it may be, and how it is made without side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

# MLflow's own limits. Tags go apart from values: together they may be 1000 and 1 MB.
_VALUES_IN_A_CALL = 1000
_TAGS_IN_A_CALL = 100
_ENDPOINT = "/api/2.0/mlflow/runs/log-batch"


class Value(NamedTuple):
    """A metric's value; `timestamp` in milliseconds since the epoch."""

    key: str
    value: float
    timestamp: int
    step: int


LogBatch = Callable[[Sequence[Value], Mapping[str, str]], None]
"""Stores values and tags in a run, or raises."""


def in_calls(
    values: Sequence[Value], tags: Mapping[str, str]
) -> Iterator[tuple[Sequence[Value], Mapping[str, str]]]:
    """Cut values and tags into calls that MLflow accepts."""
    for start in range(0, len(values), _VALUES_IN_A_CALL):
        yield values[start : start + _VALUES_IN_A_CALL], {}
    rest = iter(tags.items())
    while call := dict(islice(rest, _TAGS_IN_A_CALL)):
        yield (), call


def open_run(uri: str, run_id: str) -> LogBatch:
    """Prepare to write to a run: over HTTP by one request at a time, else through MLflow's client.

    MLflow's client tries an HTTP request eight times within minutes, sleeping for times drawn from
    `random`'s global state: an outage would change the numbers the training draws. Delivery tries
    again by itself.
    """
    if uri.startswith(("http://", "https://")):
        return _over_http(uri, run_id)
    return _through_client(uri, run_id)


def _over_http(uri: str, run_id: str) -> LogBatch:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    def log_batch(values: Sequence[Value], tags: Mapping[str, str]) -> None:
        body = {
            "run_id": run_id,
            "metrics": [value._asdict() for value in values],
            "tags": [{"key": key, "value": text} for key, text in tags.items()],
        }
        # Credentials are asked for each time: a token may have been renewed.
        creds = get_default_host_creds(uri)
        answer = http_request(
            creds, _ENDPOINT, "POST", json=body, max_retries=0, backoff_jitter=0.0
        )
        verify_rest_response(answer, _ENDPOINT)

    return log_batch


def _through_client(uri: str, run_id: str) -> LogBatch:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    client = MlflowClient(uri)

    def log_batch(values: Sequence[Value], tags: Mapping[str, str]) -> None:
        client.log_batch(
            run_id,
            metrics=[Metric(*value) for value in values],
            tags=[RunTag(key, text) for key, text in tags.items()],
            synchronous=True,  # whatever MLFLOW_ENABLE_ASYNC_LOGGING says: async drops batches
        )

    return log_batch
