"""The W&B sink against real offline runs: our values are there, the user's are untouched."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

wandb = pytest.importorskip("wandb")

from wandb_server import SOON, finish, logged  # noqa: E402 - after the check for wandb

from computemeter import delivery  # noqa: E402
from computemeter.sinks import RunContext, Sink, attach_all  # noqa: E402
from computemeter_wandb import WandbSink, attach  # noqa: E402

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


def test_a_bare_run_gets_a_summary_and_keeps_its_own_rows(run):
    sink = attach(RunContext())
    assert isinstance(sink, Sink)
    assert (sink.name, sink.run_id, sink.destination) == ("wandb", f"test/{run.id}", "")
    assert sink.advice == f"wandb sync {Path(run.dir).parent}"
    for epoch in range(20):
        run.log({"loss": 1.0 / (epoch + 1)}, step=epoch)
        sink.log({"compute/pfs_days": epoch / 4}, step=epoch * 100, time=TIME + epoch)
    sink.tag({"verdict": "agree", "segment.20250101T000000Z-ab": '{"model_flops":1}'})
    assert sink.close(SOON) == 0
    summary = run.summary
    assert summary["compute/pfs_days"] == 4.75  # 19 / 4
    assert summary["computemeter"]["verdict"] == "agree"
    assert summary["computemeter"]["segment"]["20250101T000000Z-ab"] == '{"model_flops":1}'
    found = finish(run)
    # All 20 of the user's rows at the user's steps; ours came after each and so are in the next.
    first, *rest = logged(found)
    assert first == {"_step": 0, "loss": 1.0}
    assert rest == [
        {"_step": epoch, "loss": 1.0 / (epoch + 1), "compute/pfs_days": (epoch - 1) / 4}
        for epoch in range(1, 20)
    ]
    assert found.metrics == {"compute/pfs_days": None, "compute/loss": "compute/pfs_days"}


@pytest.mark.parametrize("namespace", ["lightning.pytorch.loggers", "pytorch_lightning.loggers"])
def test_a_loggers_own_rows_take_our_values_along(namespace, tmp_path):
    loggers = pytest.importorskip(namespace)
    logger = loggers.WandbLogger(project="test", save_dir=tmp_path)
    run = logger.experiment
    warnings = []
    (sink,) = attach_all("auto", RunContext(loggers=(logger,), warn=warnings.append))
    for step in range(3):
        values = {"compute/pfs_days": step / 4, "compute/loss": step / 2, "nan": math.nan}
        sink.log(values, step=step, time=TIME + step)
        run.log({"user": step})  # not the logger's, and so it takes nothing
        logger.log_metrics({"loss": step / 2}, step=step)
    assert sink.close(SOON) == 0
    assert warnings == []
    assert run.summary["compute/pfs_days"] == 0.5  # 2 / 4
    found = finish(run)
    user, theirs = logged(found)[::2], logged(found)[1::2]
    # W&B fills in the last step that Lightning logged, as Lightning has it do.
    assert user == [
        {"_step": 2 * step, "user": step, "trainer/global_step": max(0, step - 1)}
        for step in range(3)
    ]
    assert theirs == [
        {
            "_step": 2 * step + 1,
            "loss": step / 2,
            "trainer/global_step": step,
            "compute/pfs_days": step / 4,
            "compute/loss": step / 2,
        }
        for step in range(3)
    ]
    # Lightning's own two definitions are as it made them.
    assert found.metrics == {
        "trainer/global_step": None,
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
sink.log({"compute/pfs_days": 0.5}, step=0, time=0.0)
assert sink.close(20) == 0
children = Path("/proc/self/task").glob("*/children")
pids = [int(pid) for file in children for pid in file.read_text().split()]
(core,) = [pid for pid in pids if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]
os.kill(core, signal.SIGKILL)
began = time.monotonic()
for step in range(3):
    sink.log({"compute/pfs_days": 1.0}, step=step, time=0.0)
sink.tag({"verdict": "agree"})
assert sink.close(20) == 3  # steps; the tag is none
assert time.monotonic() - began < 10  # nobody starts that process again: no use in waiting
assert len(warnings) == 1, warnings
assert "W&B: the run is gone" in warnings[0], warnings
os._exit(0)  # W&B's own farewell would fail, and is not what is tested
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_run_that_is_finished_costs_one_warning(run, monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", 0.01)
    warnings = []
    sink = WandbSink(run, warn=warnings.append)
    run.finish()
    sink.log({"compute/pfs_days": 1.0}, step=0, time=TIME)
    assert sink.close(SOON) == 1
    assert len(warnings) == 1
    assert "finished" in warnings[0]


def test_an_alert_reaches_the_run_once(run):
    sink = WandbSink(run, interval=0.05)
    sink.alert("computemeter: count_suspect", "3 calls have no formula")
    assert sink.close(SOON) == 0
    assert finish(run).alerts == (("computemeter: count_suspect", "3 calls have no formula"),)


def test_an_alert_that_fails_repeats_no_row(run, monkeypatch):
    monkeypatch.setattr(type(run), "alert", lambda *_, **__: 1 / 0)
    warnings = []
    sink = WandbSink(run, rows=True, interval=0.05, warn=warnings.append)
    sink.log({"compute/flops": 1.0}, step=1, time=TIME)
    sink.alert("computemeter: count_suspect", "text")
    assert sink.close(SOON) == 0
    assert len(warnings) == 1
    assert len(finish(run).history) == 1


def test_a_batch_that_failed_half_way_is_logged_once(run, monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", 0.01)
    log, calls = type(run).log, []

    def second_fails(self, data):
        calls.append(data)
        if len(calls) == 2:
            raise TimeoutError("the second call")
        log(self, data)

    monkeypatch.setattr(type(run), "log", second_fails)
    warnings = []
    sink = WandbSink(run, rows=True, warn=warnings.append)
    for step in range(3):
        sink.log({"compute/flops": step}, step=step, time=TIME + step)
    assert sink.close(SOON) == 0
    assert len(warnings) == 1
    assert [row["compute/flops"] for row in finish(run).history] == [0, 1, 2]
    assert len(calls) == 4


def test_where_a_push_would_go(monkeypatch, tmp_path):
    def destination(**facts):
        return WandbSink(SimpleNamespace(id="abc", dir=tmp_path, **facts)).destination

    online = {"entity": "ann", "project": "digits", "offline": False}
    assert destination(**online) == "wandb://ann/digits/abc"
    assert not destination(**{**online, "offline": True})
    assert not destination(**{**online, "entity": ""})


def test_how_an_offline_run_gets_to_its_server(tmp_path):
    def advice(**facts):
        return WandbSink(SimpleNamespace(id="abc", **facts)).advice

    folder = tmp_path / "two words" / "offline-run-1-abc"
    assert advice(offline=True, dir=str(folder / "files")) == f"wandb sync '{folder}'"
    assert not advice(offline=False, dir=str(folder / "files"))


def test_runs_of_two_projects_that_have_one_id_are_two(tmp_path):
    ids = []
    for project in ("a", "b"):
        with wandb.init(project=project, id="baseline", dir=tmp_path) as run:
            ids.append(WandbSink(run).run_id)
    with wandb.init(entity="ann", project="b", id="baseline", dir=tmp_path) as run:
        ids.append(WandbSink(run).run_id)
    assert ids == ["a/baseline", "b/baseline", "ann/b/baseline"]
