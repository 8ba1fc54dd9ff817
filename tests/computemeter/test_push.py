"""`computemeter push`: what a tracker lacks arrives, and what it has is not stored twice."""

import json
import math
import socket
from pathlib import Path

import pytest
from ledgers import header, totals
from typer.testing import CliRunner

mlflow = pytest.importorskip("mlflow")

from computemeter import Meter  # noqa: E402 - after the check for mlflow
from computemeter.cli import app  # noqa: E402
from computemeter.commands import CommandError  # noqa: E402
from computemeter.commands import push as module  # noqa: E402
from computemeter.ledger import read_ledger  # noqa: E402
from computemeter.ledger_writer import LedgerWriter  # noqa: E402
from computemeter.sources import records  # noqa: E402
from computemeter_mlflow import MLflowSink  # noqa: E402

TIME = 1_700_000_000.123
SEGMENT = "20260101T000000000000Z-0a"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A store of its own; its tables take seconds to make, so the module shares it."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    return uri, mlflow.MlflowClient(uri)


@pytest.fixture
def uri(made_once):
    return made_once[0]


@pytest.fixture
def client(made_once, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield made_once[1]
    for run in made_once[1].search_runs(["0"]):
        made_once[1].delete_run(run.info.run_id)


def push(*arguments):
    return CliRunner().invoke(app, ["push", *map(str, arguments)], prog_name="computemeter")


def write(folder, head, steps, status="finished", verdict="warn"):
    """A ledger with a loss of 1/step at each step, and none at the third."""
    with LedgerWriter.open(folder, head) as writer:
        for step in steps:
            loss = math.nan if step == 3 else 1 / step
            values = {"compute/pfs_days": step / 64, "compute/loss": loss}
            writer.progress(step, TIME + step, totals(steps=step), values)
        writer.event("verdict", TIME, verdict=verdict, cause="low_utilization", diagnosis="slow")
        if status:
            writer.end(status, TIME + 100, {})
    return writer.path


def history(client, run_id, key):
    points = client.get_metric_history(run_id, key)
    return sorted((each.step, each.timestamp, each.value) for each in points)


def in_ledger(path, key):
    return sorted(
        (each.step, round(each.time * 1000), each.metrics[key])
        for each in read_ledger(path).progress
        if each.metrics.get(key) is not None
    )


def test_a_ledger_that_never_had_a_tracker_makes_one_run(uri, client, tmp_path):
    head = header(SEGMENT, run=SEGMENT, name="digits", user="ann", started=TIME)
    path = write(tmp_path, head, range(1, 6))
    for _ in range(2):
        result = push(path, "--to", uri)
        assert result.exit_code == 0, result.output
        assert "digits: 5 of 5 logging steps in run" in result.output
        (run,) = client.search_runs(["0"])
        run_id = run.info.run_id
        # Milliseconds: 1_700_000_000.123 * 1000, and a second for each step.
        assert history(client, run_id, "compute/pfs_days") == [
            (step, 1_700_000_000_123 + 1000 * step, step / 64) for step in range(1, 6)
        ]
        assert [step for step, _, _ in history(client, run_id, "compute/loss")] == [1, 2, 4, 5]
    assert (run.info.run_name, run.data.tags["mlflow.user"]) == ("digits", "ann")
    assert (run.info.status, run.info.start_time) == ("FINISHED", 1_700_000_000_123)
    assert run.info.end_time == 1_700_000_100_123
    assert run.data.tags["computemeter.run"] == SEGMENT
    assert run.data.tags["computemeter.verdict"] == "warn"
    assert run.data.tags["computemeter.diagnosis"] == "slow"
    # In the tracker and in the ledger it is one run, with its 10**15 FLOP once.
    (record,) = records([path, uri])
    assert (record.spent_flops, record.steps) == (10**15, 5)


def test_a_push_sends_what_a_sink_that_was_cut_off_did_not(uri, client, tmp_path):
    run_id = client.create_run("0", run_name="mine").info.run_id
    head = header(SEGMENT, run=run_id, trackers={"mlflow": run_id})
    path = write(tmp_path, head, range(1, 8))
    sink = MLflowSink(tracking_uri=uri, run_id=run_id)
    for each in read_ledger(path).progress[:3]:
        known = {key: value for key, value in each.metrics.items() if value is not None}
        sink.log(known, step=each.step, time=each.time)
    assert sink.close(30.0) == 0
    for _ in range(2):
        assert push(path, "--to", uri).exit_code == 0
        for key in ("compute/pfs_days", "compute/loss"):
            assert history(client, run_id, key) == in_ledger(path, key)
    (run,) = client.search_runs(["0"])
    # The run is the user's, who says how it ended.
    assert (run.info.status, run.info.run_name) == ("RUNNING", "mine")


class CutOff(MLflowSink):
    """A sink that loses its tracker half-way, and says so when it closes."""

    lost = 0

    def log(self, metrics, *, step, time):
        if step > 6:
            self.lost += 1
        else:
            super().log(metrics, step=step, time=time)

    def close(self, timeout=5.0):
        return super().close(timeout) + self.lost


def test_a_real_run_whose_tracker_was_lost_half_way_is_all_there_afterwards(uri, client, tmp_path):
    import torch

    run_id = client.create_run("0").info.run_id
    net, batch = torch.nn.Linear(4, 2), torch.ones(3, 4)
    sink = CutOff(tracking_uri=uri, run_id=run_id)
    with Meter(log_every=2, ledger=tmp_path, trackers=[sink], verbose=0) as meter:
        for _ in range(12):
            with meter.step(batch):
                net(batch).sum().backward()
    (path,) = tmp_path.glob("*.jsonl")
    keys = {key for each in read_ledger(path).progress for key in each.metrics}
    assert {step for step, _, _ in history(client, run_id, "compute/pfs_days")} <= {2, 4, 6}
    for _ in range(2):
        assert push(tmp_path, "--to", uri).exit_code == 0
        for key in keys:
            assert history(client, run_id, key) == in_ledger(path, key)
    assert len(in_ledger(path, "compute/pfs_days")) >= 6
    (in_tracker,), (in_file,) = records([uri]), records([path])
    assert in_tracker.spent_flops == in_file.spent_flops == meter.summary().spent_flops


def test_segments_go_to_the_run_of_the_one_that_had_a_tracker(uri, client, tmp_path):
    run_id = client.create_run("0").info.run_id
    write(tmp_path, header("2026-a", run="first"), [1, 2], status=None)
    second = header("2026-b", run="first", started=2000.0, trackers={"mlflow": run_id})
    write(tmp_path, second, [2, 4])
    result = push(tmp_path, "--to", uri)
    assert f"4 of 4 logging steps in run {run_id}" in result.output
    (run,) = client.search_runs(["0"])
    assert {key for key in run.data.tags if "segment" in key} == {
        "computemeter.segment.2026-a",
        "computemeter.segment.2026-b",
    }


def test_a_push_of_one_segment_says_of_the_run_what_all_segments_say(uri, client, tmp_path):
    run_id = client.create_run("0").info.run_id
    trackers = {"mlflow": run_id}
    first = write(tmp_path, header("2026-a", run="r", started=1000.0), [1, 2], None, "alarm")
    write(tmp_path, header("2026-b", run="r", started=2000.0, trackers=trackers), [4, 5])
    write(tmp_path, header("2026-c", run="another"), [7])
    (tmp_path / "broken.jsonl").write_text("hello\n")
    result = push(first, "--to", uri)
    assert result.exit_code == 0, result.output
    # Found by the other segment's tracker, and only the rows that were asked for.
    assert f"2 of 2 logging steps in run {run_id}" in result.output
    assert [step for step, _, _ in history(client, run_id, "compute/pfs_days")] == [1, 2]
    tags = client.get_run(run_id).data.tags
    assert tags["computemeter.verdict"] == "warn"
    assert {key.rpartition(".")[2] for key in tags if "segment" in key} == {"2026-a", "2026-b"}
    figure = client.download_artifacts(run_id, "compute/loss_against_compute.html")
    assert "by step 5" in Path(figure).read_text()


def test_the_end_of_a_run_that_the_push_made_is_its_last_segments(uri, client, tmp_path):
    first = write(tmp_path, header("2026-a", run="r"), [1], status="failed")
    write(tmp_path, header("2026-b", run="r", started=2000.0), [2])
    assert push(first, "--to", uri).exit_code == 0
    assert client.search_runs(["0"])[0].info.status == "FINISHED"


def test_a_segment_that_goes_on_meanwhile_is_not_set_back(tmp_path, monkeypatch):
    path = write(tmp_path, header(SEGMENT), [1, 2], status=None)

    class GoesOn(Deaf):
        def log(self, metrics, *, step, time):
            super().log(metrics, step=step, time=time)
            with path.open("a") as ledger:
                line = {"kind": "progress", "step": 3, "time": TIME, "metrics": {}}
                ledger.write(json.dumps({**line, "totals": totals(steps=3)}) + "\n")

    sink = GoesOn(takes=2)
    monkeypatch.setattr(module, "ask_tracker", lambda *_, **__: sink)
    module.push([str(path)], to="http://h", run_id=None, timeout=1, say=str, warn=str)
    assert json.loads(sink.tags[f"segment.{SEGMENT}"])["steps"] == 3


def test_records_between_logging_steps_are_no_rows(tmp_path, monkeypatch):
    with LedgerWriter.open(tmp_path, header()) as writer:
        for step in (1, 2, 3):
            writer.progress(step, TIME + step, totals(steps=step), {"a": 1.0} if step == 2 else {})
    sink = Deaf(takes=1)
    monkeypatch.setattr(module, "ask_tracker", lambda *_, **__: sink)
    said = []
    told = module.push(
        [str(tmp_path)], to="http://h", run_id=None, timeout=1, say=said.append, warn=str
    )
    assert (sink.logged, told) == (1, "1 logging step of 1 run delivered")
    assert "1 of 1 logging step in run 1" in said[0]


def test_it_may_wait_for_ever(uri, client, tmp_path):
    path = write(tmp_path, header(), [1])
    for timeout in ("inf", "1e300"):
        result = push(path, "--to", uri, "--timeout", timeout)
        assert result.exit_code == 0, result.output


def test_the_run_may_be_given(uri, client, tmp_path):
    run_id = client.create_run("0").info.run_id
    path = write(tmp_path, header(), [1])
    assert push(path, "--to", uri, "--run-id", run_id).exit_code == 0
    assert len(history(client, run_id, "compute/loss")) == 1
    result = push(path, "--to", uri, "--run-id", "0" * 32)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "has no run 000" in result.stderr


def test_a_run_that_was_deleted_does_not_keep_the_ledger_from_the_tracker(uri, client, tmp_path):
    run_id = client.create_run("0").info.run_id
    client.delete_run(run_id)
    path = write(tmp_path, header(run=run_id, trackers={"mlflow": run_id}), [1])
    for _ in range(2):
        result = push(path, "--to", uri)
        assert (result.exit_code, f"has no run {run_id}" in result.stderr) == (0, True)
    (run,) = client.search_runs(["0"])
    assert run.data.tags["computemeter.run"] == run_id


def test_a_killed_run_is_left_running_and_its_end_is_set_later(uri, client, tmp_path):
    path = write(tmp_path, header(), [1], status=None)
    assert push(path, "--to", uri).exit_code == 0
    assert client.search_runs(["0"])[0].info.status == "RUNNING"
    with path.open("a") as ledger:
        ledger.write('{"kind":"end","status":"interrupted","time":2000.5,"summary":{}}\n')
    assert push(path, "--to", uri).exit_code == 0
    (run,) = client.search_runs(["0"])
    assert (run.info.status, run.info.end_time) == ("KILLED", 2_000_500)


def test_odd_names_of_runs_make_one_run_each(uri, client, tmp_path):
    for number, run in enumerate(["it's", 'say "x"', "back`tick"]):
        write(tmp_path, header(f"2026-{number}", run=run, name="\x1b[2J[red]"), [1])
    for _ in range(2):
        result = push(tmp_path, "--to", uri)
        assert result.exit_code == 0, result.output
        assert "\x1b" not in result.output
    assert len(client.search_runs(["0"])) == 3


def test_the_figure_is_stored_with_the_run(uri, client, tmp_path):
    pytest.importorskip("plotly")
    path = write(tmp_path, header(), [1, 2, 4])
    assert push(path, "--to", uri).exit_code == 0
    (run,) = client.search_runs(["0"])
    stored = {each.path for each in client.list_artifacts(run.info.run_id, "compute")}
    assert stored >= {"compute/loss_against_compute.html"}


def test_more_steps_than_a_sink_has_room_for_arrive(uri, client, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STEPS_AT_ONCE", 40)
    path = write(tmp_path, header(), range(1, 102))
    assert push(path, "--to", uri).exit_code == 0
    (run,) = client.search_runs(["0"])
    assert history(client, run.info.run_id, "compute/loss") == in_ledger(path, "compute/loss")


class Deaf:
    """A sink that takes some steps and no more."""

    name, run_id, destination = "deaf", "1", "http://host"

    def __init__(self, takes=0, stop=None):
        self.takes, self.stop, self.logged, self.tags = takes, stop, 0, {}

    def log(self, metrics, *, step, time):
        self.logged += 1

    def tag(self, tags):
        self.tags.update(tags)

    def close(self, timeout=5.0):
        if self.stop:
            raise self.stop
        return max(0, self.logged - self.takes)


@pytest.mark.parametrize(
    ("sink", "why"),
    [
        (Deaf(takes=2), "3 of 5 logging steps not delivered; run the same command again"),
        (Deaf(stop=KeyboardInterrupt()), "interrupted; 5 of 5 logging steps not delivered"),
    ],
)
def test_what_was_not_delivered_is_said(tmp_path, monkeypatch, sink, why):
    monkeypatch.setattr(module, "ask_tracker", lambda *_, **__: sink)
    path = write(tmp_path, header(name="digits"), range(1, 6))
    said = []
    with pytest.raises(CommandError, match=why):
        module.push(
            [str(path)], to="http://h", run_id=None, timeout=1, say=said.append, warn=said.append
        )
    assert said == [f"digits: {sink.takes} of 5 logging steps in run 1"]


def test_a_server_that_is_down_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    path = write(tmp_path, header(), [1])
    result = push(path, "--to", f"http://ann:s3cret@127.0.0.1:{port}", "--timeout", "1")
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["ledger", "--to", "mlflow.db"], "--to mlflow.db: accepted is a tracker's URI"),
        (["ledger", "--to", "https://***@host"], "in place of"),
        (["missing", "--to", "sqlite:///x.db"], "missing: No such file"),
        (["empty", "--to", "sqlite:///x.db"], "no ledger"),
        (["bad.jsonl", "--to", "sqlite:///x.db"], "not a ledger"),
        (["ledger", "--to", "sqlite:///x.db", "--run-id", "7"], "ledgers of 2 runs"),
        (["ledger", "--to", "file:///mlruns"], "mlflow migrate-filestore"),
        (["ledger", "--to", "empty"], "mlflow migrate-filestore"),
        (["ledger", "--to", "gopher://ann:s3cret@host"], "gopher://***@host: accepted"),
    ],
)
def test_bad_input_is_one_line_and_a_failure(tmp_path, monkeypatch, arguments, why):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ledger", header("2026-a", run="a"), [1])
    write(tmp_path / "ledger", header("2026-b", run="b"), [1])
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text("hello\n")
    result = push(*arguments)
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("computemeter: ")
    assert "s3cret" not in line
    assert why in line
    assert not (tmp_path / "x.db").exists()


def test_help_shows_an_example():
    assert "Example: computemeter push runs/compute_ledger --to" in push("--help").output
