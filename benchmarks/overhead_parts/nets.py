"""What is trained, and the feed that hands out its batches in turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Semaphore

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = tuple[Tensor, Tensor]


class Net(pl.LightningModule):
    """Any classifier, with a batch that fits it."""

    # ThroughputMonitor wants to be told; what it says does not change what it costs.
    flops_per_batch = 1_000_000

    def __init__(self, body: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.body, self.batch = body, batch

    def training_step(self, batch: Batch, _: int = 0) -> Tensor:
        return cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def tiny_mlp() -> Net:
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return Net(body, (torch.randn(32, 64), torch.randint(10, (32,))))


def small_transformer() -> Net:
    layer = nn.TransformerEncoderLayer(128, 4, 384, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    body = nn.Sequential(nn.Embedding(512, 128), encoder, nn.Linear(128, 512), nn.Flatten(0, 1))
    tokens = torch.randint(512, (6, 65))
    return Net(body, (tokens[:, :-1], tokens[:, 1:].flatten()))


class Feed:
    """Hands out one batch again and again, in turns, and notes when.

    A step lasts from the fetch of its batch to the next fetch. Between two turns the training
    waits in the fetch, until it is told to go on.
    """

    def __init__(self, batch: Batch, turns: int, steps: int) -> None:
        self.fetched_at: list[list[float]] = []
        self.counted: set[int] = set()
        self.go = Semaphore(0)
        self.back = Semaphore(0)
        self._batch, self._turns, self._steps = batch, turns, steps
        self._fetched = 0

    def __len__(self) -> int:
        return self._turns * self._steps + 1  # the last one only ends the last step

    def __iter__(self) -> Iterator[Batch]:
        now = time.perf_counter
        for _ in range(self._turns):
            self._wait()
            times: list[float] = []
            for _ in range(self._steps):
                self._fetched += 1
                times.append(now())
                yield self._batch
            times.append(now())
            self.fetched_at.append(times)
        self._wait()
        yield self._batch

    def note_count(self) -> None:
        """Remember that the step now running is being counted."""
        self.counted.add(self._fetched - 1)

    def _wait(self) -> None:
        self.back.release()
        self.go.acquire()
