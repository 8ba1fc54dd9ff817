"""What a real MLflow server will not take: one clear line, nothing lost, and training goes on."""

import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import lightning.pytorch as pl
import pytest

pytest.importorskip("mlflow")

from ledgers import header, totals, write
from metered_fit import Net, fit, only_ledger
from mlflow_servers import (
    assert_all_there_once,
    push,
    running_server,
    stored,
    training,
    until,
    until_first_point,
    warnings_in,
)
from small_runs import BATCH, FLOPS_PER_EXAMPLE
from typer.testing import CliRunner

from computemeter.cli import app
from computemeter.lightning import ComputeMeter
from computemeter_mlflow import MLflowSink

SOON = 30.0
# Closing the trackers takes about 5 s, and a process has to end; this tells it from "hangs".
HANG = 20.0
TIME = 1_700_000_000.0
FLOPS_PER_STEP = BATCH * FLOPS_PER_EXAMPLE


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def lines(caplog):
    """Return the lines that a user reads from the meter."""
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "computemeter"
    ]


def sink_for(server, run_id, **options):
    return MLflowSink(tracking_uri=server.uri, run_id=run_id, **options)


def delete_run(server, run_id):
    server.client.delete_run(run_id)
    return lambda: server.client.restore_run(run_id)


def delete_experiment(server, run_id):
    experiment = server.client.get_run(run_id).info.experiment_id
    server.client.delete_experiment(experiment)
    return lambda: server.client.restore_experiment(experiment)


@pytest.mark.slow
@pytest.mark.parametrize("delete", [delete_run, delete_experiment])
def test_a_run_deleted_under_the_training(server, tmp_path, delete):
    run_id = server.new_run(server.client.create_experiment(delete.__name__))
    folder = tmp_path / "ledger"
    with training(server.uri, run_id, folder) as process:
        until_first_point(server.client, run_id, process)
        restore = delete(server, run_id)
        time.sleep(2)  # of training into nowhere
        (folder / "enough").touch()
        output, _ = process.communicate(timeout=HANG)
    assert process.returncode == 0
    warnings = warnings_in(output)
    assert len(warnings) == len(set(warnings)) == 2, output  # what is wrong, and what to do
    assert "active" in warnings[0]  # MLflow's own words for a run that is not deleted
    ledger = only_ledger(folder)
    assert ledger.end.status == "finished"
    steps = [progress.step for progress in ledger.progress]
    assert steps[:-1] == list(range(1, steps[-1], 2))  # and the last one, whichever it is

    restore()
    (path,) = folder.glob("*.jsonl")
    pushed = push(path, server.uri)
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    assert_all_there_once(server.client, run_id, ledger)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_left_out(server, tmp_path, lines, value):
    run_id = server.new_run()
    meter = ComputeMeter(verbose=0, ledger=tmp_path / "l", trackers=[sink_for(server, run_id)])
    fit(meter, Net(added={3: value}), steps=6)
    ledger = only_ledger(tmp_path / "l")
    losses = [progress.metrics["compute/loss"] for progress in ledger.progress]
    assert [loss is None for loss in losses] == [False, True, False]
    assert_all_there_once(server.client, run_id, ledger)
    there = stored(server.client, run_id, ["compute/loss", "compute/flops"])
    assert [step for step, _, _ in there["compute/loss"]] == [1, 5]
    assert [step for step, _, _ in there["compute/flops"]] == [1, 3, 5]
    assert lines() == []


