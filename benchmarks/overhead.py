"""What the meter costs a training step, measured against doing nothing.

    python benchmarks/overhead.py            # all of it; the machine should be otherwise idle
    python benchmarks/overhead.py --quick    # does it work; prints, writes nothing

A round starts one training for each arm and lets them take turns of some steps, in an order
shuffled for each turn: whatever drifts on the machine meets every arm alike. Only the training
whose turn it is runs. Time is taken where a batch is fetched, by the same lines in every arm, and
compared within a turn. "Nothing" is there twice: how far it is from itself (A/A) is what this
machine cannot tell apart, and a target within that is "not resolved". One thread computes.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Semaphore, Thread, local
from typing import Any, Literal
from unittest import mock

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ThroughputMonitor
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import Parameter
from torch.utils.flop_counter import FlopCounterMode

from computemeter import Meter
from computemeter.counters.torch_counter import TorchCounter
from computemeter.devices import torch_device
from computemeter.journal import Place
from computemeter.lightning import ComputeMeter

RESULTS = Path(__file__).parent / "results"
SEED = 20
LOG_EVERY = 50  # the default of Lightning and of `Meter`
RESAMPLES = 4000
LOAD_BEFORE = os.getloadavg()[0]  # of the machine, in the minute before: it should be near 0

NOTHING, AGAIN = "nothing", "nothing again (A/A)"
COMPUTE_METER, METER = "ComputeMeter", "Meter"

Verdict = Literal["met", "missed", "not resolved"]
Batch = tuple[Tensor, Tensor]


# What is trained.


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


# The arms: each trains a net on all that a feed has.

Train = Callable[[Net, Feed, Path], None]


class Quiet(Logger):
    """A logger that costs nothing, so that Lightning's logging steps are in every arm."""

    name = "quiet"
    version = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        pass


class StockCounter(Callback):
    """PyTorch's own counter around every step, as users put it there."""

    def on_train_batch_start(self, *_: Any) -> None:
        self._mode = FlopCounterMode(display=False)
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, *_: Any) -> None:
        self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._mode.get_total_flops()


def fit(callbacks: Callable[[Path], list[Callback]], net: Net, feed: Feed, folder: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        callbacks=callbacks(folder),
        logger=Quiet(),
        log_every_n_steps=LOG_EVERY,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, feed)


def plain_loop(net: Net, feed: Feed, _: Path) -> None:
    step = _stepper(net)
    for batch in feed:
        step(batch)


def metered_loop(net: Net, feed: Feed, folder: Path) -> None:
    step = _stepper(net)
    with Meter(log_every=LOG_EVERY, ledger=folder, trackers=None, verbose=0) as meter:
        for batch in feed:
            with meter.step(batch):
                step(batch)


def _stepper(net: Net) -> Callable[[Batch], None]:
    optimizer = net.configure_optimizers()

    def step(batch: Batch) -> None:
        loss = net.training_step(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


LIGHTNING_ARMS: Mapping[str, Train] = {
    NOTHING: partial(fit, lambda _: []),
    AGAIN: partial(fit, lambda _: []),
    "an empty Callback": partial(fit, lambda _: [Callback()]),
    COMPUTE_METER: partial(
        fit, lambda folder: [ComputeMeter(ledger=folder, trackers=None, verbose=0)]
    ),
    "Lightning's ThroughputMonitor": partial(
        fit, lambda _: [ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]))]
    ),
    "PyTorch's FlopCounterMode, every step": partial(fit, lambda _: [StockCounter()]),
}
LOOP_ARMS: Mapping[str, Train] = {NOTHING: plain_loop, AGAIN: plain_loop, METER: metered_loop}


@dataclass(frozen=True, slots=True)
class Workload:
    """A training to be run with each arm.

    Attributes:
        title: of its table.
        build: makes the net, with the same weights each time.
        arms: by name.
        meter: which arm is the meter.
        target_us: what the meter may add to a step.
        steps: of one turn; they divide `LOG_EVERY` or are a multiple of it.
        turns: in one round; the first is the warm-up.
    """

    title: str
    build: Callable[[], Net]
    arms: Mapping[str, Train]
    meter: str
    target_us: float
    steps: int
    turns: int


