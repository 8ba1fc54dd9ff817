"""What the meter costs a Keras training step, measured against doing nothing.

    python benchmarks/keras_overhead.py            # all of it; the machine should be otherwise idle
    python benchmarks/keras_overhead.py --quick    # does it work; prints, writes nothing

Each backend has a process, and each net one model there, compiled once and fitted again and again:
by every arm in turn, in a shuffled order. A fit's first epoch, in which the meter counts, is
apart. In every arm the same two callbacks, one before all others and one after them, read the
clock at the beginning and at the end of an epoch: Keras has waited for the device by then, so an
epoch's time is that of its steps. "Nothing" is there twice: how far it is from itself (A/A) is what
this machine cannot tell apart, and a target within that is "not resolved". One thread computes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"
BACKENDS = JAX, TENSORFLOW, TORCH = "jax", "tensorflow", "torch"
SEED = 20
LOG_EVERY = 50
RESAMPLES = 4000
LONG = 4  # times the usual epoch, where the queue of steps has to fill
LOAD_BEFORE = os.getloadavg()[0]  # of the machine, in the minute before: it should be near 0

NOTHING, AGAIN, EMPTY = "nothing", "nothing again (A/A)", "an empty Callback"
METER, METER_BY_BATCHES = "ComputeMeter", f"ComputeMeter, log_freq={LOG_EVERY}"
PER_BATCH = "a Callback with on_train_batch_end"
METERS = METER, METER_BY_BATCHES

Verdict = Literal["met", "missed", "not resolved"]


# What is trained.


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


# The arms: what is given to a fit.


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


# Measuring, in the process of a backend.


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
    for number in range(rounds):
        print(f"{backend}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
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


def measure_apart(backend: str, rounds: int) -> Measured:
    """Run all rounds of one backend in a fresh process."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    }
    command = [sys.executable, __file__, "--on", backend, "--rounds", str(rounds)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return Measured(
        {
            title: {arm: [Fit(**fit) for fit in fits] for arm, fits in by_arm.items()}
            for title, by_arm in found["rounds"].items()
        },
        found["in_flight"],
    )


# What follows from the rounds.


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over turns with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, measured: Iterable[float]) -> Estimate:
        """Estimate from one value for each turn."""
        values = list(measured)
        chance = random.Random(SEED)  # noqa: S311 - resamples, not secrets
        medians = sorted(median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
        cut = RESAMPLES // 40
        return cls(median(values), medians[cut], medians[-cut - 1])

    def show(self, digits: int = 1, sign: str = "") -> str:
        """Return it with its interval."""
        value, low, high = (f"{x:{sign}.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm over all turns, each against "nothing" in the same turn.

    Attributes:
        step_us: a step.
        ratio: of a step to one of "nothing".
        added_us: their difference.
        epoch_end_added_us: the difference at the end of an epoch, in all and not by step.
        first_added_ms: the difference of the first epoch.
    """

    step_us: float
    ratio: Estimate
    added_us: Estimate
    epoch_end_added_us: Estimate
    first_added_ms: Estimate

    @classmethod
    def of(cls, fits: Sequence[Fit], nothing: Sequence[Fit]) -> ArmResult:
        """Compare turn by turn."""
        pairs = list(zip(fits, nothing, strict=True))
        return cls(
            step_us=median(fit.step_us for fit in fits),
            ratio=Estimate.of(mine.step_us / plain.step_us for mine, plain in pairs),
            added_us=Estimate.of(mine.step_us - plain.step_us for mine, plain in pairs),
            epoch_end_added_us=Estimate.of(
                mine.epoch_end_us - plain.epoch_end_us for mine, plain in pairs
            ),
            first_added_ms=Estimate.of(mine.first_ms - plain.first_ms for mine, plain in pairs),
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A target and what was measured.

    Attributes:
        what: is measured, with its unit.
        most: the target.
        found: the measurement.
        spread: how far "nothing" was from itself, in the same unit.
        verdict: "not resolved" where the interval holds the target, or the spread reaches it.
    """

    what: str
    most: float
    found: Estimate
    spread: float
    verdict: Verdict = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", self._judge())

    def _judge(self) -> Verdict:
        if self.most <= self.spread or self.found.low <= self.most < self.found.high:
            return "not resolved"
        return "met" if self.found.high <= self.most else "missed"


def targets_of(backend: str, workload: Workload, results: Mapping[str, ArmResult]) -> list[Target]:
    """Hold both ways to log against the target."""
    again = results[AGAIN].added_us
    spread = max(abs(again.low), abs(again.high))
    return [
        Target(
            f"{backend}, {workload.title}, {arm}: µs added",
            workload.target_us,
            results[arm].added_us,
            spread,
        )
        for arm in METERS
    ]


# The report.


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured; results by backend, workload and arm."""

    environment: dict[str, str | int]
    targets: list[Target]
    results: dict[str, dict[str, dict[str, ArmResult]]]
    measured: dict[str, Measured]


def environment(rounds: int) -> dict[str, str | int]:
    """Describe the machine and the versions."""
    from computemeter.cpu import cpu_device

    packages = "computemeter", "keras", "jax", "jaxlib", "tensorflow-cpu", "torch"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "cpu": cpu_device().name,
        "cores": os.cpu_count() or 0,
        "computing threads": 1,
        "load before": f"{LOAD_BEFORE:.1f}",
        "rounds": rounds,
    }


_READING = f"""\
All arms fit in turn, and each is compared with the "nothing" of that turn. Medians over the turns;
in brackets the bootstrap 95 % interval. A fit's first epoch is apart: there the meter starts, and
counts. With log_freq={LOG_EVERY} the logging is in the steps, else at the epoch's end.
"""


def as_markdown(report: Report) -> str:
    """Write the report."""
    facts = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    parts = [
        "# What the meter costs under Keras\n",
        f"Written by `benchmarks/keras_overhead.py`: {facts}.\n",
        _READING,
        "## Targets\n",
        _targets_table(report.targets),
    ]
    for backend, by_workload in report.results.items():
        for title, results in by_workload.items():
            parts += [f"## {backend}, {title}\n", _arms_table(results)]
        in_flight = report.measured[backend].in_flight
        if in_flight:
            counts = ", ".join(f"{arm} {count:g}" for arm, count in in_flight.items())
            title = WORKLOADS[-1].title
            parts.append(f"Steps in flight when one is dispatched, {title}, median: {counts}.\n")
    return "\n".join(parts)


def _targets_table(targets: Sequence[Target]) -> str:
    rows = [(t.what, f"{t.most:g}", t.found.show(), f"{t.spread:.1f}", t.verdict) for t in targets]
    return _table(("", "at most", "found", "A/A spread", ""), rows)


def _arms_table(results: Mapping[str, ArmResult]) -> str:
    rows = [
        (
            arm,
            f"{result.step_us:.0f}",
            result.ratio.show(3),
            result.added_us.show(1, "+"),
            result.epoch_end_added_us.show(0, "+"),
            result.first_added_ms.show(0, "+"),
        )
        for arm, result in results.items()
        if arm != NOTHING
    ]
    nothing = (NOTHING, f"{results[NOTHING].step_us:.0f}", "1", "", "", "")
    header = (
        "",
        "µs a step",
        "ratio",
        "µs added",
        "µs added to an epoch's end",
        "ms added to the first epoch",
    )
    return _table(header, [nothing, *rows])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def report_of(rounds: int) -> Report:
    """Measure on every backend."""
    measured = {backend: measure_apart(backend, rounds) for backend in BACKENDS}
    results = {
        backend: {
            title: {arm: ArmResult.of(fits, by_arm[NOTHING]) for arm, fits in by_arm.items()}
            for title, by_arm in found.rounds.items()
        }
        for backend, found in measured.items()
    }
    targets = [
        target
        for backend in BACKENDS
        for workload in WORKLOADS
        for target in targets_of(backend, workload, results[backend][workload.title])
    ]
    return Report(environment(rounds), targets, results, measured)


def main() -> None:
    """Measure and write the results, or be the process of a backend."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10, help="of all arms (default: 10)")
    parser.add_argument("--quick", action="store_true", help="two rounds; write nothing")
    parser.add_argument("--on", choices=BACKENDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be above 0")
    if given.on:
        print(json.dumps(asdict(measure(given.on, given.rounds))))
        return
    report = report_of(2 if given.quick else given.rounds)
    markdown = as_markdown(report)
    print(markdown)
    if not given.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "keras_overhead.md").write_text(markdown, encoding="utf-8")
        text = json.dumps(asdict(report), indent=1)
        (RESULTS / "keras_overhead.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
