"""W&B over HTTP, against a server on loopback: a server that dies, and a ledger that is pushed."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

wandb = pytest.importorskip("wandb")

from small_runs import BATCH, FLOPS_PER_EXAMPLE  # noqa: E402 - after the check for wandb
from wandb_server import SOON, Server, Stored, read_back  # noqa: E402

from computemeter.commands import CommandError  # noqa: E402
from computemeter.commands.push import push  # noqa: E402
from computemeter.ledger import LedgerHeader  # noqa: E402
from computemeter.ledger_writer import LedgerWriter  # noqa: E402
from computemeter.lightning import ComputeMeter  # noqa: E402
from computemeter.sources import SourceError  # noqa: E402
from computemeter_wandb import WandbSink  # noqa: E402
from computemeter_wandb._destination import open_run  # noqa: E402

TIME = 1_700_000_000.0
HEADER = LedgerHeader(segment="s1", run="r1", started=TIME, name="pushed")


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_SILENT", "true")
        yield server
        wandb.teardown()


def seen(condition):
    """Wait for what W&B's own process sends when it likes."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def flops(rows):
    return {
        row["trainer/global_step"]: row["compute/flops"] for row in rows if "compute/flops" in row
    }


class TestServerThatDies:
    @pytest.fixture
    def impatient(self):
        """Settings of a user who does not wait for ever at the end: W&B's default is to wait."""
        return wandb.Settings(
            x_file_stream_transmit_interval=1, x_file_stream_retry_max=1, finish_timeout=2
        )

    def test_training_goes_on_and_the_local_file_has_every_row(self, server, impatient, small):
        module, data = small.Module(), small.data(9 * BATCH)
        logger = small.pl.loggers.WandbLogger(
            project="p", entity="ann", save_dir=small.folder, settings=impatient
        )

        class Outage(small.pl.Callback):
            def on_train_batch_start(self, trainer, *_):
                if trainer.global_step == 9:
                    server.stop()

        callback = ComputeMeter(verbose=0)
        trainer = small.trainer(callback, Outage(), logger=logger, max_epochs=2)
        began = time.monotonic()
        trainer.fit(module, data)
        assert time.monotonic() - began < SOON
        assert callback.summary().steps == 18
        assert callback.summary().warnings == ()
        folder = Path(logger.experiment.dir).parent
        logger.experiment.finish()
        found = read_back(folder)
        # The Trainer logs at 1, 3, ..., 17.
        step = BATCH * FLOPS_PER_EXAMPLE
        assert flops(found.history) == {done: (done + 1) * step for done in range(1, 18, 2)}
        losses = [row for row in found.history if "loss" in row]
        assert [row["trainer/global_step"] for row in losses] == list(range(1, 18, 2))
        assert found.summary["compute/flops"] == 18 * step
        assert found.summary["computemeter"]["verdict"]

    def test_a_sink_closes_in_time(self, server, impatient):
        run = wandb.init(project="p", entity="ann", settings=impatient)
        warnings = []
        sink = WandbSink(run, rows=True, warn=warnings.append, interval=0.01)
        assert sink.destination == f"wandb://ann/p/{run.id}"
        sink.log({"compute/flops": 1.0}, step=1, time=TIME)
        seen(lambda: server.runs[run.id].rows)
        server.stop()
        for step in range(2, 500):
            sink.log({"compute/flops": float(step)}, step=step, time=TIME)
        # W&B's own process has them, in its file: `wandb sync` brings them to a server.
        began = time.monotonic()
        assert sink.close(SOON) == 0
        assert time.monotonic() - began < SOON / 2
        assert warnings == []
        folder = Path(run.dir).parent
        run.finish()
        assert flops(read_back(folder).history) == {step: step for step in range(1, 500)}


