"""`computemeter trend --publish`: one run for the page, which is no run on the next page."""

import json
import os
import socket
from pathlib import Path

import pytest
from ledgers import header, totals, write
from typer.testing import CliRunner

mlflow = pytest.importorskip("mlflow")
wandb = pytest.importorskip("wandb")

from mlflow_servers import running_server  # noqa: E402 - after the checks
from mlflow_ui import run_page  # noqa: E402
from wandb_server import Server, read_back  # noqa: E402

from computemeter.cli import app  # noqa: E402
from computemeter_mlflow._stored import TREND  # noqa: E402

DAY = 86_400.0
FILES = ["compute/trend.html", "compute/trend.png"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing is left in the checkout, nor in the user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def ledgers(tmp_path):
    """Two runs; the second of twice the compute."""
    folder = tmp_path / "compute_ledger"
    for at in (1, 2):
        head = header(
            f"seg-{at}", f"run-{at}", started=1_735_689_600.0 + at * DAY, name=f"net {at}"
        )
        write(folder, head, totals(run_flops=at * 10**15), status="finished")
    return folder


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An MLflow database with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}")
    return f"sqlite:///{path}"


def trend(*arguments):
    return CliRunner().invoke(app, ["trend", *map(str, arguments)], prog_name="computemeter")


def runs_of(*sources):
    """Return how many runs there are, and what is left out; a run without a meter is estimated."""
    said = trend(*sources, "--json", "--assume-device", "8xA100", "--no-cache")
    report = json.loads(said.stdout)
    return report["runs"], report["left_out"]


def published(client):
    """Return the runs of the experiment that holds the pages."""
    experiment = client.get_experiment_by_name("computemeter trend")
    return client.search_runs([experiment.experiment_id])


def paths(client, run):
    return [each.path for each in client.list_artifacts(run.info.run_id, "compute")]


def test_repeating_it_replaces_the_files_of_one_run(database, ledgers):
    client = mlflow.MlflowClient(database)
    said = trend(database, ledgers, "--publish", "--title", "Speech")
    assert said.exit_code == 0, said.output
    (run,) = published(client)
    assert f"published: run {run.info.run_id} in {database}" in said.stdout
    assert not list(Path().glob("trend.*"))
    assert (run.info.run_name, run.info.status) == ("Speech", "FINISHED")
    assert "too few" in run.data.tags["mlflow.note.content"].lower()
    assert paths(client, run) == FILES
    page = Path(run.info.artifact_uri, FILES[0])
    size = page.stat().st_size
    os.truncate(page, 0)
    assert trend(database, ledgers, "--publish", "--title", "Speech").exit_code == 0
    assert [each.info.run_id for each in published(client)] == [run.info.run_id]
    # But for the compressed bytes of another date.
    assert page.stat().st_size == pytest.approx(size, rel=0.01)
    # Another title is another page.
    assert trend(ledgers, "--publish", "--to", database, "--title", 'It\'s "b"').exit_code == 0
    assert {each.info.run_name for each in published(client)} == {"Speech", 'It\'s "b"'}


@pytest.mark.parametrize("directly", [True, False])
def test_the_page_is_no_run_on_the_next_page(database, ledgers, monkeypatch, directly):
    assert trend(ledgers, "--publish", "--to", database).exit_code == 0
    if not directly:
        monkeypatch.setattr("computemeter_mlflow._sql.known_versions", frozenset)
    assert runs_of(database, ledgers) == (2, {})
    # It would be there if it were not for its tag.
    monkeypatch.setattr("computemeter_mlflow._stored.TREND", "no such tag")
    assert runs_of(database, ledgers)[0] > 2


def test_an_experiment_that_was_deleted_is_said_so(database, ledgers):
    assert trend(ledgers, "--publish", "--to", database).exit_code == 0
    client = mlflow.MlflowClient(database)
    experiment = client.get_experiment_by_name("computemeter trend").experiment_id
    client.delete_experiment(experiment)
    said = trend(ledgers, "--publish", "--to", database)
    client.restore_experiment(experiment)
    assert said.exit_code == 1
    assert said.stderr == (
        f"computemeter: not published: {database}: its experiment 'computemeter trend' was "
        f"deleted; mlflow experiments restore -x {experiment} brings it back\n"
    )


