"""Runs read back from MLflow: by their tags, each once, and one line where there is no MLflow."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ledgers import header, totals, write

mlflow = pytest.importorskip("mlflow")

from computemeter.sources import SourceError, records  # noqa: E402 - after the check for mlflow
from computemeter_mlflow import MLflowSink, _source, _sql  # noqa: E402
from computemeter_mlflow._stored import page_of  # noqa: E402

SOON = 30.0


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A store of its own; its tables take seconds to make, so the module shares it."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    return uri, mlflow.MlflowClient(uri)


@pytest.fixture
def uri(made_once):
    return made_once[0]


@pytest.fixture
def client(made_once):
    return made_once[1]


@pytest.fixture
def experiment(client, request):
    """An experiment for one test; it is deleted after it, with its runs."""
    experiment = client.create_experiment(request.node.name)
    yield experiment
    client.delete_experiment(experiment)


def make(client, experiment, segments=None, *, metrics=None, status="FINISHED", **tags):
    """Make a run as the meter leaves it."""
    run = client.create_run(experiment, start_time=1_000_000, run_name="digits")
    known = {"mlflow.user": "ann", "computemeter.schema": "1", **tags}
    for name, text in known.items():
        client.set_tag(run.info.run_id, name, text)
    for segment, values in (segments or {}).items():
        text = values if isinstance(values, str) else json.dumps(values)
        client.set_tag(run.info.run_id, f"computemeter.segment.{segment}", text)
    for name, value in (metrics or {}).items():
        client.log_metric(run.info.run_id, name, value)
    client.set_terminated(run.info.run_id, status, end_time=2_000_000)
    return run.info.run_id


def test_segments_add_up_to_a_run(uri, client, experiment):
    first = totals(steps=10, model_flops=10**15, run_flops=10**15, gpu_time_flops=2 * 10**15)
    second = totals(steps=5, model_flops=3 * 10**15, run_flops=2 * 10**15, verdict="alarm")
    facts = {
        "computemeter.device": "8 x NVIDIA H100 x 2",
        "computemeter.project": "lm",
        "computemeter.team": "blue",
        "computemeter.verdict": "warn",
    }
    run_id = make(client, experiment, {"2026-a": first, "2026-b": second}, **facts)
    (record,) = records([uri])
    assert (record.run_id, record.name, record.user) == (run_id, "digits", "ann")
    # 1 + 3 PF were spent, and 2 + 2 by the other method; 2 of them are in the weights.
    assert (record.spent_flops, record.gpu_time_flops) == (4 * 10**15, 4 * 10**15)
    assert (record.run_flops, record.ratio, record.verdict) == (2 * 10**15, 1.0, "alarm")
    assert (record.steps, record.segments, record.device_seconds) == (15, 2, 20.0)
    assert (record.device_name, record.device_count) == ("NVIDIA H100 x 2", 8)
    assert (record.project, record.team, record.url) == ("lm", "blue", None)
    assert (record.started, record.ended, record.status) == (1000.0, 2000.0, "finished")


def test_the_sink_leaves_what_the_source_reads(uri, client, experiment, tmp_path):
    run_id = client.create_run(experiment).info.run_id
    sink = MLflowSink(tracking_uri=uri, run_id=run_id)
    sink.tag({"schema": "1", "segment.20260101T000000Z-ab": json.dumps(totals())})
    assert sink.close(SOON) == 0
    # The same segment in a ledger, of a run that has another id there.
    write(tmp_path, header("20260101T000000Z-ab", run="elsewhere"), totals())
    (record,) = records([uri, tmp_path])
    assert (record.run_id, record.spent_flops, record.status) == (run_id, 10**15, "running")


@pytest.mark.parametrize(
    ("theirs", "ours"), [("FINISHED", "finished"), ("FAILED", "failed"), ("KILLED", "interrupted")]
)
def test_the_status_is_mlflows(uri, client, experiment, theirs, ours):
    make(client, experiment, {"a": totals()}, status=theirs)
    assert records([uri])[0].status == ours


def test_without_segments_the_newest_metrics_are_taken(uri, client, experiment, request):
    metrics = {
        "compute/flops": 2e15,
        "compute/pfs_days_gpu_time": 0.5,
        "compute/spent_pfs_days": 0.25,
        "compute/ratio": 2.0,
        "compute/device_hours": 3.0,
        "compute/mfu": 0.4,
    }
    make(client, experiment, metrics=metrics, **{"computemeter.verdict": "warn"})
    (record,) = records([uri])
    # 1 pfs-day = 8.64e19 FLOP
    assert (record.run_flops, record.gpu_time_flops) == (2 * 10**15, 432 * 10**17)
    assert (record.spent_flops, record.ratio, record.verdict) == (216 * 10**17, 2.0, "warn")
    assert record.device_seconds == 3 * 3600
    assert (record.mfu, record.steps, record.possible_flops) == (None, None, None)
    # Without a project of its own, it is the experiment's.
    assert record.project == request.node.name


def test_a_run_that_was_killed_before_its_tags_were_sent_is_read(uri, client, experiment):
    run = client.create_run(experiment)
    client.log_metric(run.info.run_id, "compute/flops", 5.0)
    (record,) = records([uri])
    assert (record.run_id, record.run_flops, record.spent_flops) == (run.info.run_id, 5, 5)


def test_runs_without_a_meter_and_deleted_ones_are_not_read(uri, client, experiment):
    client.log_metric(client.create_run(experiment).info.run_id, "loss", 5.0)
    client.delete_run(make(client, experiment, {"a": totals()}))
    assert records([uri]) == []


def test_totals_that_cannot_be_read_cost_their_segment_alone(uri, client, experiment):
    segments = {"a": totals(), "b": '{"steps":', "c": "[1]", "d": '{"steps": "many"}'}
    run_id = make(client, experiment, segments)
    warnings = []
    (record,) = records([uri], warn=warnings.append)
    assert (record.spent_flops, record.segments) == (10**15, 2)  # d has totals, and none is known
    assert len(warnings) == 2
    assert all(run_id in warning for warning in warnings)


@pytest.mark.parametrize("directly", [True, False])
def test_runs_come_in_lots_from_every_experiment_and_no_history_is_asked_for(
    uri, client, experiment, monkeypatch, directly
):
    other = client.create_experiment(f"another {directly}")
    made = [make(client, place, {f"s{n}": totals()}) for n, place in enumerate([experiment] * 3)]
    made += [make(client, other, {"s9": totals()})]

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(mlflow.MlflowClient, "get_metric_history", refuse)
    monkeypatch.setattr(mlflow.MlflowClient, "get_run", refuse)
    monkeypatch.setattr(_source, "_RUNS_IN_A_PAGE", 2)
    monkeypatch.setattr(_sql, "_RUNS_AT_ONCE", 2)
    if not directly:
        monkeypatch.setattr(_sql, "known_versions", frozenset)
    assert {record.run_id for record in records([uri])} == set(made)
    client.delete_experiment(other)


def test_the_page_of_a_run_is_without_credentials():
    assert page_of("https://ann:p%40ss@host:5000/mlflow/?token=x", "7", "abc") == (
        "https://host:5000/mlflow/#/experiments/7/runs/abc"
    )
    assert page_of("sqlite:///mlflow.db", "7", "abc") is None


@pytest.fixture
def answering():
    """Start a server that gives one answer to everything."""
    servers = []

    def start(status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://ann:s3cret@127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (500, b"oh no", "answered 500"),
        (503, b"", "answered 503"),
        (401, b"who are you", "needs a login .*MLFLOW_TRACKING_USERNAME"),
        (403, b"{}", "needs a login"),
        (404, b"<html>", "answered 404"),
        (200, b"<html>hello", "not as an MLflow server does"),
    ],
)
def test_a_server_that_does_not_serve_is_one_line(answering, status, body, why):
    with pytest.raises(SourceError, match=why) as refused:
        records([answering(status, body)])
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_mlflow_is_one_line(tmp_path):
    import sqlite3

    (tmp_path / "text.db").write_text("hello, this is no database at all\n" * 9)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("create table mine (x)")
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    for source, why in {
        "http://ann:s3cret@127.0.0.1:9": "does not answer: ConnectionRefusedError",
        "postgresql://ann:s3cret@127.0.0.1:9/db": "cannot be opened|not installed|No module",
        f"sqlite:///{tmp_path}/missing.db": "no such database",
        f"sqlite:///{tmp_path}/text.db": "not a database",
        f"sqlite:///{tmp_path}/other.db": "is not MLflow's",
        "sqlite://": "no such database",
        "http://": "",
    }.items():
        with pytest.raises(SourceError, match=why) as refused:
            records([source])
        assert "s3cret" not in str(refused.value)
        assert "\n" not in str(refused.value)
    assert (tmp_path / "other.db").read_bytes() == before
    assert not (tmp_path / "missing.db").exists()
