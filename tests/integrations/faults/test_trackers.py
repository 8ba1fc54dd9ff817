"""A fault in the clients that real trackers call; the Recorder of the other tests is any sink."""

import importlib
from importlib.metadata import EntryPoint

import pytest
from faults import FAULT, Fault


@pytest.fixture(scope="module")
def mlflow_run(tmp_path_factory):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("faults"))
    return client.tracking_uri, run.info.run_id


@pytest.mark.parametrize("broken", ["client", "open_run", "Delivery", "_active_run"])
def test_a_fault_of_mlflow(broken, mlflow_run, trains_the_same, monkeypatch):
    mlflow_sink = importlib.import_module("computemeter_mlflow")
    uri, run_id = mlflow_run

    def attach(context):
        mlflow_sink._active_run()
        return mlflow_sink.MLflowSink(tracking_uri=uri, run_id=run_id, warn=context.warn)

    fault = Fault()
    if broken == "client":
        fault.at(monkeypatch, importlib.import_module("mlflow").MlflowClient, "log_batch")
    else:
        fault.at(monkeypatch, mlflow_sink, broken)
    point = EntryPoint("mlflow", "computemeter_mlflow:attach", "computemeter.sinks")
    monkeypatch.setattr("computemeter.sinks._installed", lambda: {"mlflow": point})
    monkeypatch.setattr(mlflow_sink, "attach", attach)
    told = trains_the_same("mlflow", with_a_trainer=broken == "client")
    assert fault.calls
    assert [text for text in told if FAULT in text] != []


@pytest.fixture(scope="module")
def wandb_run(tmp_path_factory):
    wandb = pytest.importorskip("wandb")
    folder = str(tmp_path_factory.mktemp("wandb"))
    settings = wandb.Settings(silent=True, mode="offline")
    run = wandb.init(project="faults", dir=folder, settings=settings)
    yield run
    # `teardown` alone leaves the run in `wandb.run`, for every test after these.
    run.finish()
    wandb.teardown()


class Proxy:
    """A run of which some attributes fail."""

    def __init__(self, run, fault, broken):
        self._run, self._fault, self._broken = run, fault, broken

    def __getattr__(self, name):
        return self._fault if name in self._broken else getattr(self._run, name)


CALLS = ["log", "define_metric", "status", "alert"]


@pytest.mark.parametrize("broken", [*([name] for name in CALLS), ["summary"], CALLS], ids=str)
def test_a_fault_of_wandb(broken, wandb_run, trains_the_same):
    sinks = importlib.import_module("computemeter_wandb")
    fault, told = Fault(), []
    proxy = Proxy(wandb_run, fault, broken)
    sink = sinks.WandbSink(proxy, rows=True, warn=told.append)
    told += trains_the_same(sink, by_hand=False)
    if broken == ["summary"]:  # it has no method `update`
        assert [text for text in told if "'Fault' object" in text] != []
    else:
        assert fault.calls
        assert [text for text in told if FAULT in text] != []
