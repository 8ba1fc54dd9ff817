"""MLflow on PostgreSQL, written to directly and through a server; its password is shown nowhere."""

import json
import time
from urllib.parse import quote

import pytest

pytest.importorskip("mlflow")
pytest.importorskip("psycopg")

from metered_fit import only_ledger
from mlflow.tracking import MlflowClient
from mlflow_servers import (
    PATIENCE,
    assert_all_there_once,
    push,
    running_server,
    stored,
    training,
    until_first_point,
    warnings_in,
)
from postgres import PASSWORD, running_postgres, why_none
from small_runs import BATCH, FLOPS_PER_EXAMPLE

from computemeter_mlflow import MLflowSink

pytestmark = pytest.mark.skipif(why_none() is not None, reason=str(why_none()))

STEPS = 40
FLOPS = STEPS * BATCH * FLOPS_PER_EXAMPLE
SOON = 30.0
# The password as it is, as it is written in a URI, and what any part of it would begin with.
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), "hush")


@pytest.fixture(scope="module")
def database():
    with running_postgres() as running:
        yield running


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("server"), backend=database.uri) as running:
        yield running


def new_run(client, folder):
    """Make a run in an experiment of its own, whose files stay in the folder."""
    experiment = client.create_experiment(folder.name, artifact_location=f"{folder}/artifacts")
    return client.create_run(experiment).info.run_id


def train(tracking_uri, run_id, folder):
    """Train in a process of its own; return all it printed."""
    with training(tracking_uri, run_id, folder, steps=STEPS) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


def assert_whole(client, run_id, ledger):
    """Hold that every point is there once, and that the totals are right."""
    assert_all_there_once(client, run_id, ledger)
    data = client.get_run(run_id).data
    assert data.metrics["compute/flops"] == FLOPS
    totals = json.loads(data.tags[f"computemeter.segment.{ledger.header.segment}"])
    assert (totals["steps"], totals["model_flops"]) == (STEPS, FLOPS)


def assert_kept_secret(folder, *texts):
    """Search all files below a folder, and texts, for the password."""
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in SECRETS), path
    for text in texts:
        assert not any(secret in text for secret in SECRETS), text


@pytest.mark.slow
def test_a_run_straight_into_the_database(database, tmp_path):
    client = MlflowClient(database.uri)
    run_id = new_run(client, tmp_path)
    output = train(database.uri, run_id, tmp_path / "run")
    assert_whole(client, run_id, only_ledger(tmp_path / "run"))
    (path,) = (tmp_path / "run").glob("*.jsonl")
    pushed = push(path, database.uri)
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    assert_whole(client, run_id, only_ledger(tmp_path / "run"))
    tags = json.dumps(client.get_run(run_id).data.tags)
    assert_kept_secret(tmp_path, output, pushed.stdout, pushed.stderr, tags)


@pytest.mark.slow
def test_a_run_through_a_server(server, tmp_path):
    run_id = new_run(server.client, tmp_path)
    output = train(server.uri, run_id, tmp_path / "run")
    assert_whole(server.client, run_id, only_ledger(tmp_path / "run"))
    tags = json.dumps(server.client.get_run(run_id).data.tags)
    assert_kept_secret(tmp_path, output, tags)


@pytest.mark.slow
def test_a_database_that_is_away_for_a_while(database, tmp_path):
    client = MlflowClient(database.uri)
    run_id = new_run(client, tmp_path)
    folder = tmp_path / "run"
    with training(database.uri, run_id, folder) as process:
        until_first_point(client, run_id, process)
        database.stop()
        time.sleep(2)
        database.start()
        (folder / "enough").touch()
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert_all_there_once(client, run_id, only_ledger(folder))
    assert_kept_secret(tmp_path, output)


@pytest.mark.slow
def test_a_database_that_is_not_there_is_named_without_its_password(database, tmp_path):
    run_id = new_run(MlflowClient(database.uri), tmp_path)
    gone = database.uri.replace("/postgres", "/no_such_database")
    output = train(gone, run_id, tmp_path / "run")
    (line,) = [line for line in warnings_in(output) if "computemeter push" in line]
    assert "--to 'postgresql://***@127.0.0.1" in line
    (path,) = (tmp_path / "run").glob("*.jsonl")
    refused = push(path, gone)
    assert refused.returncode != 0
    assert_kept_secret(tmp_path, output, refused.stdout, refused.stderr)
    pushed = push(path, database.uri)
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    assert_whole(MlflowClient(database.uri), run_id, only_ledger(tmp_path / "run"))


@pytest.mark.parametrize("text", ["a\x00b", "caf\udce9", "é" * 9000, "日本語 🦆"])
def test_a_tag_the_database_would_reject_takes_no_value_with_it(database, tmp_path, text):
    client = MlflowClient(database.uri)
    run_id = new_run(client, tmp_path)
    sink = MLflowSink(tracking_uri=database.uri, run_id=run_id)
    sink.tag({"diagnosis": text, "verdict": "agree"})
    sink.log({"compute/flops": 1.0}, step=1, time=1_700_000_000.0)
    assert sink.close(SOON) == 0
    assert stored(client, run_id, ["compute/flops"]) == {
        "compute/flops": [(1, 1_700_000_000_000, 1.0)]
    }
    assert client.get_run(run_id).data.tags["computemeter.verdict"] == "agree"
