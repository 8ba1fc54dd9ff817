"""What is measured once: memory, the import, and a step around nothing."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.parameter import Parameter

from benchmarks.measuring.estimates import Estimate
from benchmarks.overhead_parts.arms import LOG_EVERY
from benchmarks.overhead_parts.nets import tiny_mlp
from computemeter import Meter
from computemeter.counters.torch_counter import TorchCounter
from computemeter.journal import Place


@dataclass(frozen=True, slots=True)
class Growth:
    """How much memory a process took between a tenth of its steps and all of them.

    Attributes:
        steps: metered, with a logging step in every `LOG_EVERY`.
        rss_mib: of resident memory.
        blocks: of the Python allocator.
        us_per_step: what such a step took, logging included.
        ledger_mib: what the ledger took on disk, of all steps.
    """

    steps: int
    rss_mib: float
    blocks: int
    us_per_step: float
    ledger_mib: float


class FakeArray:
    """All that the meter looks at in a batch."""

    dtype = "float32"

    def __init__(self, *shape: int) -> None:
        self.shape = shape


def memory_growth(steps: int) -> Growth:
    """Meter steps in which next to nothing happens; run it in a process of its own."""
    logging.disable()  # a run of such steps is suspect, and says so
    matrix = torch.ones(2, 2)
    batches = [[FakeArray(32, width), FakeArray(32)] for width in range(1, 9)]
    at = {steps // 10 - 1: (0.0, 0), steps - 1: (0.0, 0)}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with Meter(log_every=LOG_EVERY, ledger=folder, trackers=None, verbose=0) as meter:
            for step in range(steps):
                with meter.step(batches[step % 8]):
                    matrix @ matrix
                if step in at:
                    gc.collect()
                    at[step] = (_rss_mib(), sys.getallocatedblocks())
        seconds = time.perf_counter() - began
        ledger = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
    (rss_before, blocks_before), (rss, blocks) = at.values()
    return Growth(steps, rss - rss_before, blocks - blocks_before, 1e6 * seconds / steps, ledger)


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_growth_apart(steps: int) -> Growth:
    """Measure in a fresh process, whose memory holds nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(memory_growth, steps).result()


def import_seconds(times: int) -> Estimate:
    """Time `import computemeter` beyond what the interpreter takes to start."""

    def start(statement: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - began

    start("import computemeter")  # compiled, and in the page cache
    return Estimate.of([-start("import sys") + start("import computemeter") for _ in range(times)])


def step_alone(parameters: int, times: int = 20, calls: int = 500) -> float:
    """Time `Meter.step` around nothing, in µs: the least it can cost, as caches stay warm."""
    model = nn.ParameterList([Parameter(torch.zeros(1)) for _ in range(parameters)])
    meter = Meter(ledger=None, trackers=None, verbose=0)
    meter.attach(TorchCounter(model, torch.device("cpu")), Place())
    batch = tiny_mlp().batch

    def both() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            with meter.step(batch, (True, False)):
                pass
        return 1e6 * (time.perf_counter() - began) / calls

    both()
    return median(both() for _ in range(times))