def test_a_name_the_server_rejects_takes_no_other_value_with_it(server):
    run_id, warnings = server.new_run(), []
    sink = sink_for(server, run_id, warn=warnings.append)
    sink.log({"compute/flops": 1.0, "compute/losses*": 2.0}, step=1, time=TIME)
    sink.log({"compute/flops": 3.0, "x" * 300: 2.0}, step=2, time=TIME)
    sink.tag({"verdict": "agree"})
    sink.close(SOON)
    assert stored(server.client, run_id, ["compute/flops"]) == {
        "compute/flops": [(1, 1_700_000_000_000, 1.0), (2, 1_700_000_000_000, 3.0)]
    }
    run = server.client.get_run(run_id)
    assert set(run.data.metrics) == {"compute/flops"}
    assert run.data.tags["computemeter.verdict"] == "agree"
    assert any("compute/losses*" in warning for warning in warnings), warnings


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("x" * 9000, "x" * 8000, id="long"),
        pytest.param("é" * 9000, "é" * 8000, id="long, two bytes each"),
        pytest.param("", "", id="empty"),
        pytest.param("a\x00b", None, id="a NUL"),
        pytest.param("caf\udce9", None, id="a byte of a name that is no UTF-8"),
    ],
)
def test_a_tag_the_server_would_reject_takes_no_value_with_it(server, text, kept):
    run_id = server.new_run()
    sink = sink_for(server, run_id)
    sink.tag({"diagnosis": text, "verdict": "agree"})
    sink.log({"compute/flops": 1.0}, step=1, time=TIME)
    assert sink.close(SOON) == 0
    data = server.client.get_run(run_id).data
    assert data.metrics == {"compute/flops": 1.0}
    assert data.tags["computemeter.verdict"] == "agree"
    if kept is not None:
        assert data.tags.get("computemeter.diagnosis", "") == kept


def test_a_ledger_that_cannot_be_written_is_one_line_and_the_tracker_has_all(
    server, tmp_path, lines
):
    (tmp_path / "file").touch()  # root may write into any folder, but not into a file
    run_id = server.new_run()
    ledger = tmp_path / "file" / "ledger"
    meter = ComputeMeter(verbose=0, ledger=ledger, trackers=[sink_for(server, run_id)])
    fit(meter, Net(), steps=6)
    (line,) = lines()
    assert str(ledger) in line
    flops = stored(server.client, run_id, ["compute/flops"])["compute/flops"]
    # The Trainer's step 1 comes after two steps.
    assert [(step, value) for step, _, value in flops] == [
        (1, 2 * FLOPS_PER_STEP),
        (3, 4 * FLOPS_PER_STEP),
        (5, 6 * FLOPS_PER_STEP),
    ]
    assert meter.summary().model_flops == 6 * FLOPS_PER_STEP


class WantsALogin(BaseHTTPRequestHandler):
    """Answers as a server does that nobody has logged in to."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"You are not authenticated.")

    do_GET = do_PATCH = do_POST  # noqa: N815 - what the server calls

    def log_message(self, *args):
        pass


@pytest.fixture
def locked():
    """Return the port of a server that wants a login."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), WantsALogin)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield listening.server_port
    listening.shutdown()
    listening.server_close()


def test_a_server_that_wants_a_login(locked, tmp_path, lines):
    uri = f"http://ann:s3cret@127.0.0.1:{locked}"
    sink = MLflowSink(tracking_uri=uri, run_id="0" * 32, interval=0.1)
    meter = ComputeMeter(verbose=0, ledger=tmp_path / "ledger", trackers=[sink])

    class Refused(pl.Callback):
        """Goes on once the server has refused the first values."""

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:  # the values of step 1 are on their way
                until(lines, "a line on the server")

    began = time.monotonic()
    fit(meter, Net(), Refused(), steps=6)
    assert time.monotonic() - began < HANG
    said = lines()
    assert len(said) == len(set(said)) == 2  # what is wrong, and what to do
    assert "401" in said[0]
    assert "s3cret" not in " ".join([*said, *map(str, meter.summary().warnings)])
    ledger = only_ledger(tmp_path / "ledger")
    assert [progress.step for progress in ledger.progress] == [1, 3, 5]
    assert ledger.end.status == "finished"


def test_push_prints_no_password(server, tmp_path, capfd):
    """MLflow's client prints the address of a run that ends."""
    path = write(tmp_path, header(), totals(steps=1), status="finished")
    uri = server.uri.replace("://", "://ann:s3cret@")
    done = CliRunner().invoke(app, ["push", str(path), "--to", uri])
    assert done.exit_code == 0, done.output
    printed = capfd.readouterr()
    assert "s3cret" not in done.output + printed.out + printed.err
