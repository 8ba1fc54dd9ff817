"""The W&B sink against real offline runs: our values are there, the user's are untouched."""

import math
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

wandb = pytest.importorskip("wandb")

from computemeter import delivery  # noqa: E402
from computemeter.sinks import RunContext, Sink, attach_all  # noqa: E402
from computemeter_wandb import WandbSink, attach  # noqa: E402 - after the check for wandb

SOON = 30.0
TIME = 1_700_000_000.0


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    if wandb.run is not None:
        wandb.run.finish()
    wandb.teardown()


@pytest.fixture
def run():
    return wandb.init(project="test")


def records(run):
    """Finish a run and read its file, once W&B's own process has written all of it."""
    folder = Path(run.dir).parent
    run.finish()
    (path,) = folder.glob("*.wandb")
    deadline = time.monotonic() + SOON
    found = read_so_far(path)
    while not any(record.HasField("exit") for record in found):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        found = read_so_far(path)
    return found


def read_so_far(path):
    """Read a file that may be in the middle of being written."""
    from google.protobuf.message import DecodeError

    try:
        return read(path.read_bytes())
    except DecodeError:
        return []


def read(data):
    """Read what an offline file holds: a LevelDB log of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record

    position, whole, found = 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # no header fits into the rest of a block
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += 7 + length
        whole += data[position - length : position]
        if kind in {1, 4}:  # a whole record, or the last part of one
            found.append(Record.FromString(whole))
            whole = b""
    return found


def rows(found):
    """History as dicts of the values that someone logged, W&B's own left out."""
    items = [record.history.item for record in found if record.HasField("history")]
    named = [{each.key or each.nested_key[0]: each.value_json for each in row} for row in items]
    return [
        {key: float(value) for key, value in row.items() if not key.startswith("_")}
        for row in named
    ]


def metrics(found):
    definitions = [record.metric for record in found if record.HasField("metric")]
    return {(each.name or each.glob_name): each.step_metric for each in definitions}


def test_a_bare_run_gets_a_summary_and_keeps_its_own_rows(run):
    sink = attach(RunContext())
    assert isinstance(sink, Sink)
    assert (sink.name, sink.run_id) == ("wandb", run.id)
    for epoch in range(20):
        run.log({"loss": 1.0 / (epoch + 1)}, step=epoch)
        sink.log({"compute/pfs_days": epoch / 4}, step=epoch * 100, time=TIME + epoch)
    sink.tag({"verdict": "agree", "segment.20250101T000000Z-ab": '{"model_flops":1}'})
    assert sink.close(SOON) == 0
    summary = run.summary
    assert summary["compute/pfs_days"] == 4.75  # 19 / 4
    assert summary["computemeter"]["verdict"] == "agree"
    assert summary["computemeter"]["segment"]["20250101T000000Z-ab"] == '{"model_flops":1}'
    found = records(run)
    # All 20 of the user's rows, at the user's steps, and none of ours.
    assert rows(found) == [{"loss": 1.0 / (epoch + 1)} for epoch in range(20)]
    steps = [record.history.step.num for record in found if record.HasField("history")]
    assert steps == list(range(20))
    assert metrics(found) == {}


@pytest.mark.parametrize("namespace", ["lightning.pytorch.loggers", "pytorch_lightning.loggers"])
def test_a_loggers_run_gets_rows_at_lightnings_steps(namespace, tmp_path):
    loggers = pytest.importorskip(namespace)
    logger = loggers.WandbLogger(project="test", save_dir=tmp_path)
    run = logger.experiment
    warnings = []
    (sink,) = attach_all("auto", RunContext(loggers=(logger,), warn=warnings.append))
    for step in range(3):
        logger.log_metrics({"loss": step / 2}, step=step)
        values = {"compute/pfs_days": step / 4, "compute/loss": step / 2, "nan": math.nan}
        sink.log(values, step=step, time=TIME + step)
    assert sink.close(SOON) == 0
    assert warnings == []
    assert run.summary["compute/pfs_days"] == 0.5  # 2 / 4
    found = records(run)
    ours = [row for row in rows(found) if "compute/pfs_days" in row]
    assert ours == [
        {
            "compute/pfs_days": step / 4,
            "compute/loss": step / 2,
            "trainer/global_step": step,
        }
        for step in range(3)
    ]
    theirs = [row for row in rows(found) if "loss" in row]
    assert theirs == [{"loss": step / 2, "trainer/global_step": step} for step in range(3)]
    # Lightning's own two definitions are as it made them.
    assert metrics(found) == {
        "trainer/global_step": "",
        "*": "trainer/global_step",
        "compute/pfs_days": "trainer/global_step",
        "compute/loss": "compute/pfs_days",
    }


