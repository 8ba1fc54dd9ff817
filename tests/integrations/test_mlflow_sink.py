"""The MLflow sink against a real store: everything is there once, and an outage hurts nobody."""

import math
import random
import sys
import time

import pytest

mlflow = pytest.importorskip("mlflow")

from computemeter.sinks import RunContext, Sink, attach_all  # noqa: E402
from computemeter_mlflow import MLflowSink, attach  # noqa: E402 - after the check for mlflow
from computemeter_mlflow._batches import in_calls  # noqa: E402

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


def history(client, run_id, key):
    return [
        (each.step, each.timestamp, each.value) for each in client.get_metric_history(run_id, key)
    ]


def wait_until(happened):
    deadline = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


def sink_at(uri, warnings=None, run_id="0" * 32, **options):
    warn = (warnings if warnings is not None else []).append
    return MLflowSink(tracking_uri=uri, run_id=run_id, warn=warn, **options)


def log_steps(sink, count, **values):
    for step in range(count):
        sink.log({"compute/loss": 2.5, **values}, step=step, time=TIME)


def test_a_run_deleted_while_it_trains_is_given_up_in_one_line(uri, client, run_id):
    warnings = []
    sink = sink_at(uri, warnings, run_id, interval=0.01)
    sink.log({"compute/loss": 2.5}, step=0, time=TIME)
    wait_until(lambda: history(client, run_id, "compute/loss"))
    client.delete_run(run_id)
    sink.log({"compute/loss": 2.5}, step=1, time=TIME)
    wait_until(lambda: warnings)
    log_steps(sink, 10)
    assert sink.close(SOON) == 11
    assert len(warnings) == 1
    assert "gone" in warnings[0]
    assert "must be in the 'active' state" in warnings[0]


def test_a_run_that_never_was_is_given_up_in_one_line(uri):
    warnings = []
    sink = sink_at(uri, warnings)
    log_steps(sink, 3)
    assert sink.close(SOON) == 3
    assert len(warnings) == 1
    assert "not found" in warnings[0]


def test_names_that_mlflow_refuses_are_left_out_in_one_line(uri, client, run_id):
    warnings = []
    sink = sink_at(uri, warnings, run_id)
    log_steps(sink, 5, **{"a*b?": 1.0, "x" * 300: 1.0, "good": 3.0})
    sink.log({"a*b?": 1.0}, step=9, time=TIME)
    assert sink.close(SOON) == 0
    assert [step for step, _, _ in history(client, run_id, "good")] == list(range(5))
    assert client.get_run(run_id).data.metrics == {"compute/loss": 2.5, "good": 3.0}
    assert len(warnings) == 1


def test_tags_hold_no_credentials_and_nothing_a_database_refuses(uri, client, run_id):
    sink = sink_at(uri, run_id=run_id)
    sink.tag({"a": "postgresql://u:s3cret@h/db is down", "b": "n\0ul", "c": "\udcff"})
    assert sink.close(SOON) == 0
    tags = client.get_run(run_id).data.tags
    assert tags["computemeter.a"] == "postgresql://***@h/db is down"
    assert (tags["computemeter.b"], tags["computemeter.c"]) == ("nul", "?")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://ann:s3cret@host:5000", "http://***@host:5000"),
        ("postgresql://u:s3cret@h/db", "postgresql://***@h/db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_the_destination_is_shown_without_credentials(address, shown):
    sink = sink_at(address)
    assert sink.destination == shown
    assert "s3cret" not in repr(sink)


def two_files(folder):
    (folder / "receipt.json").write_text("{}")
    (folder / "loss.html").write_text("<p>")
    return [folder / "receipt.json", folder / "loss.html"]


@pytest.fixture
def run_with_artifacts(client, tmp_path):
    """A run and the folder that its artifacts go to."""
    place = tmp_path / "artifacts"
    experiment = client.create_experiment(str(tmp_path), artifact_location=place.as_uri())
    run_id = client.create_run(experiment).info.run_id
    return run_id, place / run_id / "artifacts" / "compute"


def test_files_are_stored_after_the_values(uri, client, run_with_artifacts):
    run_id, place = run_with_artifacts
    made, before = [], random.getstate()

    def make(folder):
        made.append(folder)
        assert len(history(client, run_id, "compute/loss")) == 3
        return two_files(folder)

    warnings = []
    sink = sink_at(uri, warnings, run_id)
    log_steps(sink, 3)
    sink.files(make)
    assert sink.close(SOON) == 0
    assert warnings == []
    assert (place / "receipt.json").read_text() == "{}"
    assert (place / "loss.html").read_text() == "<p>"
    assert [folder.exists() for folder in made] == [False]
    assert random.getstate() == before


def test_files_that_cannot_be_made_cost_one_warning(uri, client, run_id):
    def make(folder):
        raise ImportError("no matplotlib for http://ann:s3cret@host")

    warnings = []
    sink = sink_at(uri, warnings, run_id)
    log_steps(sink, 1)
    sink.files(make)
    assert sink.close(SOON) == 0
    assert history(client, run_id, "compute/loss")
    assert len(warnings) == 1
    assert "ImportError: no matplotlib" in warnings[0]
    assert "s3cret" not in warnings[0]


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
