"""Runs of several processes on this machine: the sum over ranks is the one process's count."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rank_workers
from rank_workers import LIGHTNING_EPOCHS, LIGHTNING_EXAMPLES, SHARES
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS

from computemeter import Meter
from computemeter.ledger import read_ledger

SCRIPT = Path(rank_workers.__file__)
SECONDS = 120
PARAMETERS = INPUTS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**more):
    shared = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **more}
    return {**os.environ, **{name: str(value) for name, value in shared.items()}}


def finish(processes, folder):
    """Wait for all, stop what hangs, and return what they left by rank."""
    deadline = time.monotonic() + SECONDS
    outputs = []
    try:
        for process in processes:
            left = max(1.0, deadline - time.monotonic())
            outputs.append(process.communicate(timeout=left)[0])
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = {int(file.stem): json.loads(file.read_text()) for file in folder.glob("*.json")}
    assert found, "\n".join(outputs)
    return found


def start(command, **more):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(worker, world_size, folder):
    port = free_port()
    processes = [
        start(
            [SCRIPT, worker, folder],
            RANK=rank,
            LOCAL_RANK=rank,
            WORLD_SIZE=world_size,
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in range(world_size)
    ]
    return finish(processes, folder)


def one_process(data, *more):
    """Count the same data in this process alone."""
    model = rank_workers.net(*more)
    with Meter(ledger=None, trackers=None, verbose=0) as meter:
        rank_workers.train(model, data, meter)
    return meter.summary()


def the_ledger(folder):
    [file] = folder.rglob("*.jsonl")
    return read_ledger(file)


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ddp_with_uneven_data(world_size, tmp_path):
    found = run("ddp", world_size, tmp_path)
    shares = SHARES[world_size]
    data = [
        batch
        for rank, share in enumerate(shares)
        for batch in rank_workers.batches(share, seed=rank)
    ]
    alone = one_process(data)
    assert found[0]["model_flops"] == alone.model_flops == sum(shares) * FLOPS_PER_EXAMPLE
    assert found[0]["hardware_flops"] == alone.hardware_flops
    assert found[0]["by_op"] == alone.by_op
    assert found[0]["by_dtype"] == alone.by_dtype
    assert found[0]["samples"] == alone.samples == sum(shares)
    assert found[0]["device_count"] == world_size
    assert found[0]["estimated_steps"] == 0
    assert found[0]["warnings"] == []
    assert all(each["same"] for each in found.values())
    for rank in range(1, world_size):
        assert found[rank]["model_flops"] == shares[rank] * FLOPS_PER_EXAMPLE
        assert found[rank]["device_count"] == 1
        assert f"rank {rank} of {world_size} alone" in found[rank]["warnings"][0]
    ledger = the_ledger(tmp_path)
    assert ledger.last_totals["model_flops"] == ledger.summary["model_flops"] == alone.model_flops
    assert ledger.header.device_count == world_size


def test_fsdp2(tmp_path):
    found = run("fsdp2", 2, tmp_path)
    data = [
        batch for rank in range(2) for batch in rank_workers.batches(2 * BATCH - rank, seed=rank)
    ]
    alone = one_process(data)
    assert found[0]["model_flops"] == alone.model_flops == (4 * BATCH - 1) * FLOPS_PER_EXAMPLE
    assert found[0]["by_op"] == alone.by_op
    assert found[0]["parameters"] == found[1]["parameters"] == alone.parameters == PARAMETERS
    assert found[0]["uncounted_ops"] == {}
    assert found[0]["warnings"] == []
    assert all(each["same"] for each in found.values())


def test_tensor_parallel_where_every_contraction_is_sharded(tmp_path):
    found = run("tensor_parallel", 2, tmp_path)
    alone = one_process(rank_workers.batches(2 * BATCH, seed=0))
    assert found[0]["model_flops"] == alone.model_flops == 2 * BATCH * FLOPS_PER_EXAMPLE
    assert found[1]["model_flops"] == alone.model_flops // 2
    assert found[0]["parameters"] == alone.parameters == PARAMETERS
    assert found[0]["uncounted_ops"] == {}
    assert all(each["same"] for each in found.values())


def test_tensor_parallel_counts_a_replicated_head_on_every_rank(tmp_path):
    found = run("replicated_head", 2, tmp_path)
    alone = one_process(rank_workers.batches(2 * BATCH, seed=0), rank_workers.nn.Linear(4, 4))
    # Forward, the gradient of the weight and that of the input, once more than needed.
    head = 2 * BATCH * 3 * 2 * CLASSES * CLASSES
    # The layer below the head is the same with and without it.
    assert alone.model_flops == 2 * BATCH * FLOPS_PER_EXAMPLE + head
    assert found[0]["model_flops"] == alone.model_flops + head


@pytest.mark.slow
def test_fsdp2_and_tensor_parallel_together(tmp_path):
    found = run("two_dimensions", 4, tmp_path)
    examples = 4 * BATCH - 1
    assert found[0]["model_flops"] == examples * FLOPS_PER_EXAMPLE
    assert found[0]["parameters"] == PARAMETERS
    assert found[0]["samples"] == 2 * examples  # the two ranks of a pair see the same ones
    assert found[0]["uncounted_ops"] == {}
    assert found[0]["warnings"] == []


def test_a_rank_that_is_killed_holds_nobody_up(tmp_path):
    found = run("killed", 2, tmp_path)
    assert list(found) == [0]
    one = found[0]
    # Rank 1 reported at its steps 2 and 4.
    assert one["model_flops"] == (20 + 4) * BATCH * FLOPS_PER_EXAMPLE
    assert one["warnings"] == ["rank 1 last reported at step 4"]
    # A second at one logging step, 5 at the end; the rest is this machine's leisure.
    assert one["slowest"] < 1 + 3
    assert one["closing"] < 5 + 3
    assert the_ledger(tmp_path).summary["model_flops"] == one["model_flops"]


def test_the_rank_with_the_store_is_killed(tmp_path):
    found = run("first_is_killed", 2, tmp_path)
    assert list(found) == [1]
    assert found[1]["closing"] < 3
    assert found[1]["model_flops"] == 20 * BATCH * FLOPS_PER_EXAMPLE
    assert any("exchange failed" in warning for warning in found[1]["warnings"])


def test_a_checkpoint_between_logging_steps_has_the_work_of_all(tmp_path):
    found = run("resumed", 2, tmp_path)
    both = (2 * 5 * BATCH + 1) * FLOPS_PER_EXAMPLE
    assert found[0]["model_flops"] == both
    assert found[0]["run_flops"] == 2 * both


def test_lightning_ddp(tmp_path):
    script = start([SCRIPT, "lightning", tmp_path], MASTER_PORT=free_port())
    found = finish([script], tmp_path)
    alone = one_process(rank_workers.batches(LIGHTNING_EXAMPLES, seed=0))
    assert found[0]["model_flops"] == LIGHTNING_EPOCHS * alone.model_flops
    assert found[0]["samples"] == LIGHTNING_EPOCHS * LIGHTNING_EXAMPLES
    assert found[0]["device_count"] == 2
    assert found[0]["warnings"] == []
    assert found[1]["model_flops"] == found[0]["model_flops"] // 2
    assert all(each["same"] for each in found.values())
    assert the_ledger(tmp_path).summary["model_flops"] == found[0]["model_flops"]


def test_lightning_ddp_in_forked_processes(tmp_path):
    found = finish([start([SCRIPT, "lightning_fork", tmp_path], MASTER_PORT=free_port())], tmp_path)
    alone = one_process(rank_workers.batches(LIGHTNING_EXAMPLES, seed=0))
    assert found[0]["same"]
    summary = the_ledger(tmp_path).summary
    assert summary["model_flops"] == LIGHTNING_EPOCHS * alone.model_flops
    assert summary["device_count"] == 2
    assert summary["warnings"] == []


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_torchrun_on_two_nodes(processes, tmp_path):
    port = free_port()
    agents = [
        start(
            [
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                f"--node-rank={node}",
                f"--nproc-per-node={processes}",
                "--master-addr=127.0.0.1",
                f"--master-port={port}",
                SCRIPT,
                "ddp",
                tmp_path,
            ]
        )
        for node in range(2)
    ]
    found = finish(agents, tmp_path)
    shares = SHARES[2 * processes]
    assert len(found) == 2 * processes
    assert found[0]["model_flops"] == sum(shares) * FLOPS_PER_EXAMPLE
    assert found[0]["samples"] == sum(shares)
    assert found[0]["warnings"] == []
    assert all(each["same"] for each in found.values())
    assert the_ledger(tmp_path).summary["model_flops"] == found[0]["model_flops"]
