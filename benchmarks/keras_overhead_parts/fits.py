"""What is fitted, with which callbacks, and how long it takes: in the process of a backend."""

from __future__ import annotations

import gc
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.measuring.estimates import SEED
from benchmarks.measuring.running import counted_off

BACKENDS = JAX, TENSORFLOW, TORCH = "jax", "tensorflow", "torch"
LOG_EVERY = 50
LONG = 4  # times the usual epoch, where the queue of steps has to fill

NOTHING, AGAIN, EMPTY = "nothing", "nothing again (A/A)", "an empty Callback"
METER, METER_BY_BATCHES = "ComputeMeter", f"ComputeMeter, log_freq={LOG_EVERY}"
PER_BATCH = "a Callback with on_train_batch_end"
METERS = METER, METER_BY_BATCHES


@dataclass(frozen=True, slots=True)
class Workload:
    """A net, an MLP with `layers` hidden ones, and how it is fitted.

    Attributes:
        target_us: what the meter may add to a step.
        steps: of an epoch; those of all timed epochs together are a multiple of `LOG_EVERY`.
        epochs: that are timed; one more comes first.
        turns: fits of each arm in a round.
    """

    title: str
    features: int
    width: int
    layers: int
    batch: int
    target_us: float
    steps: int
    epochs: int
    turns: int

    def build(self) -> tuple[Any, Any, Any]:
        """Return the compiled net, with the inputs and labels of an epoch."""
        import keras
        import numpy as np

        keras.utils.set_random_seed(SEED)
        hidden = [keras.layers.Dense(self.width, "relu") for _ in range(self.layers)]
        net = keras.Sequential([keras.Input((self.features,)), *hidden, keras.layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.SGD(1e-3), loss)
        chance = np.random.default_rng(SEED)
        inputs = chance.normal(size=(self.steps * self.batch, self.features)).astype("float32")
        return net, inputs, chance.integers(10, size=len(inputs))


WORKLOADS = (
    Workload("tiny MLP", 64, 64, 1, 32, target_us=15, steps=100, epochs=3, turns=3),
    Workload("wide MLP", 256, 1024, 3, 64, target_us=75, steps=25, epochs=2, turns=1),
)


def arms() -> dict[str, Callable[[], list[Any]]]:
    """Return how to make each arm's callbacks."""
    import keras

    from computemeter.keras import ComputeMeter

    def metered(**options: Any) -> list[Any]:
        return [ComputeMeter(verbose=0, ledger=None, trackers=None, **options)]

    found: dict[str, Callable[[], list[Any]]] = {
        NOTHING: list,
        AGAIN: list,
        EMPTY: lambda: [keras.callbacks.Callback()],
        METER: metered,
        METER_BY_BATCHES: partial(metered, log_freq=LOG_EVERY),
    }
    if keras.backend.backend() == JAX:
        found[PER_BATCH] = lambda: [
            keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: None)
        ]
    return found


@dataclass(frozen=True, slots=True)
class Fit:
    """One fit.

    Attributes:
        step_us: a step, median over the timed epochs.
        epoch_end_us: the callbacks' own work at the end of an epoch, the same.
        first_ms: the steps of the first epoch together.
    """

    step_us: float
    epoch_end_us: float
    first_ms: float


class Clock:
    """Two callbacks around all others, which note when an epoch begins and ends."""

    def __init__(self) -> None:
        from keras.callbacks import LambdaCallback

        self._began: list[float] = []
        self._ended: list[float] = []
        self._left: list[float] = []
        note = self._noter
        self.before = LambdaCallback(on_epoch_end=note(self._ended))
        self.after = LambdaCallback(on_epoch_begin=note(self._began), on_epoch_end=note(self._left))

    def read(self, steps: int) -> Fit:
        """Return the times of the fit; the first epoch is apart."""
        whole = [end - begin for begin, end in zip(self._began, self._ended, strict=True)]
        ends = [left - ended for ended, left in zip(self._ended, self._left, strict=True)]
        return Fit(1e6 * median(whole[1:]) / steps, 1e6 * median(ends[1:]), 1e3 * whole[0])

    @staticmethod
    def _noter(times: list[float]) -> Callable[..., None]:
        return lambda *_: times.append(time.perf_counter())


class Bench:
    """A net with its arms, fitted again and again."""

    def __init__(self, workload: Workload) -> None:
        self.workload, self.arms = workload, arms()
        self._net, self._inputs, self._labels = workload.build()
        for arm in self.arms:  # compiled, and everything imported
            self.fit(arm)

    def fit(self, arm: str) -> Fit:
        """Fit with one arm."""
        clock, callbacks = Clock(), self.arms[arm]()
        gc.collect()  # no arm pays for another's garbage
        self._train([clock.before, *callbacks, clock.after], 1 + self.workload.epochs)
        if arm in METERS:
            summary = callbacks[0].summary()
            if not summary.model_flops or summary.warnings:
                raise RuntimeError(f"{arm} failed, and what fails costs nothing: {summary}")
        return clock.read(self.workload.steps)

    def in_flight(self, arm: str) -> float:
        """Return how many steps were dispatched to JAX and not done when one was added.

        The median over a long epoch, but for its beginning, in which the queue fills.
        """
        seen: list[int] = []
        running: deque[Any] = deque()
        usual = self._net.train_function

        def train_function(state: Any, iterator: Any) -> Any:
            while running and running[0].is_ready():
                running.popleft()
            seen.append(len(running))
            logs, state = usual(state, iterator)
            running.append(next(iter(logs.values())))
            return logs, state

        self._net.train_function = train_function
        try:
            self._train(self.arms[arm](), 1, copies=LONG)
        finally:
            self._net.train_function = usual
        return median(seen[len(seen) // 2 :])

    def _train(self, callbacks: list[Any], epochs: int, copies: int = 1) -> None:
        self._net.fit(
            self._inputs.repeat(copies, axis=0),
            self._labels.repeat(copies, axis=0),
            batch_size=self.workload.batch,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )


Rounds = Mapping[str, Mapping[str, Sequence[Fit]]]
"""The fits by workload and arm, in the order of the turns."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a backend's process returns.

    Attributes:
        rounds: by workload and arm.
        in_flight: steps in flight by arm; of JAX only.
    """

    rounds: Rounds
    in_flight: Mapping[str, float]


def measure(backend: str, rounds: int) -> Measured:
    """Run all rounds of one backend."""
    _compute_with_one_thread(backend)
    benches = [Bench(workload) for workload in WORKLOADS]
    found: dict[str, dict[str, list[Fit]]] = {
        bench.workload.title: {arm: [] for arm in bench.arms} for bench in benches
    }
    chance = random.Random(SEED)  # noqa: S311 - an order, not a secret
    turns = [bench for bench in benches for _ in range(bench.workload.turns)]
    for _ in counted_off(rounds, f"{backend}: round"):
        for bench in turns:
            for arm in chance.sample(list(bench.arms), k=len(bench.arms)):
                found[bench.workload.title][arm].append(bench.fit(arm))
    asked = (NOTHING, METER, METER_BY_BATCHES, PER_BATCH) if backend == JAX else ()
    return Measured(found, {arm: benches[-1].in_flight(arm) for arm in asked})


def _compute_with_one_thread(backend: str) -> None:
    # JAX is told by the environment.
    if backend == TENSORFLOW:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
    elif backend == TORCH:
        import torch

        torch.set_num_threads(1)