def test_the_summary_is_a_number_whatever_the_user_defined(run):
    run.define_metric("*", summary="max")
    sink = WandbSink(run, rows=True)
    sink.log({"compute/mfu": 0.5}, step=0, time=TIME)
    sink.log({"compute/mfu": 0.25}, step=1, time=TIME)
    assert sink.close(SOON) == 0
    assert run.summary["compute/mfu"] == 0.25


def test_what_an_earlier_segment_left_stays(run):
    run.summary["computemeter"] = {"verdict": "warn", "segment": {"first": "1"}}
    sink = WandbSink(run)
    sink.tag({"verdict": "agree", "segment.second": "2"})
    assert sink.close(SOON) == 0
    entry = run.summary["computemeter"]
    assert entry["verdict"] == "agree"
    assert dict(entry["segment"]) == {"first": "1", "second": "2"}


def test_without_a_run_nothing_is_attached_and_none_is_made():
    assert attach(RunContext()) is None
    assert wandb.run is None


def test_wandb_is_never_imported_to_look_for_a_run(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb")
    assert attach(RunContext()) is None
    assert "wandb" not in sys.modules


def test_a_disabled_run_is_left_alone():
    with wandb.init(mode="disabled"):
        assert attach(RunContext()) is None


def test_a_dead_core_costs_one_warning():
    # In a process of its own, because W&B cannot be used again in this one.
    script = """
import os, signal, time
from pathlib import Path
import wandb
from computemeter import delivery
from computemeter_wandb import WandbSink

delivery._FIRST_BACKOFF = 0.01
run, warnings = wandb.init(project="test"), []
sink = WandbSink(run, rows=True, warn=warnings.append, interval=0.01)
children = Path("/proc/self/task").glob("*/children")
pids = [int(pid) for file in children for pid in file.read_text().split()]
(core,) = [pid for pid in pids if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]
os.kill(core, signal.SIGKILL)
time.sleep(0.5)  # W&B notices when it reads from the core
for step in range(3):
    sink.log({"compute/pfs_days": 1.0}, step=step, time=0.0)
sink.tag({"verdict": "agree"})
assert sink.close(0.5) == 4
assert len(warnings) == 1, warnings
assert "W&B" in warnings[0]
os._exit(0)  # W&B's own farewell would fail, and is not what is tested
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_run_that_is_finished_costs_one_warning(run, monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", 0.01)
    warnings = []
    sink = WandbSink(run, warn=warnings.append)
    run.finish()
    sink.log({"compute/pfs_days": 1.0}, step=0, time=TIME)
    assert sink.close(0.3) == 1
    assert len(warnings) == 1


def test_an_alert_reaches_the_run_once(run):
    sink = WandbSink(run, interval=0.05)
    sink.alert("computemeter: count_suspect", "3 calls have no formula")
    assert sink.close(SOON) == 0
    alerts = [record.alert for record in records(run) if record.HasField("alert")]
    assert [(each.title, each.text) for each in alerts] == [
        ("computemeter: count_suspect", "3 calls have no formula")
    ]


def test_an_alert_that_fails_repeats_no_row(run, monkeypatch):
    monkeypatch.setattr(type(run), "alert", lambda *_, **__: 1 / 0)
    warnings = []
    sink = WandbSink(run, rows=True, interval=0.05, warn=warnings.append)
    sink.log({"compute/flops": 1.0}, step=1, time=TIME)
    sink.alert("computemeter: count_suspect", "text")
    assert sink.close(SOON) == 0
    assert len(warnings) == 1
    rows = [record for record in records(run) if record.HasField("history")]
    assert len(rows) == 1