WORKLOADS = (
    Workload("tiny MLP, Lightning", tiny_mlp, LIGHTNING_ARMS, COMPUTE_METER, 15, 50, 16),
    Workload("transformer, Lightning", small_transformer, LIGHTNING_ARMS, COMPUTE_METER, 75, 5, 21),
    Workload("tiny MLP, plain loop", tiny_mlp, LOOP_ARMS, METER, 15, 50, 31),
)


# Measuring.

_THIS = local()  # the feed of the training that runs in this thread


class Training(Thread):
    """A training in a thread of its own, which stands still unless it has its turn."""

    def __init__(self, train: Train, workload: Workload, folder: Path) -> None:
        super().__init__(daemon=True)
        torch.manual_seed(SEED)
        self._net = workload.build()
        self._train, self._folder = train, folder
        self._error: BaseException | None = None
        self.feed = Feed(self._net.batch, workload.turns, workload.steps)
        self.start()
        self._wait()

    def run(self) -> None:
        """Train, in the thread."""
        torch.set_num_threads(1)  # each thread has its own number
        _THIS.feed = self.feed
        try:
            self._train(self._net, self.feed, self._folder)
        except BaseException as error:  # noqa: BLE001 - raised where the thread is waited for
            self._error = error
        finally:
            self.feed.back.release()

    def take_turn(self) -> None:
        """Let it train until its turn is over, or until its end."""
        gc.collect(1)  # no arm pays for another's garbage
        self.feed.go.release()
        self._wait()

    def _wait(self) -> None:
        self.feed.back.acquire()
        if self._error is not None:
            raise self._error


@dataclass(frozen=True, slots=True)
class Turn:
    """The step times of one turn in microseconds.

    Attributes:
        step: median of the steps that were neither counted nor logged.
        logging: the step that logs; None where there is none, or it was counted.
        counted: the counted steps.
    """

    step: float
    logging: float | None
    counted: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ArmRound:
    """One arm in one round, against "nothing" in the same turns; medians over the turns.

    Attributes:
        step_us: a step.
        ratio: of a step to one of "nothing".
        added_us: their difference.
        logging_added_us: the same for the steps that log; None where these were counted.
        counted_ratio: of a counted step to a plain one of "nothing"; None where none was counted.
    """

    step_us: float
    ratio: float
    added_us: float
    logging_added_us: float | None
    counted_ratio: float | None

    @property
    def added_in_all_us(self) -> float | None:
        """What the arm adds to a step, the logging steps' share included."""
        if self.logging_added_us is None:
            return None
        return self.added_us + (self.logging_added_us - self.added_us) / LOG_EVERY

    @classmethod
    def of(cls, turns: Sequence[Turn], nothing: Sequence[Turn]) -> ArmRound:
        pairs = list(zip(turns, nothing, strict=True))
        return cls(
            step_us=median(mine.step for mine in turns),
            ratio=median(mine.step / plain.step for mine, plain in pairs),
            added_us=median(mine.step - plain.step for mine, plain in pairs),
            logging_added_us=_median(
                mine.logging - plain.logging
                for mine, plain in pairs
                if mine.logging is not None and plain.logging is not None
            ),
            counted_ratio=_median(us / plain.step for mine, plain in pairs for us in mine.counted),
        )


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None


def one_round(workload: Workload, shuffle: Callable[[list[str]], None]) -> dict[str, ArmRound]:
    """Train with each arm, turn by turn."""
    arms = list(workload.arms)
    with tempfile.TemporaryDirectory() as folder:
        shuffle(arms)
        trainings = {arm: Training(workload.arms[arm], workload, Path(folder)) for arm in arms}
        for _ in range(workload.turns + 1):  # in the last one they come to their end
            shuffle(arms)
            for arm in arms:
                trainings[arm].take_turn()
        for training in trainings.values():
            training.join()
    if not trainings[workload.meter].feed.counted:
        raise RuntimeError(f"{workload.title}: the meter counted no step; what fails costs nothing")
    turns = {arm: _turns(trainings[arm].feed)[1:] for arm in workload.arms}
    return {arm: ArmRound.of(mine, turns[NOTHING]) for arm, mine in turns.items()}


def _turns(feed: Feed) -> list[Turn]:
    turns: list[Turn] = []
    step = 0
    for times in feed.fetched_at:
        durations = {
            step + i: 1e6 * (end - begin) for i, (begin, end) in enumerate(pairwise(times))
        }
        step += len(durations)
        turns.append(_turn(durations, feed.counted))
    return turns


