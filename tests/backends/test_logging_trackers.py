"""A Keras fit logs into the run that is open, of MLflow or of W&B, or where it is told to."""

import json

import pytest
from keras_fits import meter as quiet_meter
from keras_logs import FLOPS, NAMES, OTHER_NAMES, Tracker, fit, net

from computemeter.ledger import read_ledger

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A store of its own; its tables take seconds to make, so the module shares it."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def mlflow(uri, tmp_path):
    """MLflow with a store and an experiment of the test's own."""
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    made = mlflow.create_experiment(tmp_path.name, artifact_location=(tmp_path / "art").as_uri())
    mlflow.set_experiment(experiment_id=made)
    yield mlflow
    mlflow.end_run()
    mlflow.set_tracking_uri(before)


def column(mlflow, run_id, name):
    """Return a metric's values by step; a step may have one only."""
    points = mlflow.MlflowClient().get_metric_history(run_id, name)
    assert len({each.step for each in points}) == len(points)
    return {each.step: each.value for each in points}


def test_the_active_mlflow_run_gets_every_value_once(mlflow, tmp_path):
    meter, model = quiet_meter(trackers="auto", ledger=tmp_path / "ledger", project="p"), net()
    with mlflow.start_run() as run:
        history = fit(model, meter, epochs=2).history["loss"]
        history += fit(model, meter).history["loss"]
    run_id = run.info.run_id
    # 4 steps to an epoch
    assert column(mlflow, run_id, "compute/flops") == {0: 4 * FLOPS, 1: 8 * FLOPS, 2: 12 * FLOPS}
    assert column(mlflow, run_id, "compute/loss") == dict(enumerate(history))
    data = mlflow.get_run(run_id).data
    assert set(data.metrics) >= NAMES | {"compute/log10_pfs_days"}
    assert set(data.metrics) <= NAMES | OTHER_NAMES | {"compute/log10_pfs_days"}
    summary = meter.summary()
    assert data.tags["computemeter.project"] == "p"
    assert data.tags["computemeter.verdict"] == summary.verdict
    assert data.tags["computemeter.cause"] == summary.cause
    assert summary.device_name in data.tags["computemeter.device"]
    ledgers = [read_ledger(path) for path in sorted((tmp_path / "ledger").glob("*.jsonl"))]
    # One segment for each fit; the second goes on from the first.
    assert [each.header.run for each in ledgers] == [run_id, run_id]
    assert [each.header.parent for each in ledgers] == [None, ledgers[0].header.segment]
    assert [dict(each.header.trackers) for each in ledgers] == [{"mlflow": run_id}] * 2
    segments = [
        json.loads(data.tags[f"computemeter.segment.{each.header.segment}"])["model_flops"]
        for each in ledgers
    ]
    assert segments == [8 * FLOPS, 4 * FLOPS]


def test_the_run_that_autologging_opens_is_attached_to(mlflow):
    # Not `mlflow.tensorflow.autolog`: with Keras 3 it needs TensorBoard, meter or no meter.
    autolog = mlflow.keras.autolog
    autolog(log_models=False, log_datasets=False, silent=True)
    meter = quiet_meter(trackers="auto")
    try:
        history = fit(net(), meter, epochs=2).history
    finally:
        autolog(disable=True)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    assert column(mlflow, run.info.run_id, "compute/flops") == {0: 4 * FLOPS, 1: 8 * FLOPS}
    assert column(mlflow, run.info.run_id, "compute/loss") == dict(enumerate(history["loss"]))
    # Autologging's own values are there as ever, and history has none of ours.
    assert column(mlflow, run.info.run_id, "loss") == dict(enumerate(history["loss"]))
    assert set(history) == {"loss"}


def test_the_open_wandb_run_gets_a_summary(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    meter = quiet_meter(trackers="auto")
    run = wandb.init(project="test")
    try:
        history = fit(net(), meter, epochs=2).history
        summary = json.loads(json.dumps(dict(run.summary), default=dict))
    finally:
        run.finish()
        wandb.teardown()
    assert summary["compute/flops"] == 8 * FLOPS
    assert summary["compute/loss"] == history["loss"][-1]
    assert summary["computemeter"]["verdict"] == meter.summary().verdict
    (segment,) = summary["computemeter"]["segment"].values()
    assert json.loads(segment)["model_flops"] == 8 * FLOPS


def test_trackers_asked_for_are_the_only_ones(mlflow):
    tracker = Tracker()
    with mlflow.start_run() as run:
        fit(net(), quiet_meter(trackers=[tracker]))
        fit(net(), quiet_meter(trackers=None))
    assert [step for step, _ in tracker.rows] == [0]
    assert mlflow.get_run(run.info.run_id).data.metrics == {}