class TestPush:
    def push(
        self,
        warn,
        *,
        run_id=None,
        uri="wandb://ann/p",
        steps=(0, 1, 2),
        header=HEADER,
        end="finished",
    ):
        sink = open_run(uri, header, run_id, warn=warn)
        for step in steps:
            values = {"compute/device_hours": step / 7, "compute/flops": float(step)}
            sink.log(values, step=step, time=TIME + step)
        sink.tag({"schema": "1", "segment.s1": "{}"})
        assert sink.close(SOON) == 0
        sink.finish(end, TIME)
        return sink

    def test_a_second_push_adds_what_is_missing(self, server):
        sink = self.push(pytest.fail)
        assert (sink.run_id, sink.destination) == ("ann/p/r1", "wandb://ann/p/r1")
        stored = server.runs["r1"]
        assert flops(stored.rows) == {0: 0, 1: 1, 2: 2}
        assert [row["_timestamp"] for row in stored.rows] == [TIME, TIME + 1, TIME + 2]
        assert (stored.display, stored.state) == ("pushed", "finished")
        stored.display = "renamed by the user"
        self.push(pytest.fail, steps=(0, 1, 2, 3))
        assert [row["compute/flops"] for row in stored.rows] == [0, 1, 2, 3]
        assert stored.summary["compute/flops"] == 3
        assert stored.summary["computemeter"] == {"schema": "1", "segment": {"s1": "{}"}}
        assert stored.display == "renamed by the user"

    def test_rows_of_a_user_that_hold_our_values_are_known_again(self, server):
        rows = [{"_step": 0, "loss": 1.0, "compute/device_hours": 1 / 7}, {"_step": 1, "loss": 2.0}]
        server.runs["r1"] = Stored("r1", rows=list(rows), summary={"loss": 2.0})
        self.push(pytest.fail)
        stored = server.runs["r1"]
        assert stored.rows[:2] == rows
        assert [row["compute/flops"] for row in stored.rows[2:]] == [0, 2]
        assert stored.summary["loss"] == 2

    def test_where_the_rows_cannot_be_known_the_totals_alone_are_written(self, server, monkeypatch):
        server.runs["r1"] = Stored("r1", rows=[{"_step": 0, "compute/device_hours": 0}])
        answer = server.answer
        monkeypatch.setattr(
            server,
            "answer",
            lambda query, given: {} if "RunParquetHistory" in query else answer(query, given),
        )
        warnings = []
        self.push(warnings.append)
        assert len(server.runs["r1"].rows) == 1
        assert server.runs["r1"].summary["compute/flops"] == 2
        assert len(warnings) == 1
        assert "does not say which rows the run has" in warnings[0]

    @pytest.mark.parametrize("end", ["failed", "unknown"])
    def test_offline_the_totals_alone_are_written(self, server, monkeypatch, end):
        monkeypatch.setenv("WANDB_MODE", "offline")
        warnings = []
        sink = open_run("wandb://ann/p", HEADER, None, warn=warnings.append)
        sink.log({"compute/device_hours": 1.0}, step=0, time=TIME)
        assert sink.close(SOON) == 0
        folder = Path(sink._run.dir).parent
        sink.finish(end, TIME)
        found = read_back(folder)
        assert (found.history, found.exit_code) == ((), 1)
        assert found.summary["compute/device_hours"] == 1
        assert "W&B is offline" in warnings[0]

    def test_a_run_that_is_asked_for_must_exist(self, server):
        with pytest.raises(SourceError, match=r"wandb://ann/p/r9: .*\(r9\) does not exist"):
            open_run("wandb://ann/p", HEADER, "r9", warn=pytest.fail)
        assert server.runs == {}

    def test_a_run_without_rows_that_the_uri_names_gets_all(self, server):
        server.runs["r9"] = Stored("r9")
        assert self.push(pytest.fail, uri="wandb://ann/p/r9").run_id == "ann/p/r9"
        assert flops(server.runs["r9"].rows) == {0: 0, 1: 1, 2: 2}

    @pytest.mark.parametrize("told", ["ann/p/r2", "p/r2", "r2"])
    def test_the_run_that_the_ledger_names_in_full_or_as_far_as_is_known(self, server, told):
        server.runs["r2"] = Stored("r2")
        header = replace(HEADER, run=told, trackers={"wandb": told})
        assert self.push(pytest.fail, header=header).run_id == "ann/p/r2"
        assert self.push(pytest.fail, run_id=told).run_id == "ann/p/r2"
        assert list(server.runs) == ["r2"]
        assert flops(server.runs["r2"].rows) == {0: 0, 1: 1, 2: 2}

    def test_a_run_of_another_project_that_has_the_same_id_is_another(self, server):
        server.runs["r2"] = Stored("r2")
        header = replace(HEADER, run="ann/q/r2", trackers={"wandb": "ann/q/r2"})
        with pytest.raises(SourceError, match="wandb://ann/p: run ann/q/r2 is of another project"):
            open_run("wandb://ann/p", header, "ann/q/r2", warn=pytest.fail)
        assert self.push(pytest.fail, header=header).run_id == "ann/p/ann-q-r2"
        assert server.runs["r2"].rows == []

    def test_a_run_that_still_goes_is_not_joined(self, server):
        server.runs["r1"] = Stored("r1")
        with pytest.raises(SourceError, match="run r1 still goes, by its ledger: push it when"):
            open_run("wandb://ann/p", HEADER, None, "running", warn=pytest.fail)
        assert server.joined == []

    def test_the_command_waits_for_a_sign_that_the_run_is_dead(self, server, tmp_path):
        ledger = LedgerWriter.open(tmp_path, HEADER)
        ledger.progress(0, TIME, {}, {"compute/device_hours": 1.0, "compute/flops": 5.0})
        ledger.close()

        def send():
            options = {"to": "wandb://ann/p", "run_id": None, "timeout": SOON}
            return push([str(ledger.path)], **options, say=str, warn=pytest.fail)

        with pytest.raises(CommandError, match="run r1 still goes, by its ledger"):
            send()
        assert server.joined == []
        long_ago = time.time() - 121
        os.utime(ledger.path, (long_ago, long_ago))
        assert send() == "1 logging step of 1 run delivered"
        assert server.runs["r1"].state == "running"

    @pytest.mark.parametrize(
        ("end", "state"),
        [("finished", "finished"), ("failed", "failed"), ("interrupted", "failed")],
    )
    def test_the_end_is_the_ledgers(self, server, end, state):
        self.push(pytest.fail, end=end)
        assert server.runs["r1"].state == state
        assert flops(server.runs["r1"].rows) == {0: 0, 1: 1, 2: 2}

    def test_an_end_that_is_not_known_is_left_to_wandb(self, server):
        self.push(pytest.fail, end="unknown")
        assert server.runs["r1"].state == "running"  # until W&B misses its heartbeat
        assert flops(server.runs["r1"].rows) == {0: 0, 1: 1, 2: 2}
