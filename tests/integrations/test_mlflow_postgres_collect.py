"""A team's runs collected from MLflow's tables on PostgreSQL: as from SQLite, and read-only."""

import json
import math
from dataclasses import fields
from urllib.parse import quote

import pytest
from ledgers import totals
from typer.testing import CliRunner

mlflow = pytest.importorskip("mlflow")
psycopg = pytest.importorskip("psycopg")

from postgres import PASSWORD, running_postgres, why_none  # noqa: E402 - after the checks
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from computemeter.cli import app  # noqa: E402
from computemeter.records import RunRecord  # noqa: E402
from computemeter.trend.collect import collect  # noqa: E402
from computemeter_mlflow import _sql, _stored  # noqa: E402

pytestmark = [
    pytest.mark.slow,  # a database, and its tables
    pytest.mark.skipif(why_none() is not None, reason=str(why_none())),
]

LONG_AGO = 1_600_000_000_000
"""Milliseconds; a run that ended then has settled."""

HOUR = 3_600_000
READER, READ = "reader", "hush: re/ad@er"
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), READ, quote(READ, safe=""), "hush")


def metered(segment, **more):
    """The tags of a run of one segment."""
    return {
        "computemeter.schema": "1",
        "computemeter.device": "8 x NVIDIA H100 80GB HBM3",
        f"computemeter.segment.{segment}": json.dumps(totals(run_flops=10**25 + 1)),
        **more,
    }


RUNS = {
    "metered": {"tags": metered("s1", **{"mlflow.user": "ann", "sweep": "s1"})},
    "<script> é 日本語 🦆 '\"%": {"tags": metered("s2", **{"é%": "50 % 🦆" * 40})},
    "without tags": {"metrics": {"compute/flops": 5.0, "compute/ratio": 1.5, "loss": math.inf}},
    "not a number": {"metrics": {"compute/flops": math.nan}, "tags": {"computemeter.schema": "1"}},
    "goes on": {"tags": metered("s3"), "ended": None},
    "unmetered": {
        "params": {"gpu_type": "NVIDIA A100-SXM4-80GB", "bf16": "True"},
        "metrics": {f"system/gpu_{n}_utilization_percentage": 50.0 for n in range(2)},
    },
    "of no device": {"params": {"lr": "0.1"}},
    "page": {"tags": {_stored.TREND: "trend-1"}},
    "deleted": {"tags": metered("s4")},
    "late": {"tags": metered("s5"), "started": LONG_AGO + HOUR, "ended": LONG_AGO + 2 * HOUR},
}


def fill(uri, folder):
    """Make the runs; returns MLflow's client."""
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("speech", artifact_location=str(folder))
    for name, parts in RUNS.items():
        started, ended = parts.get("started", LONG_AGO - HOUR), parts.get("ended", LONG_AGO)
        run = client.create_run(experiment, started, parts.get("tags"), run_name=name)
        for key, value in parts.get("params", {}).items():
            client.log_param(run.info.run_id, key, value)
        for key, value in parts.get("metrics", {}).items():
            client.log_metric(run.info.run_id, key, value)
        if ended:
            client.set_terminated(run.info.run_id, end_time=ended)
        if name == "deleted":
            client.delete_run(run.info.run_id)
    return client


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with running_postgres() as running:
        fill(running.uri, tmp_path_factory.mktemp("artifacts"))
        with psycopg.connect(running.uri) as owner:
            owner.execute(f"CREATE ROLE {READER} LOGIN PASSWORD '{READ}'")
            owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}")
        yield running


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sqlite")
    uri = f"sqlite:///{folder}/mlflow.db"
    fill(uri, folder)
    return uri


@pytest.fixture
def reader(database):
    """The URI of one who may read and nothing else."""
    host = database.uri.rpartition("@")[2]
    return f"postgresql://{READER}:{quote(READ, safe='')}@{host}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def facts(collection):
    """What is told of each run but for its id and its place, by name."""
    told = [field.name for field in fields(RunRecord)]
    told = [name for name in told if name not in {"run_id", "source", "url"}]
    return {
        each.name: [getattr(each, "parts", ()), *(getattr(each, name) for name in told)]
        for each in collection.records
    }


def read(uri, **options):
    """Collect, without a word of what was left out."""
    warnings = []
    found = collect([uri], warn=warnings.append, **options)
    assert warnings == []  # it is read directly, not through MLflow's client
    return found


@pytest.mark.parametrize("who", ["owner", "reader"])
def test_the_records_are_those_of_sqlite(database, reader, on_sqlite, who):
    uri = {"owner": database.uri, "reader": reader}[who]
    for options in ({}, {"assume_device": "8xA100"}, {"include_estimated": False}):
        here, there = (read(each, cache=False, **options) for each in (uri, on_sqlite))
        assert facts(here) == facts(there)
        assert here.skipped == there.skipped
        assert here.notes == there.notes
    known = {each.name: each for each in read(uri, cache=False).records}
    left_out = {"not a number", "of no device", "page", "deleted"}
    assert set(known) == RUNS.keys() - left_out
    assert known["metered"].run_flops == 10**25 + 1
    # 2 devices x 312e12 FLOP/s (bf16) x 3600 s
    assert known["unmetered"].possible_flops == 22_464 * 10**14
    assert known["goes on"].status == "running"


def test_since_is_asked_of_the_database(database):
    found = read(database.uri, cache=False, since=LONG_AGO / 1000, include_estimated=False)
    assert set(facts(found)) == {"late"}


def test_what_has_settled_is_not_read_again(database, monkeypatch):
    first = read(database.uri)
    made, make = [], _stored.Maker.make

    def note(self, stored):
        made.append(stored.name)
        return make(self, stored)

    monkeypatch.setattr(_stored.Maker, "make", note)
    assert facts(read(database.uri)) == facts(first)
    # What goes on, and the page, which is no run to remember.
    assert set(made) == {"goes on", "page"}


def test_more_runs_than_one_question_asks_for(database, monkeypatch):
    whole = facts(read(database.uri, cache=False))
    monkeypatch.setattr(_sql, "_RUNS_AT_ONCE", 3)
    assert facts(read(database.uri, cache=False)) == whole


def test_nothing_can_be_written(database):
    with (
        _sql._reading(database.uri) as connection,
        pytest.raises(SQLAlchemyError, match="read-only transaction"),
    ):
        connection.exec_driver_sql("DELETE FROM runs")
    with psycopg.connect(database.uri) as owner:
        (left,) = owner.execute("SELECT count(*) FROM runs").fetchone()
    assert left == len(RUNS)


def test_the_password_is_printed_nowhere(database, reader, tmp_path):
    wrong = reader.replace(quote(READ, safe=""), "hush")
    gone = database.uri.replace("/postgres", "/no_such_database")
    outputs = []
    for uri, ends in ((database.uri, 0), (reader, 0), (wrong, 1), (gone, 1)):
        for command in (["runs", uri], ["trend", uri, "-o", "trend.html", "--csv", "runs.csv"]):
            said = CliRunner().invoke(app, command, prog_name="computemeter")
            assert said.exit_code == ends, said.output
            assert "://***@127.0.0.1" in said.output or ends == 0
            outputs.append(said.output)
    outputs += [
        path.read_text(errors="replace") for path in tmp_path.rglob("*.*") if path.is_file()
    ]
    assert not [secret for secret in SECRETS for output in outputs if secret in output]
