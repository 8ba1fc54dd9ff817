"""The MLflow sink against a real store: everything is there once, and an outage hurts nobody."""

import json
import math
import random
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

mlflow = pytest.importorskip("mlflow")

from computemeter import delivery  # noqa: E402
from computemeter.sinks import RunContext, Sink, attach_all  # noqa: E402
from computemeter_mlflow import MLflowSink, attach  # noqa: E402 - after the check for mlflow
from computemeter_mlflow._batches import in_calls, open_run  # noqa: E402

SOON = 30.0
TIME = 1_700_000_000.123


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A store of its own; its tables take seconds to make, so the module shares it."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def client(uri):
    return mlflow.MlflowClient(uri)


@pytest.fixture
def run_id(client):
    return client.create_run("0").info.run_id


@pytest.fixture
def store(uri, monkeypatch):
    """Make the store MLflow's current one, and leave no run open."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield
    mlflow.end_run()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def history(client, run_id, key):
    return [
        (each.step, each.timestamp, each.value) for each in client.get_metric_history(run_id, key)
    ]


def test_values_and_tags_arrive_once_with_their_step_and_time(uri, client, run_id):
    sink = MLflowSink(tracking_uri=uri, run_id=run_id)
    sink.log({"compute/pfs_days": 0.01, "compute/loss": 2.5}, step=50, time=TIME)
    sink.log({"compute/pfs_days": 0.1, "compute/loss": 1.5}, step=100, time=TIME + 1)
    sink.tag({"verdict": "warn", "segment.20250101T000000Z-ab": '{"model_flops":1}'})
    sink.tag({"verdict": "agree"})
    assert sink.close(SOON) == 0
    # milliseconds: 1_700_000_000.123 * 1000
    assert history(client, run_id, "compute/pfs_days") == [
        (50, 1_700_000_000_123, 0.01),
        (100, 1_700_000_001_123, 0.1),
    ]
    assert history(client, run_id, "compute/loss") == [
        (50, 1_700_000_000_123, 2.5),
        (100, 1_700_000_001_123, 1.5),
    ]
    # log10(0.01) = -2, log10(0.1) = -1
    assert [value for _, _, value in history(client, run_id, "compute/log10_pfs_days")] == [-2, -1]
    tags = client.get_run(run_id).data.tags
    assert tags["computemeter.verdict"] == "agree"
    assert tags["computemeter.segment.20250101T000000Z-ab"] == '{"model_flops":1}'


def test_a_replay_stores_nothing_twice(uri, client, run_id):
    for _ in range(2):
        sink = MLflowSink(tracking_uri=uri, run_id=run_id)
        for step in range(3):
            sink.log({"compute/pfs_days": step / 4}, step=step, time=TIME + step)
        assert sink.close(SOON) == 0
    assert [step for step, _, _ in history(client, run_id, "compute/pfs_days")] == [0, 1, 2]


def test_what_mlflow_cannot_hold_is_left_out(uri, client, run_id):
    sink = MLflowSink(tracking_uri=uri, run_id=run_id)
    values = {"nan": math.nan, "inf": math.inf, "compute/pfs_days": 0.0}
    sink.log(values, step=0, time=TIME)
    sink.tag({"diagnosis": "x" * 9000})
    assert sink.close(SOON) == 0
    run = client.get_run(run_id)
    assert run.data.metrics == {"compute/pfs_days": 0.0}  # and no logarithm of zero
    assert run.data.tags["computemeter.diagnosis"] == "x" * 8000


def test_calls_are_as_large_as_mlflow_accepts():
    values, tags = list(range(2001)), {str(number): "" for number in range(150)}
    calls = list(in_calls(values, tags))
    # 2001 = 1000 + 1000 + 1 and 150 = 100 + 50, never mixed
    assert [(len(some), len(few)) for some, few in calls] == [
        (1000, 0),
        (1000, 0),
        (1, 0),
        (0, 100),
        (0, 50),
    ]
    assert [value for some, _ in calls for value in some] == values


def test_many_values_arrive(uri, client, run_id):
    sink = MLflowSink(tracking_uri=uri, run_id=run_id)
    for step in range(600):
        sink.log({"a": step, "b": -step}, step=step, time=TIME)
    assert sink.close(SOON) == 0
    assert len(history(client, run_id, "a")) == len(history(client, run_id, "b")) == 600


def test_a_server_that_cannot_be_reached_costs_one_warning(monkeypatch, closed_port):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", 0.01)
    warnings = []
    sink = MLflowSink(
        tracking_uri=f"http://ann:s3cret@127.0.0.1:{closed_port}",
        run_id="0" * 32,
        warn=warnings.append,
        interval=0.01,
    )
    before = random.getstate()
    for step in range(5):
        sink.log({"compute/pfs_days": 1.0}, step=step, time=TIME)
    sink.tag({"verdict": "agree"})
    started = time.monotonic()
    assert sink.close(0.5) == 6
    assert time.monotonic() - started < SOON
    assert len(warnings) == 1
    assert "s3cret" not in warnings[0]
    # MLflow's own retries draw from the user's random numbers; ours must not.
    assert random.getstate() == before


class Server(HTTPServer):
    """Answers log-batch as MLflow does, after a number of failures."""

    def __init__(self, failures):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failures, self.requests = failures, []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, json.loads(body)))
        self.send_response(503 if len(self.server.requests) <= self.server.failures else 200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    servers = []

    def start(failures=0):
        servers.append(Server(failures))
        return servers[0], f"http://127.0.0.1:{servers[0].server_port}"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


def test_over_http_a_failed_batch_is_sent_again(monkeypatch, server):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", 0.01)
    listening, address = server(failures=2)
    warnings = []
    sink = MLflowSink(tracking_uri=address, run_id="0" * 32, warn=warnings.append)
    sink.log({"compute/loss": 2.5}, step=7, time=TIME)
    assert sink.close(SOON) == 0
    path = "/api/2.0/mlflow/runs/log-batch"
    value = {"key": "compute/loss", "value": 2.5, "timestamp": 1_700_000_000_123, "step": 7}
    sent = (path, {"run_id": "0" * 32, "metrics": [value], "tags": []})
    assert listening.requests == [sent, sent, sent]
    assert len(warnings) == 1


def test_over_http_a_request_is_what_mlflows_own_client_sends(server):
    from computemeter_mlflow._batches import Value

    listening, address = server()
    ours = open_run(address, "0" * 32)
    ours([Value("compute/loss", 2.5, 1_700_000_000_123, 7)], {"computemeter.verdict": "agree"})
    mlflow.MlflowClient(address).log_batch(
        "0" * 32,
        metrics=[mlflow.entities.Metric("compute/loss", 2.5, 1_700_000_000_123, 7)],
        tags=[mlflow.entities.RunTag("computemeter.verdict", "agree")],
    )
    # The client also asks for the server's version and the like; those are no POST.
    assert listening.requests[0] == listening.requests[1]


def test_mlflow_is_never_imported_to_look_for_a_run(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlflow")
    assert attach(RunContext()) is None
    assert "mlflow" not in sys.modules


def test_without_a_run_nothing_is_attached_and_none_is_made(store, client):
    runs = len(client.search_runs(["0"]))
    assert attach(RunContext()) is None
    assert len(client.search_runs(["0"])) == runs


def test_the_active_run_is_attached_to(store, client):
    with mlflow.start_run() as run:
        sink = attach(RunContext())
        assert isinstance(sink, Sink)
        assert (sink.name, sink.run_id) == ("mlflow", run.info.run_id)
        sink.log({"compute/pfs_days": 1.0}, step=1, time=TIME)
        assert sink.close(SOON) == 0
    assert history(client, run.info.run_id, "compute/pfs_days") == [(1, 1_700_000_000_123, 1.0)]


@pytest.mark.parametrize("namespace", ["lightning.pytorch.loggers", "pytorch_lightning.loggers"])
def test_a_loggers_run_is_attached_to(namespace, store, uri, client):
    loggers = pytest.importorskip(namespace)
    logger = loggers.MLFlowLogger(experiment_name="test", tracking_uri=uri)
    warnings = []
    (sink,) = attach_all(["mlflow"], RunContext(loggers=(object(), logger), warn=warnings.append))
    logger.log_metrics({"loss": 1.0}, step=3)
    sink.log({"compute/pfs_days": 1.0}, step=3, time=TIME)
    assert sink.close(SOON) == 0
    assert warnings == []
    assert sink.run_id == logger.run_id
    assert client.get_run(logger.run_id).data.metrics == {
        "loss": 1.0,
        "compute/pfs_days": 1.0,
        "compute/log10_pfs_days": 0.0,
    }


def test_two_runs_are_warned_of_and_the_loggers_is_taken(store, uri):
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.MLFlowLogger(experiment_name="test", tracking_uri=uri)
    warnings = []
    with mlflow.start_run() as active:
        sink = attach(RunContext(loggers=(logger,), warn=warnings.append))
    assert sink.run_id == logger.run_id
    assert len(warnings) == 1
    assert logger.run_id in warnings[0]
    assert active.info.run_id in warnings[0]


def test_one_run_that_is_both_is_not_warned_of(store, uri):
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    warnings = []
    with mlflow.start_run() as active:
        logger = loggers.MLFlowLogger(tracking_uri=uri, run_id=active.info.run_id)
        assert attach(RunContext(loggers=(logger,), warn=warnings.append)).run_id == logger.run_id
    assert warnings == []


def test_a_ready_made_sink_is_checked(uri):
    with pytest.raises(ValueError, match="run_id=''"):
        MLflowSink(tracking_uri=uri, run_id="")


def test_a_missing_mlflow_is_said_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'computemeter\[mlflow\]'"):
        MLflowSink(tracking_uri=None, run_id="abc")