def test_a_run_that_does_not_get_its_page_has_failed(database, ledgers, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("computemeter_mlflow._remote._ThroughClient.store_file", full)
    line = refused(ledgers, "--publish", "--to", database, "--title", "Refused")
    assert "No space left" in line
    client = mlflow.MlflowClient(database)
    (run,) = [each for each in published(client) if each.info.run_name == "Refused"]
    assert run.info.status == "FAILED"
    monkeypatch.undo()
    assert trend(ledgers, "--publish", "--to", database, "--title", "Refused").exit_code == 0
    assert client.get_run(run.info.run_id).info.status == "FINISHED"


def refused(*arguments):
    """Return the one line that it ends with."""
    said = trend(*arguments)
    assert said.exit_code == 1, said.output
    (line,) = said.stderr.splitlines()
    assert "s3cret" not in said.output
    return line.removeprefix("computemeter: ")


def test_bad_input_is_one_line(ledgers, tmp_path):
    assert refused(ledgers, "--publish").startswith("--publish: none of the sources is a tracker")
    wrong = refused(ledgers, "--publish", "--to", "ftp://ann:s3cret@host/x")
    assert wrong.startswith("--to ftp://***@host/x: accepted is a tracker's URI")
    assert refused(ledgers, "--publish", "--to", str(tmp_path)).startswith(f"--to {tmp_path}: acc")
    hidden = refused(ledgers, "--publish", "--to", "http://***@host")
    assert hidden.endswith("put your user name and password in place of ***")
    assert refused(ledgers, "--to", "http://host") == "--to http://host: is where to --publish"
    missing = refused(ledgers, "--publish", "--to", f"sqlite:///{tmp_path}/none.db")
    assert missing.endswith("none.db: there is no such database")
    assert not (tmp_path / "none.db").exists()
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        down = refused(ledgers, "--publish", "--to", f"http://ann:s3cret@{host}")
    assert down.startswith(f"not published: http://***@{host} does not answer")


def test_a_page_is_written_also_where_publishing_fails(ledgers, tmp_path):
    refused(ledgers, "-o", "trend.svg", "--publish", "--to", f"sqlite:///{tmp_path}/none.db")
    assert Path("trend.svg").exists()


class TestWandb:
    @pytest.fixture(autouse=True)
    def quiet(self, monkeypatch, tmp_path):
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        monkeypatch.setenv("WANDB_SILENT", "true")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield
        wandb.teardown()

    def test_offline_there_is_a_folder_to_send(self, ledgers, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "offline")
        said = trend(ledgers, "--publish", "--to", "wandb://ann/p", "--title", "Speech")
        assert said.exit_code == 0, said.output
        (folder,) = (tmp_path / "wandb").glob("offline-run-*")
        assert f"W&B is offline; to send it: wandb sync {folder}" in said.stderr
        assert f"published: {folder}/files" in said.stdout
        kept = {each.name for each in (folder / "files").iterdir() if each.is_file()}
        assert {"trend.html", "trend.png"} <= kept
        assert not any(each.is_symlink() for each in (folder / "files").iterdir())
        run = read_back(folder)
        assert (run.name, run.project, run.exit_code) == ("Speech", "p", 0)
        assert run.config["computemeter"]["trend"] in run.run_id
        assert runs_of(ledgers, folder) == (2, {})
        monkeypatch.setattr("computemeter_wandb._source.TREND", "no such entry")
        assert runs_of(ledgers, folder) != (2, {})

    def test_a_run_that_does_not_get_its_page_has_failed(self, ledgers, tmp_path, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setattr(wandb, "Image", lambda _path: 1 / 0)
        assert "division" in refused(ledgers, "--publish", "--to", "wandb://ann/p")
        (folder,) = (tmp_path / "wandb").glob("offline-run-*")
        assert read_back(folder).exit_code == 1

    def test_online_it_is_one_run_and_left_out_of_the_next_page(self, ledgers, monkeypatch):
        with Pages() as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            monkeypatch.setenv("WANDB_MODE", "online")
            for _ in range(2):
                said = trend(ledgers, "wandb://ann/p", "--publish")
                assert said.exit_code == 0, said.output
                assert f"published: {server.url}/ann/p/runs/computemeter-trend-" in said.stdout
            (run,) = server.runs.values()
            assert (run.display, run.state) == ("Compute per training run", "finished")
            assert sorted(server.sent) == ["trend.html", "trend.html", "trend.png", "trend.png"]
            run.created = "2024-12-31T00:00:00Z"  # it took an hour and more, for all that W&B knows
            assert runs_of(ledgers, "wandb://ann/p") == (2, {})
            monkeypatch.setattr("computemeter_wandb._source.TREND", "no such entry")
            assert runs_of(ledgers, "wandb://ann/p") == (3, {})

    def test_without_a_key_it_says_that_it_needs_one(self, ledgers, monkeypatch, tmp_path):
        with Pages() as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            monkeypatch.setenv("WANDB_MODE", "online")
            monkeypatch.setenv("NETRC", str(tmp_path / "none"))
            monkeypatch.delenv("WANDB_API_KEY")
            said = refused(ledgers, "--publish", "--to", "wandb://ann/p")
        assert said.startswith("not published: wandb://ann/p/computemeter-trend-")
        assert "wandb login" in said

    def test_a_server_that_is_down_is_one_line(self, ledgers, monkeypatch):
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setattr("computemeter_wandb._destination._SECONDS_TO_ANSWER", 2)
        down = refused(ledgers, "--publish", "--to", "wandb://ann/p")
        assert down.startswith("not published: wandb://ann/p/computemeter-trend-")


class Pages(Server):
    """A W&B server that also takes the configuration and the files of a run."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def answer(self, query, given):
        """Answer as it does, and say where files go."""
        if "createRunFiles" in query:
            names = [name for name in given["files"] if name.startswith("trend.")]
            self.sent += names
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in names]
            return {"createRunFiles": {"runID": "b1", "uploadHeaders": [], "files": files}}
        found = super().answer(query, given)
        if "upsertBucket" in query and given.get("config"):
            sent = json.loads(given["config"])
            self.runs[given["name"]].config = {key: each["value"] for key, each in sent.items()}
        return found


@pytest.mark.slow
def test_the_page_works_in_mlflows_own(ledgers, tmp_path):
    with running_server(tmp_path) as server:
        uri = server.uri.replace("://", "://ann:s3cret@")
        first, second = (trend(uri, ledgers, "--publish", *also) for also in ([], ["--json"]))
        assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
        assert "s3cret" not in first.output + second.output
        (run,) = published(server.client)
        assert paths(server.client, run) == FILES
        where = f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        assert first.stdout.endswith(f"published: {where}\n")
        assert json.loads(second.stdout)["published"] == where
        assert runs_of(server.uri, ledgers) == (2, {})
        assert run.data.tags[TREND].startswith("trend-")
        with run_page(server, run) as opened:
            page = opened.open_artifact(FILES[0])
            page.wait_for_selector("body[data-ready]", timeout=60_000)
            assert page.evaluate("document.getElementById('chart').data.length") > 0
            assert opened.asked - {None} == {"127.0.0.1"}