def _turn(durations: Mapping[int, float], counted: AbstractSet[int]) -> Turn:
    def logs(step: int) -> bool:
        return (step + 1) % LOG_EVERY == 0

    plain = {step: us for step, us in durations.items() if step not in counted}
    return Turn(
        step=median(us for step, us in plain.items() if not logs(step)),
        logging=next((us for step, us in plain.items() if logs(step)), None),
        counted=tuple(us for step, us in durations.items() if step in counted),
    )


def run_rounds(workloads: Sequence[Workload], rounds: int) -> dict[str, dict[str, list[ArmRound]]]:
    """Run all rounds; return them by workload and arm."""
    found: dict[str, dict[str, list[ArmRound]]] = {
        workload.title: {arm: [] for arm in workload.arms} for workload in workloads
    }
    shuffle = random.Random(SEED).shuffle  # noqa: S311 - an order, not a secret
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for workload in workloads:
            gc.collect()
            for arm, result in one_round(workload, shuffle).items():
                found[workload.title][arm].append(result)
    return found


@contextmanager
def counts_noted() -> Iterator[None]:
    """Tell the feeds which of their steps are counted."""
    start = TorchCounter.start

    def noted(counter: TorchCounter, batch: object = None) -> None:
        _THIS.feed.note_count()
        start(counter, batch)

    with mock.patch.object(TorchCounter, "start", noted):
        yield


