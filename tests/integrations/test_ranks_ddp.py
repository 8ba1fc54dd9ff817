"""DDP jobs of real processes: one run whatever happens to the ranks, and whatever it cost is known.

The ranks of `ddp_fit` halt where a test wants to kill them, so that what they did is known.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import ddp_fit
import pytest
import rank_workers
import torch
from mlflow.tracking import MlflowClient
from small_runs import BATCH, FLOPS_PER_EXAMPLE

from computemeter.ledger import read_ledger
from computemeter.ledger_runs import records_from_ledgers
from computemeter.receipt import read_receipt

FIT = Path(ddp_fit.__file__)
PATIENCE = 150
"""Seconds for a process to start, train and end; who takes longer hangs."""
GUARD = 30
"""Seconds that an end may take longer with the meter than without, on a machine that is busy."""


def flops(ranks):
    """Of one step: rank r has BATCH - r examples."""
    return sum(BATCH - rank for rank in range(ranks)) * FLOPS_PER_EXAMPLE


@pytest.fixture
def start(tmp_path):
    """Start processes in groups of their own; none of them outlives the test."""
    started = []

    def begin(command, **more):
        shared = {"OMP_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
        environment = {name: str(value) for name, value in {**shared, **more}.items()}
        with (tmp_path / f"output-{len(started)}.txt").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def fit(start, tmp_path):
    """Start all ranks of a job, or one to have Lightning start the others."""

    def begin(ranks, steps, launcher="outside", **options):
        command = [FIT, tmp_path, json.dumps({"ranks": ranks, "steps": steps, **options})]
        port = free_port()
        if launcher == "lightning":
            return [start(command, MASTER_PORT=port)]
        return [start(command, LOCAL_RANK=rank, MASTER_PORT=port) for rank in range(ranks)]

    return begin


@pytest.fixture
def store(tmp_path):
    """An MLflow store with its tables: Lightning's loggers would all make them at once."""
    path = tmp_path / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(holds, processes, folder):
    """Wait until something holds, or a process fails, which others might wait for for ever."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert not any(process.poll() for process in processes), outputs(folder)
        assert time.monotonic() < deadline, outputs(folder)
        time.sleep(0.05)


def finish(processes, folder):
    """Wait until all have ended well."""
    until(lambda: all(process.poll() == 0 for process in processes), processes, folder)


def outputs(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("output-*.txt")))


def kill(processes, folder, ranks):
    """Kill ranks when they have all halted, and return when that was."""
    halted = [folder / f"halted-{rank}" for rank in ranks]
    until(lambda: all(path.exists() and path.read_text() for path in halted), processes, folder)
    for path in halted:
        os.kill(int(path.read_text()), signal.SIGKILL)
        path.unlink()
    return time.monotonic()


def seen(folder, rank):
    """What a rank has seen of itself."""
    return json.loads((folder / f"rank-{rank}.json").read_text())


def ledgers(folder):
    """All of a job, in the order of their launch."""
    return [read_ledger(path) for path in sorted((folder / "compute_ledger").glob("*.jsonl"))]


def the_receipt(folder):
    [path] = folder.rglob("compute_receipt.json")
    return read_receipt(path)


def the_record(folder):
    [record] = records_from_ledgers([folder])
    return record


def checkpoint(folder, step):
    return ddp_fit.checkpoints(folder) / f"step={step}.ckpt"


def state_at(folder, step):
    """What the meter left in a checkpoint."""
    saved = torch.load(checkpoint(folder, step), weights_only=False)
    return saved["callbacks"]["computemeter"]


def stored(path, query):
    with sqlite3.connect(path) as database:
        return database.execute(query).fetchall()


def segment_tags(path):
    """The totals of each segment as MLflow has them, by its id."""
    start = "computemeter.segment."
    tags = stored(path, "select key, value from tags")
    return {key[len(start) :]: json.loads(value) for key, value in tags if key.startswith(start)}


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "launcher"), [(2, "lightning"), (4, "outside")])
def test_many_ranks_are_one_run(ranks, launcher, fit, store, tmp_path):
    finish(fit(ranks, 5, store=f"sqlite:///{store}", launcher=launcher), tmp_path)

    [(run_id, status)] = stored(store, "select run_uuid, status from runs")
    assert status == "FINISHED"
    [ledger] = ledgers(tmp_path)
    assert dict(ledger.header.trackers) == {"mlflow": run_id}
    assert ledger.header.device_count == ranks
    rows = stored(store, "select key, step, value from metrics where key like 'compute/%'")
    assert set(Counter((key, step) for key, step, _ in rows).values()) == {1}
    # 5 steps, logged every second one and at the end.
    logged = {step: value for key, step, value in rows if key == "compute/flops"}
    assert logged == {1: 2 * flops(ranks), 3: 4 * flops(ranks), 4: 5 * flops(ranks)}

    [(segment, totals)] = segment_tags(store).items()
    assert segment == ledger.header.segment
    assert totals == dict(ledger.last_totals)
    assert totals["steps"] == 5
    assert totals["model_flops"] == totals["spent_flops"] == 5 * flops(ranks)
    assert totals["device_count"] == ranks
    seconds = ranks * totals["training_seconds"]
    assert totals["device_seconds"] == pytest.approx(seconds)
    by_time = seconds * ddp_fit.PEAK * ddp_fit.UTILIZATION
    assert totals["gpu_time_flops"] == pytest.approx(by_time)

    receipt = the_receipt(tmp_path)
    assert receipt.run == run_id
    assert receipt.spent_flops == receipt.run_flops == 5 * flops(ranks)
    assert receipt.device_hours == pytest.approx(seconds / 3600)
    assert seen(tmp_path, 0)["summary"]["model_flops"] == 5 * flops(ranks)
    for rank in range(1, ranks):
        own = seen(tmp_path, rank)["summary"]
        assert own["model_flops"] == 5 * (BATCH - rank) * FLOPS_PER_EXAMPLE
        assert own["device_count"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_restart_with_another_number_of_ranks(before, after, fit, store, tmp_path):
    options = {"store": f"sqlite:///{store}", "checkpoint_every": 4}
    everyone = range(before)
    crashing = fit(before, 100, **options, halt_at=6, halting=list(everyone))
    kill(crashing, tmp_path, everyone)
    [(run_id,)] = stored(store, "select run_uuid from runs")
    resume = str(checkpoint(tmp_path, 4))
    finish(fit(after, 9, **options, resume=resume, run_id=run_id), tmp_path)

    first, second = ledgers(tmp_path)
    assert (first.header.device_count, second.header.device_count) == (before, after)
    assert (first.status, second.status) == ("unknown", "finished")
    assert second.header.parent == first.header.segment
    # 4 of the 6 steps of the first launch are in the weights, and all 5 of the second.
    run = 4 * flops(before) + 5 * flops(after)
    spent = 6 * flops(before) + 5 * flops(after)
    totals = [dict(first.last_totals), dict(second.last_totals)]
    assert [each["model_flops"] for each in totals] == [6 * flops(before), 5 * flops(after)]
    assert (totals[1]["run_flops"], totals[1]["spent_flops"]) == (run, spent)
    assert segment_tags(store) == dict(
        zip([first.header.segment, second.header.segment], totals, strict=True)
    )

    seconds = sum(
        count * each["training_seconds"]
        for count, each in zip((before, after), totals, strict=True)
    )
    by_time = seconds * ddp_fit.PEAK * ddp_fit.UTILIZATION
    receipt, record = the_receipt(tmp_path), the_record(tmp_path)
    for told in (receipt, record):
        assert (told.run_flops, told.spent_flops, told.steps) == (run, spent, 6 + 5)
        assert told.gpu_time_flops == pytest.approx(by_time)
        assert told.ratio == pytest.approx(by_time / spent)
    assert record.device_seconds == pytest.approx(seconds)
    assert record.mfu == pytest.approx(spent / (seconds * ddp_fit.PEAK))
    assert receipt.device_hours == pytest.approx(seconds / 3600)
    assert receipt.segments == (first.header.segment, second.header.segment)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_killed_in_ddp_holds_up_no_end(victim, fit, tmp_path):
    survivor, took = 1 - victim, {}
    for metered in (False, True):
        options = {"metered": metered, "checkpoint_every": 4 if metered else 0}
        processes = fit(2, 100, halt_at=6, halting=[victim], **options)
        killed = kill(processes, tmp_path, [victim])
        # By the framework's own means: the gradients have nobody to be averaged with.
        assert processes[survivor].wait(PATIENCE) != 0
        took[metered] = time.monotonic() - killed
    assert took[True] < took[False] + GUARD
    left = seen(tmp_path, survivor)
    assert left["failure"]
    assert left["meter_seconds"] < GUARD

    [ledger] = ledgers(tmp_path)
    assert ledger.last_totals["steps"] == 6
    assert ledger.last_totals["model_flops"] == 6 * flops(2)
    if victim == 0:
        assert ledger.status == "unknown"
        assert left["summary"]["model_flops"] == 6 * (BATCH - 1) * FLOPS_PER_EXAMPLE
    else:
        assert ledger.status == "failed"
        assert left["summary"]["warnings"] == ["rank 1 last reported at step 6"]

    finish(fit(2, 7, resume=str(checkpoint(tmp_path, 4))), tmp_path)
    record = the_record(tmp_path)
    assert record.run_flops == (4 + 3) * flops(2)
    assert record.spent_flops == (6 + 3) * flops(2)
    assert record.segments == 2


@pytest.mark.slow
def test_a_checkpoint_restores_every_rank(fit, tmp_path):
    """With checkpoints far from a logging step: the state itself has what all ranks did."""
    finish(fit(2, 6, log_every=50, checkpoint_every=3), tmp_path)
    assert state_at(tmp_path, 3)["run_flops"] == 3 * flops(2)
    assert state_at(tmp_path, 6)["run_flops"] == 6 * flops(2)
    resume = str(checkpoint(tmp_path, 3))
    finish(fit(2, 8, log_every=50, checkpoint_every=4, resume=resume), tmp_path)

    for rank in (0, 1):
        before, after = (seen(tmp_path, rank)[when] for when in ("restored", "summary"))
        own = flops(2) if rank == 0 else (BATCH - 1) * FLOPS_PER_EXAMPLE
        assert (before["model_flops"], before["run_flops"]) == (0, 3 * flops(2))
        assert after["model_flops"] == 5 * own
        assert after["run_flops"] == 3 * flops(2) + 5 * own
    # In the order of the launches: 6 steps, and 5 from the 3rd on.
    assert [each.last_totals["spent_flops"] for each in ledgers(tmp_path)] == [
        6 * flops(2),
        (6 + 5) * flops(2),
    ]
    # The second launch's first checkpoint is its 4th step in the weights.
    assert state_at(tmp_path, 4)["run_flops"] == 4 * flops(2)
    assert state_at(tmp_path, 8)["run_flops"] == 8 * flops(2)
    assert the_record(tmp_path).run_flops == 8 * flops(2)


@pytest.mark.slow
def test_a_crash_between_a_checkpoint_and_the_first_logging_step(fit, tmp_path):
    """The ledger knew of no other rank then, or as little as one interval ago."""
    options = {"log_every": 50, "checkpoint_every": 3}
    crashing = fit(2, 100, **options, halt_at=3, halting=[0, 1])
    kill(crashing, tmp_path, [0, 1])
    [crashed] = ledgers(tmp_path)
    assert crashed.last_totals["model_flops"] == 3 * flops(2)
    finish(fit(2, 5, **options, resume=str(checkpoint(tmp_path, 3))), tmp_path)
    assert the_record(tmp_path).spent_flops == (3 + 2) * flops(2)


def test_rank_0_goes_on_by_itself_and_closes(start, tmp_path):
    port, script = free_port(), Path(rank_workers.__file__)
    ranks = {"WORLD_SIZE": 2, "MASTER_PORT": port}
    left, gone = (
        start([script, "left_by_rank_1_killed", tmp_path], RANK=rank, **ranks) for rank in (0, 1)
    )
    finish([left], tmp_path)
    assert gone.wait(PATIENCE) == -signal.SIGKILL
    result = json.loads((tmp_path / "0.json").read_text())
    assert result["warnings"] == ["rank 1 last reported at step 5"]
    assert result["closing"] < GUARD
    # 20 steps of rank 0, and as many of rank 1 as it had told of.
    assert result["model_flops"] == (20 + 5) * BATCH * FLOPS_PER_EXAMPLE
    (path,) = (tmp_path / "ledger").glob("*.jsonl")
    first = read_ledger(path)
    assert first.last_totals["model_flops"] == result["model_flops"]
    warned = [event.facts["message"] for event in first.events if event.name == "warning"]
    assert warned == result["warnings"]

    finish(
        [start([script, "goes_on_alone", tmp_path], RANK=0, WORLD_SIZE=1, MASTER_PORT=port)],
        tmp_path,
    )
    resumed = json.loads((tmp_path / "0.json").read_text())
    # The checkpoint was made after 10 steps of rank 0.
    assert resumed["run_flops"] == (10 + 5 + 4) * BATCH * FLOPS_PER_EXAMPLE
    assert resumed["spent_flops"] == (20 + 5 + 4) * BATCH * FLOPS_PER_EXAMPLE
