"""A real MLflow server that goes away in the middle of a training."""

import json
import re
import shlex
import signal
import time
from threading import Event, Thread
from typing import NamedTuple

import pytest

pytest.importorskip("mlflow")

import lightning.pytorch as pl
from metered_fit import Net, fit, only_ledger
from mlflow_servers import (
    assert_all_there_once,
    points_of,
    push,
    running_server,
    stored,
    training,
    until,
    until_first_point,
    warnings_in,
)

from computemeter.lightning import ComputeMeter
from computemeter_mlflow import MLflowSink

# Closing the trackers takes about 5 s, and a process has to end; this tells it from "hangs".
HANG = 20.0


@pytest.fixture
def server(tmp_path):
    with running_server(tmp_path) as running:
        yield running


class Beside(pl.Callback):
    """Something that happens beside the training, which goes on until it is over."""

    def __init__(self, happening):
        self._happening, self._over, self._error = happening, Event(), None

    def on_train_start(self, trainer, pl_module):
        Thread(target=self._run, daemon=True).start()

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = self._over.is_set()

    def check(self):
        if self._error is not None:
            raise self._error

    def _run(self):
        try:
            self._happening()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._error = error
        finally:
            self._over.set()


def train_beside(happening, server, run_id, folder, interval):
    """Train until it is over; return the run's ledger."""
    sink = MLflowSink(tracking_uri=server.uri, run_id=run_id, interval=interval)
    beside = Beside(happening)
    fit(ComputeMeter(verbose=0, ledger=folder, trackers=[sink]), Net(pause=0.005), beside)
    beside.check()
    return only_ledger(folder)


class Case(NamedTuple):
    """An outage: the signal, and seconds before it, of it and after it, and between batches."""

    how: signal.Signals
    before: float
    down: float
    after: float
    interval: float


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(signal.SIGKILL, 2, 3, 2, 0.5), id="3s"),
        pytest.param(Case(signal.SIGTERM, 15, 30, 15, 10.0), id="30s", marks=pytest.mark.slow),
    ],
)
def test_an_outage_loses_nothing_and_doubles_nothing(server, tmp_path, caplog, case):
    def outage():
        time.sleep(case.before)
        server.stop(case.how)
        time.sleep(case.down)
        server.start()
        # What waited is sent when the sink tries again, on a busy machine half a minute later.
        before = flops()
        until(lambda: flops() > before, "a point in MLflow after the outage")
        time.sleep(case.after)

    def flops():
        return server.client.get_run(run_id).data.metrics.get("compute/flops", 0.0)

    run_id = server.new_run()
    ledger = train_beside(outage, server, run_id, tmp_path / "ledger", case.interval)
    times = [progress.time for progress in ledger.progress]
    assert times[0] < server.stopped_at < server.started_at < times[-1]
    assert any(server.stopped_at < time < server.started_at for time in times)
    assert ledger.end.status == "finished"
    assert_all_there_once(server.client, run_id, ledger)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "computemeter"]
    assert "the ledger keeps everything" in warning


def train_and_lose(server, run_id, folder):
    """Train in a process whose server goes away for good; return what it printed."""
    with training(server.uri, run_id, folder) as process:
        until_first_point(server.client, run_id, process)
        server.stop()
        time.sleep(1)  # of training without a server
        (folder / "enough").touch()
        output, _ = process.communicate(timeout=HANG)
    assert process.returncode == 0, output
    return output


def everything_in(server, run_id, ledger):
    """Return all that MLflow has of a run that could be there twice or changed."""
    tags = server.client.get_run(run_id).data.tags
    return stored(server.client, run_id, points_of(ledger)), tags


@pytest.mark.slow
def test_a_server_that_never_comes_back_is_pushed_to_later(server, tmp_path):
    folder = tmp_path / "ledger"
    run_id = server.new_run()
    output = train_and_lose(server, run_id, folder)
    (line,) = [line for line in warnings_in(output) if "computemeter push" in line]
    words = shlex.split(re.search(r"computemeter push .* --to \S+", line)[0])
    (path,) = folder.glob("*.jsonl")
    assert words == ["computemeter", "push", str(path), "--to", server.uri]

    server.start()
    pushed = push(words[2], words[4])
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    ledger = only_ledger(folder)
    assert_all_there_once(server.client, run_id, ledger)
    tags = server.client.get_run(run_id).data.tags
    totals = json.loads(tags[f"computemeter.segment.{ledger.header.segment}"])
    assert totals["model_flops"] == ledger.progress[-1].totals["model_flops"]

    once = everything_in(server, run_id, ledger)
    assert push(words[2], words[4]).returncode == 0
    assert everything_in(server, run_id, ledger) == once