# What follows from the rounds.


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over rounds with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, measured: Iterable[float | None]) -> Estimate:
        values = [value for value in measured if value is not None]
        chance = random.Random(SEED)  # noqa: S311 - resamples, not secrets
        medians = sorted(median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
        cut = RESAMPLES // 40
        return cls(median(values), medians[cut], medians[-cut - 1])

    def show(self, digits: int = 1, sign: str = "") -> str:
        value, low, high = (f"{x:{sign}.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm over all rounds; see `ArmRound`."""

    step_us: float
    ratio: Estimate
    added_us: Estimate
    added_in_all_us: Estimate
    logging_added_us: Estimate
    counted_ratio: Estimate | None

    @classmethod
    def of(cls, rounds: Sequence[ArmRound]) -> ArmResult:
        counted = [one.counted_ratio for one in rounds]
        return cls(
            step_us=median(one.step_us for one in rounds),
            ratio=Estimate.of([one.ratio for one in rounds]),
            added_us=Estimate.of([one.added_us for one in rounds]),
            added_in_all_us=Estimate.of([one.added_in_all_us for one in rounds]),
            logging_added_us=Estimate.of([one.logging_added_us for one in rounds]),
            counted_ratio=Estimate.of(counted) if any(counted) else None,
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


def targets_of(workload: Workload, results: Mapping[str, ArmResult]) -> list[Target]:
    meter, again = results[workload.meter], results[AGAIN]
    most, title = workload.target_us, workload.title
    found = [
        Target(f"{title}: µs added", most, meter.added_us, _spread(again.added_us)),
        Target(
            f"{title}: µs added, with the share of the logging",
            most,
            meter.added_in_all_us,
            _spread(again.added_in_all_us),
        ),
    ]
    if meter.counted_ratio:
        spread = _spread(again.added_us) / results[NOTHING].step_us
        found.append(Target(f"{title}: counted step / plain", 4.0, meter.counted_ratio, spread))
    return found


def _spread(again: Estimate) -> float:
    return max(abs(again.low), abs(again.high))


# What is measured once.


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


# The report.


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured."""

    environment: dict[str, str | int]
    workloads: dict[str, dict[str, ArmResult]]
    targets: list[Target]
    growth: Growth
    step_alone_us: dict[int, float]
    rounds: dict[str, dict[str, list[ArmRound]]]


def environment(rounds: int) -> dict[str, str | int]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "cpu": torch_device("cpu").name,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "load before": f"{LOAD_BEFORE:.1f}",
        "rounds": rounds,
    }


_READING = """\
All arms of a round take turns; each is compared with the "nothing" of the same turns. Medians over
the rounds; in brackets the bootstrap 95 % interval. Counted steps are apart, and so are the steps
that log, one in 50, unless it says otherwise.
"""


def as_markdown(report: Report) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    parts = [
        "# What the meter costs\n",
        f"Written by `benchmarks/overhead.py`: {facts}.\n",
        _READING,
        "## Targets\n",
        _targets_table(report.targets),
        _growth_line(report.growth),
    ]
    for title, results in report.workloads.items():
        parts += [f"## {title}\n", _arms_table(results)]
    parts += ["## `Meter.step` around nothing, caches warm\n", _alone_table(report)]
    return "\n".join(parts)


def _targets_table(targets: Sequence[Target]) -> str:
    rows = [
        (t.what, f"{t.most:g}", t.found.show(_digits(t)), f"{t.spread:.{_digits(t)}f}", t.verdict)
        for t in targets
    ]
    return _table(("", "at most", "found", "A/A spread", ""), rows)


def _digits(target: Target) -> int:
    return 1 if target.most > 4 else 3


def _growth_line(growth: Growth) -> str:
    return (
        f"Memory over {growth.steps:,} metered steps, from a tenth of them to the end: "
        f"{growth.rss_mib:+.2f} MiB resident, {growth.blocks:+,} Python blocks "
        f"({growth.us_per_step:.1f} µs a step, logging included; {growth.ledger_mib:.1f} MiB of "
        f"ledger, a record for every {LOG_EVERY} steps).\n"
    )


def _arms_table(results: Mapping[str, ArmResult]) -> str:
    rows = [
        (
            arm,
            f"{result.step_us:.0f}",
            result.ratio.show(3),
            result.added_us.show(1, "+"),
            result.added_in_all_us.show(1, "+"),
            f"{result.logging_added_us.value:+.0f}",
            result.counted_ratio.show(2) if result.counted_ratio else "",
        )
        for arm, result in results.items()
        if arm != NOTHING
    ]
    nothing = (NOTHING, f"{results[NOTHING].step_us:.0f}", "1", "", "", "", "")
    header = (
        "",
        "µs a step",
        "ratio",
        "µs added",
        "with the share of the logging",
        "to a logging step",
        "counted step, ratio",
    )
    return _table(header, [nothing, *rows])


def _alone_table(report: Report) -> str:
    rows = [(str(count), f"{us:.1f}") for count, us in report.step_alone_us.items()]
    return _table(("parameters", "µs"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def measure(rounds: int, turns: float, quick: bool) -> Report:
    """Measure everything.

    Args:
        rounds: of all workloads and arms.
        turns: factor on the turns of each round.
        quick: take few repeats of what is measured once.
    """
    workloads = [
        replace(w, turns=1 + max(_fewest_turns(w), round(turns * (w.turns - 1)))) for w in WORKLOADS
    ]
    with counts_noted():
        found = run_rounds(workloads, rounds)
    results = {
        title: {arm: ArmResult.of(mine) for arm, mine in arms.items()}
        for title, arms in found.items()
    }
    targets = [target for w in workloads for target in targets_of(w, results[w.title])]
    growth = memory_growth_apart(20_000 if quick else 1_000_000)
    targets += [
        Target("memory: MiB", 1.0, Estimate.of([growth.rss_mib]), 0.0),
        Target("`import computemeter`: s", 0.1, import_seconds(3 if quick else 25), 0.0),
    ]
    return Report(
        environment=environment(rounds),
        workloads=results,
        targets=targets,
        growth=growth,
        step_alone_us={count: step_alone(count) for count in (0, 10, 600)},
        rounds=found,
    )


def _fewest_turns(workload: Workload) -> int:
    """As many as a logging step takes to come round."""
    return max(1, LOG_EVERY // workload.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20, help="of all arms (default: 20)")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the steps (default: 1)")
    parser.add_argument("--quick", action="store_true", help="two short rounds; write nothing")
    given = parser.parse_args()
    if given.rounds < 1 or given.steps <= 0:
        parser.error("--rounds and --steps must be above 0")
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rounds, steps = (2, 0.25) if given.quick else (given.rounds, given.steps)
    report = measure(rounds, steps, given.quick)
    markdown = as_markdown(report)
    print(markdown)
    if not given.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "overhead.md").write_text(markdown, encoding="utf-8")
        text = json.dumps(asdict(report), indent=1)
        (RESULTS / "overhead.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
