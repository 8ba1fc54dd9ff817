"""A team's runs collected from MLflow: only what changed is read again, nothing is written."""

import json
import sqlite3
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ledgers import totals

mlflow = pytest.importorskip("mlflow")

from mlflow_servers import running_server  # noqa: E402 - after the check for mlflow

from computemeter import sources  # noqa: E402
from computemeter.sources import SourceError  # noqa: E402
from computemeter.trend import cache  # noqa: E402
from computemeter.trend.collect import collect  # noqa: E402
from computemeter.trend.estimated import ASSUMPTION, NO_DEVICE, NO_TIME  # noqa: E402
from computemeter_mlflow import _rest, _sql, _stored  # noqa: E402

LONG_AGO = 1_600_000_000_000
"""Milliseconds; a run that ended then has settled."""


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    """A cache folder for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(cache, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def made(monkeypatch):
    """The ids of the runs that records were made of, rather than recalled."""
    found = []
    make = _stored.Maker.make

    def note(self, stored):
        found.append(stored.run_id)
        return make(self, stored)

    monkeypatch.setattr(_stored.Maker, "make", note)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    mlflow.MlflowClient(uri)  # makes the tables, which takes seconds
    return uri


@pytest.fixture(params=["database", "server"])
def uri(request):
    """Each way to reach MLflow; the experiments of a test are its own, and go with it."""
    found = request.getfixturevalue(request.param)
    uri = found if request.param == "database" else found.uri
    yield uri
    client = mlflow.MlflowClient(uri)
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)
        if experiment.experiment_id != "0":
            client.delete_experiment(experiment.experiment_id)


def add(uri, *, ended=LONG_AGO, started=LONG_AGO - 3_600_000, experiment="0", **parts):
    """Make a run; `tags`, `params`, `metrics` and a `segment` are what it holds."""
    client = mlflow.MlflowClient(uri)
    tags = dict(parts.get("tags", {}))
    if "segment" in parts:
        name = f"s{started}-{time.time_ns()}"
        segment = json.dumps(totals(**parts["segment"]))
        tags |= {"computemeter.schema": "1", f"computemeter.segment.{name}": segment}
    run = client.create_run(experiment, start_time=started, tags=tags, run_name=parts.get("name"))
    run_id = run.info.run_id
    for key, value in parts.get("params", {}).items():
        client.log_param(run_id, key, value)
    for key, value in parts.get("metrics", {}).items():
        client.log_metric(run_id, key, value)
    if ended:
        client.set_terminated(run_id, "FINISHED", end_time=ended)
    return run_id


def ids(collection):
    return {each.run_id for each in collection.records}


def test_the_second_reading_makes_only_what_may_have_changed(uri, made):
    settled = add(uri, segment={})
    going_on = add(uri, segment={}, ended=None)
    recent = add(uri, segment={}, ended=round(1000 * time.time()))
    gone = add(uri, segment={})
    everything = {settled, going_on, recent, gone}
    first = collect([uri])
    assert ids(first) == set(made) == everything
    made.clear()
    mlflow.MlflowClient(uri).delete_run(gone)
    # Not with old dates: a server would tell of it a week later.
    new = add(uri, segment={"run_flops": 5}, ended=round(1000 * time.time()))
    second = collect([uri])
    assert ids(second) == {settled, going_on, recent, new}
    assert {going_on, recent, new} == set(made)
    # What is recalled is what was read.
    read = {each.run_id: each for each in first.records}
    assert [each for each in second.records if each.run_id == settled] == [read[settled]]
    made.clear()
    assert ids(collect([uri], cache=False)) == set(made) == {settled, going_on, recent, new}


def test_a_run_that_went_on_is_read_again(uri, made):
    run_id = add(uri, segment={})
    other = add(uri, segment={})
    collect([uri])
    client = mlflow.MlflowClient(uri)
    client.set_terminated(run_id, "RUNNING")
    client.set_tag(run_id, "computemeter.segment.z", json.dumps(totals(run_flops=9)))
    client.set_terminated(run_id, "FINISHED")
    made.clear()
    flops = {each.run_id: each.run_flops for each in collect([uri]).records}
    assert flops == {run_id: 9, other: 10**15}
    assert set(made) == {run_id}


def test_an_experiment_that_goes_takes_its_runs_and_one_renamed_is_read_again(uri):
    client = mlflow.MlflowClient(uri)
    away, stays = (client.create_experiment(f"{name} {time.time_ns()}") for name in ("a", "b"))
    add(uri, experiment=away, segment={})
    run_id = add(uri, experiment=stays, segment={})
    assert len(collect([uri]).records) == 2
    client.delete_experiment(away)
    client.rename_experiment(stays, f"new name {stays}")
    (record,) = collect([uri]).records
    assert (record.run_id, record.project) == (run_id, f"new name {stays}")


def test_since_is_asked_of_mlflow_and_a_later_reading_goes_back_further(uri, made):
    old = add(uri, segment={}, started=LONG_AGO - 9_000_000)
    new = add(uri, segment={}, started=LONG_AGO - 1_000_000)
    since = (LONG_AGO - 2_000_000) / 1000
    assert ids(collect([uri], since=since)) == set(made) == {new}
    assert ids(collect([uri])) == {old, new}
    assert ids(collect([uri], since=since)) == {new}


def test_runs_that_no_meter_watched_are_estimated_from_what_mlflow_knows(uri):
    gpus = {f"system/node-1/gpu_{n}_utilization_percentage": 50.0 for n in range(2)}
    hints = {"gpu_type": "NVIDIA A100-SXM4-80GB", "bf16": "False", "fp16": "True"}
    known = add(uri, params=hints, metrics={**gpus, "loss": 1.0}, tags={"sweep": "s1"})
    counted = add(uri, metrics=gpus)
    add(uri, metrics=gpus, ended=None)
    add(uri, params={"gpu_type": "a toaster"})
    found = collect([uri])
    (record,) = found.records
    # 2 devices x 312e12 FLOP/s (fp16) x 3600 s = 2.2464e18, and 33 % of it 7.41312e17.
    assert (record.run_id, record.estimated, record.run_flops) == (known, True, None)
    assert (record.gpu_time_flops, record.possible_flops) == (741_312 * 10**12, 22_464 * 10**14)
    assert (record.verdict, record.tags) == ("unknown", {"sweep": "s1"})
    assert {each.reason: each.count for each in found.skipped} == {NO_DEVICE: 3}
    assert found.notes == (ASSUMPTION,)
    assumed = collect([uri], assume_device="8xA100")
    devices = {each.run_id: each.device_count for each in assumed.records}
    assert Counter(devices.values()) == {2: 2, 8: 1}
    assert devices[counted] == 2
    assert {each.reason: each.count for each in assumed.skipped} == {NO_TIME: 1}
    # Recalled, the reasons are counted as before.
    again = collect([uri], assume_device="8xA100")
    assert (again.records, again.skipped) == (assumed.records, assumed.skipped)
    assert collect([uri], include_estimated=False).records == []
    assert sources.records([uri]) == []


def test_numbers_that_mlflow_keeps_as_marks_are_not_numbers(uri):
    for total in (float("nan"), float("inf"), -5.0):
        add(uri, metrics={"compute/flops": total}, tags={"computemeter.schema": "1"})
    found = collect([uri])
    assert found.records == []
    assert [each.count for each in found.skipped] == [3]


def test_the_tables_and_the_client_tell_the_same(database, monkeypatch):
    uri = database
    runs = [
        add(uri, segment={}, tags={"a": "b", "mlflow.user": "ann"}, name="<script>"),
        add(uri, metrics={"compute/flops": 5.0, "compute/ratio": 1.5}),
        add(uri, params={"gpu": "4 x Tesla T4"}, tags={"x": "é" * 900}),
    ]
    directly = collect([uri], cache=False)
    monkeypatch.setattr(_sql, "known_versions", frozenset)
    warnings = []
    through_client = collect([uri], cache=False, warn=warnings.append)
    assert ids(directly) == set(runs)
    key = {each.run_id: each for each in through_client.records}
    assert {each.run_id: each for each in directly.records} == key
    assert len(warnings) == 1
    assert "not known here, so that it is read through MLflow's client" in warnings[0]
    client = mlflow.MlflowClient(uri)
    for run_id in runs:
        client.delete_run(run_id)


def test_the_versions_that_are_known_are_mlflows(database):
    with sqlite3.connect(database.removeprefix("sqlite:///")) as tables:
        ((current,),) = tables.execute("select version_num from alembic_version")
    tables.close()
    assert current in _sql.known_versions()
    assert len(_sql.known_versions()) > 50


def test_a_database_is_left_as_it_is(database):
    path = Path(database.removeprefix("sqlite:///"))
    add(database, segment={})
    before = path.read_bytes()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        collect([database])
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)
    assert path.read_bytes() == before
    with _sql._reading(database) as connection, pytest.raises(Exception, match="readonly"):
        connection.exec_driver_sql("delete from runs")


@pytest.fixture
def breaking():
    """Start a server that answers so many pages of one run each, and then differently."""
    servers = []

    def start(pages, status):
        class Handler(BaseHTTPRequestHandler):
            asked = 0

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                body = {"experiments": [{"experiment_id": "0", "name": "Default"}]}
                if "runs/search" in self.path:
                    type(self).asked += 1
                    body = page(self.asked)
                broken = self.asked > pages
                self.send_response(status if broken else 200)
                self.end_headers()
                self.wfile.write(b"oh no" if broken else json.dumps(body).encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://ann:s3cret@127.0.0.1:{server.server_port}", Handler

    def page(number):
        segment = {"key": f"computemeter.segment.s{number}", "value": json.dumps(totals())}
        tags = [{"key": "computemeter.schema", "value": "1"}, segment]
        times = {"start_time": LONG_AGO, "end_time": LONG_AGO}
        info = {"run_id": f"r{number}", "experiment_id": "0", "status": "FINISHED", **times}
        return {"runs": [{"info": info, "data": {"tags": tags}}], "next_page_token": "more"}

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "why", "asked"), [(500, "answered 500", 3 + 3), (401, "needs a login", 3 + 1)]
)
def test_of_a_server_that_stops_half_way_there_is_what_came_until_then(
    breaking, monkeypatch, status, why, asked
):
    monkeypatch.setattr(_rest, "_WAITS", (0.0, 0.0))
    uri, handler = breaking(3, status)
    found = collect([uri])
    assert ids(found) == {"r1", "r2", "r3"}
    assert handler.asked == asked  # three times where that may help, and never for minutes
    (skipped,) = found.skipped
    assert skipped.reason.startswith("source that stopped: http://")  # it is counted as no run
    assert why in skipped.reason
    assert "what it had not told until then is missing" in skipped.reason
    assert "s3cret" not in skipped.reason
    # It was no whole reading, so that nothing is left out next time for having been read.
    handler.asked = 0
    assert ids(collect([uri])) == {"r1", "r2", "r3"}
    nothing, _ = breaking(0, status)
    with pytest.raises(SourceError, match=why):
        collect([nothing])
