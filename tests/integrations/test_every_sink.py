"""What every sink of this distribution keeps to, whatever its tracker; a new one is named in RUNS.

Each is attached to a real run of its tracker, on this machine and without a server.
"""

import math
import sys
from contextlib import contextmanager
from importlib.metadata import distribution

import pytest

from computemeter import Meter
from computemeter.sinks import ENTRY_POINT_GROUP, RunContext, Sink

SOON = 30.0
TIME = 1_700_000_000.0
POINTS = {
    point.name: point
    for point in distribution("computemeter").entry_points
    if point.group == ENTRY_POINT_GROUP
}


@contextmanager
def mlflow_run(folder):
    """Open a run in a database, and return what reads the newest values and facts of it."""
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    try:
        with mlflow.start_run() as run:
            yield lambda: _of_mlflow(mlflow.get_run(run.info.run_id).data)
    finally:
        mlflow.set_tracking_uri(before)


def _of_mlflow(data):
    facts = {key.removeprefix("computemeter."): text for key, text in data.tags.items()}
    return data.metrics, facts


@contextmanager
def wandb_run(folder):
    """Open an offline run, and return what reads its summary."""
    wandb = pytest.importorskip("wandb")
    run = wandb.init(
        project="test", dir=folder, settings=wandb.Settings(silent=True, mode="offline")
    )
    try:
        yield lambda: (run.summary, dict(run.summary["computemeter"]))
    finally:
        run.finish()
        wandb.teardown()


RUNS = {"mlflow": mlflow_run, "wandb": wandb_run}
"""By name of the sink: opens a run that it finds by itself."""


def test_every_sink_is_tested_here():
    assert RUNS.keys() == POINTS.keys()


@pytest.fixture(params=RUNS)
def name(request):
    return request.param


@pytest.fixture
def attach(name):
    return POINTS[name].load()


@pytest.fixture
def stored(name, tmp_path, monkeypatch):
    """What a run that is open has, as `stored()` -> values and facts."""
    monkeypatch.chdir(tmp_path)  # where trackers put what they are given no place for
    with RUNS[name](tmp_path) as stored:
        yield stored


@pytest.fixture
def told():
    return []


@pytest.fixture
def sink(attach, stored, told):
    sink = attach(RunContext(warn=told.append))
    yield sink
    sink.close(SOON)


def test_it_is_a_sink_that_names_its_tracker_and_its_run(sink, name):
    assert isinstance(sink, Sink)
    assert sink.name == name
    assert isinstance(sink.run_id, str)
    assert sink.run_id


def test_without_a_run_there_is_none_and_nobody_is_told(attach, told):
    assert attach(RunContext(loggers=(object(),), warn=told.append)) is None
    assert told == []


def test_a_tracker_that_is_not_imported_stays_so(attach, name, monkeypatch):
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert attach(RunContext()) is None
    assert name not in sys.modules


def test_values_and_facts_arrive(sink, stored, told):
    sink.log({"compute/pfs_days": 0.25}, step=1, time=TIME)
    sink.log({"compute/pfs_days": 0.5}, step=2, time=TIME + 1)
    sink.tag({"verdict": "warn"})
    sink.tag({"verdict": "agree"})  # the newest of a key is the one that counts
    assert sink.close(SOON) == 0
    values, facts = stored()
    assert (values["compute/pfs_days"], facts["verdict"]) == (0.5, "agree")
    assert told == []


def test_what_is_no_finite_number_is_left_out_and_costs_nothing_else(sink, stored, told):
    odd = {"compute/mfu": math.nan, "compute/loss": math.inf, "compute/ratio": 10**400}
    sink.log({**odd, "compute/pfs_days": 0.5}, step=1, time=TIME)
    assert sink.close(SOON) == 0
    values, _ = stored()
    assert values["compute/pfs_days"] == 0.5
    assert odd.keys() & values.keys() == set()
    assert told == []


def test_it_serves_the_next_fit_after_it_was_closed(sink, stored):
    sink.log({"compute/pfs_days": 0.25}, step=1, time=TIME)
    assert [sink.close(SOON), sink.close(SOON)] == [0, 0]
    sink.log({"compute/pfs_days": 0.5}, step=2, time=TIME)
    assert sink.close(SOON) == 0
    assert stored()[0]["compute/pfs_days"] == 0.5


def test_closing_without_time_returns_and_delivers_later(sink, stored):
    sink.log({"compute/pfs_days": 0.5}, step=1, time=TIME)
    assert sink.close(0.0) in {0, 1}  # whoever was quicker
    assert sink.close(SOON) == 0
    assert stored()[0]["compute/pfs_days"] == 0.5


@pytest.mark.usefixtures("stored")
def test_a_meter_finds_it_by_itself_and_by_its_name(name):
    for trackers in ("auto", [name]):
        with Meter(trackers=trackers, ledger=None, verbose=0) as meter:
            meter.add_flops(10**15)
        assert meter.state_dict()["trackers"].keys() == {name}
        assert meter.summary().warnings == ()


def test_a_meters_values_are_in_the_run(stored):
    with Meter(ledger=None, verbose=0) as meter:
        meter.add_flops(10**15)
    values, facts = stored()
    assert values["compute/flops"] == 10**15
    assert {"run", "device", "verdict", "diagnosis"} <= facts.keys()
