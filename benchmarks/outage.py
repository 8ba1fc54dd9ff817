"""What an outage of the tracking server costs the training that logs to it: it should be nothing.

    python benchmarks/outage.py            # all of it; the machine should be otherwise idle
    python benchmarks/outage.py --quick    # does it work; prints, writes nothing

A round starts a real `mlflow server` and three trainings with a Lightning Trainer, each in a
process of its own: one metered, which logs to that server, and two that are not. They take turns of
some steps in an order shuffled for each turn, so that whatever drifts on the machine meets all of
them alike, and what the meter's thread does meets the metered one alone. In the middle the server
is stopped, and started again. Starting it loads the machine for seconds: these turns are apart.
"Nothing" is there twice: how far it is from itself (A/A) is what this machine cannot tell apart.
At the end every point of the ledger is looked for in MLflow. One thread computes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import Any

RESULTS = Path(__file__).parent / "results"
SEED = 20
STEPS = 50  # of a turn; the Trainer logs every 50 steps
WARM_UP = 4  # turns that nobody times: there the meter starts, and counts
RESAMPLES = 2000
LOAD_BEFORE = os.getloadavg()[0]  # of the machine, in the minute before: it should be near 0

NOTHING, AGAIN, METERED = "nothing", "nothing again (A/A)", "ComputeMeter"
ARMS = NOTHING, AGAIN, METERED
BEFORE, DURING, STARTING, AFTER = "before", "during", "the server starts", "after"
PHASES = BEFORE, DURING, STARTING, AFTER

Turn = Mapping[str, Sequence[float]]
"""Seconds of each step, by arm."""


# A training, in a process of its own.


class Feed:
    """Hands out one batch again and again, in turns that the parent gives, and sends their times.

    A step lasts from the fetch of its batch to the next fetch.
    """

    def __init__(self, batch: Any, parent: Connection) -> None:
        self._batch, self._parent = batch, parent

    def __len__(self) -> int:
        return sys.maxsize  # so that nothing is fetched ahead; the parent ends it

    def __iter__(self) -> Iterator[Any]:
        now = time.perf_counter
        while self._parent.recv():
            began, steps = now(), []
            for _ in range(STEPS):
                yield self._batch
                ended = now()
                steps.append(ended - began)
                began = ended
            self._parent.send(steps)


def train(parent: Connection, folder: Path, server: tuple[str, str] | None) -> None:
    """Train for as many turns as the parent gives.

    Args:
        parent: gives the turns.
        folder: for the ledger.
        server: URI and run id to log to; None for no meter.
    """
    import lightning.pytorch as pl
    import torch
    from torch import nn

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10))

        def training_step(self, batch: Any) -> Any:
            return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[] if server is None else [_meter(folder, *server)],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=STEPS,
        logger=False,
        max_epochs=1,
    )
    trainer.fit(Net(), Feed((torch.randn(256, 256), torch.randint(10, (256,))), parent))
    parent.send(None)  # the meter has closed its trackers


def _meter(folder: Path, uri: str, run_id: str) -> Any:
    from computemeter.lightning import ComputeMeter
    from computemeter_mlflow import MLflowSink

    sink = MLflowSink(tracking_uri=uri, run_id=run_id)
    return ComputeMeter(verbose=0, ledger=folder, trackers=[sink])


@contextmanager
def training(folder: Path, server: tuple[str, str] | None) -> Iterator[Connection]:
    """Start a training; yield the end of the pipe through which it is given turns."""
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=train, args=(theirs, folder, server), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


# A round.


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of each phase; the server takes what it takes to start."""

    before: float
    during: float
    after: float


FULL = Plan(20, 30, 45)  # after: long enough for the longest pause between two attempts
QUICK = Plan(3, 4, 8)


@dataclass(frozen=True, slots=True)
class Round:
    """What a round found.

    Attributes:
        turns: by phase.
        points: values that the ledger has.
        delivered: of these, how many MLflow has, as they are.
        doubled: values that MLflow has besides.
        closing_seconds: from the last step to the end of the metered training.
    """

    turns: Mapping[str, Sequence[Turn]]
    points: int
    delivered: int
    doubled: int
    closing_seconds: float


def one_round(plan: Plan, chance: random.Random) -> Round:
    """Run the trainings through one outage."""
    servers = _servers()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(servers.running_server(folder))
        run_id = server.new_run()
        trainings = {
            arm: stack.enter_context(
                training(folder / "ledger", (server.uri, run_id) if arm == METERED else None)
            )
            for arm in ARMS
        }
        turns = _through_the_outage(plan, server, Turns(trainings, chance))
        began = time.perf_counter()
        trainings[METERED].send(False)
        trainings[METERED].recv()
        closing = time.perf_counter() - began
        ledger = servers.points_of(_only_ledger(folder / "ledger"))
        stored = servers.stored(server.client, run_id, ledger)
    found = [_compare(ledger[key], stored[key]) for key in ledger]
    points, delivered, doubled = (sum(each) for each in zip(*found, strict=True))
    return Round(turns, points, delivered, doubled, closing)


class Turns:
    """Gives each training a turn, in an order of chance."""

    def __init__(self, trainings: Mapping[str, Connection], chance: random.Random) -> None:
        self._trainings, self._chance = trainings, chance
        for _ in range(WARM_UP):
            self.take()

    def take(self) -> Turn:
        """Let each train its steps; return their times."""
        found = {}
        for arm in self._chance.sample(list(self._trainings), k=len(self._trainings)):
            self._trainings[arm].send(True)
            found[arm] = self._trainings[arm].recv()
        return found

    def take_while(self, condition: Callable[[], bool]) -> list[Turn]:
        """Take turns for as long as it holds."""
        found = []
        while condition():
            found.append(self.take())
        return found


def _through_the_outage(plan: Plan, server: Any, turns: Turns) -> dict[str, list[Turn]]:
    found = {BEFORE: turns.take_while(_for(plan.before))}
    server.stop(signal.SIGTERM)
    found[DURING] = turns.take_while(_for(plan.during))
    server.launch()
    found[STARTING] = turns.take_while(lambda: not server.answers())
    found[AFTER] = turns.take_while(_for(plan.after))
    return found


def _for(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline


def _servers() -> Any:
    """Import what the tests start servers with."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import mlflow_servers  # type: ignore[import-not-found]

    return mlflow_servers


def _only_ledger(folder: Path) -> Any:
    from computemeter.ledger import read_ledger

    (path,) = folder.glob("*.jsonl")
    return read_ledger(path)


def _compare(ledger: Sequence[Any], stored: Sequence[Any]) -> tuple[int, int, int]:
    there = set(ledger) & set(stored)
    return len(ledger), len(there), len(stored) - len(there)


# What follows from the rounds.


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its bootstrap 95 % interval, over turns."""

    value: float
    low: float
    high: float

    def show(self) -> str:
        """Return it with its interval."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm in one phase, over all rounds.

    Attributes:
        median_us: of a step.
        p99_us: 99 % of the steps took less.
        ratio: of the medians of a turn, to those of "nothing" in the same turn.
        to_before: that ratio to the one before the outage; 1 is "unchanged".
    """

    median_us: float
    p99_us: float
    ratio: Estimate
    to_before: Estimate


def results_of(rounds: Sequence[Round]) -> dict[str, dict[str, ArmResult]]:
    """Compare each arm with "nothing" turn by turn; results by phase and arm."""
    turns = {phase: [turn for each in rounds for turn in each.turns[phase]] for phase in PHASES}
    return {
        phase: {arm: _arm_result(arm, turns[phase], turns[BEFORE]) for arm in ARMS}
        for phase in PHASES
    }


def _arm_result(arm: str, turns: Sequence[Turn], before: Sequence[Turn]) -> ArmResult:
    steps = [1e6 * seconds for turn in turns for seconds in turn[arm]]
    ratios, usual = _ratios(arm, turns), _ratios(arm, before)
    return ArmResult(
        median_us=median(steps),
        p99_us=quantiles(steps, n=100)[-1],
        ratio=_estimate(median, ratios),
        to_before=_estimate(lambda now, then: median(now) / median(then), ratios, usual),
    )


def _ratios(arm: str, turns: Sequence[Turn]) -> list[float]:
    return [median(turn[arm]) / median(turn[NOTHING]) for turn in turns]


def _estimate(statistic: Callable[..., float], *samples: Sequence[float]) -> Estimate:
    chance = random.Random(SEED)  # noqa: S311 - resamples, not secrets
    again = sorted(
        statistic(*(chance.choices(sample, k=len(sample)) for sample in samples))
        for _ in range(RESAMPLES)
    )
    cut = RESAMPLES // 40
    return Estimate(statistic(*samples), again[cut], again[-cut - 1])


# The report.


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured; results by phase and arm."""

    environment: dict[str, str | int]
    plan: Plan
    results: dict[str, dict[str, ArmResult]]
    rounds: list[Round]


def environment(rounds: int) -> dict[str, str | int]:
    """Describe the machine and the versions."""
    from computemeter.cpu import cpu_device

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{each: version(each) for each in ("computemeter", "lightning", "mlflow", "torch")},
        "cpu": cpu_device().name,
        "cores": os.cpu_count() or 0,
        "computing threads": 1,
        "load before": f"{LOAD_BEFORE:.1f}",
        "rounds": rounds,
    }


_READING = """\
Three trainings took turns of {steps} steps, of which the metered one logs one to a real
`mlflow server`. After {plan.before:g} s the server was stopped for {plan.during:g} s and started
again; the training went on for {plan.after:g} s. Ratios are of the medians of a turn, to "nothing"
in the same turn; in brackets the bootstrap 95 % interval over turns. "To before" holds a phase's
ratio against the one before the outage: 1 is unchanged. The metered p99 holds a logging step's
cost, for one step in {steps} logs.
"""


def as_markdown(report: Report) -> str:
    """Write the report."""
    facts = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    return "\n".join(
        [
            "# What an outage of the tracking server costs\n",
            f"Written by `benchmarks/outage.py`: {facts}.\n",
            _READING.format(plan=report.plan, steps=STEPS),
            _phases_table(report.results),
            "## What arrived\n",
            _arrivals_table(report.rounds),
        ]
    )


def _phases_table(results: Mapping[str, Mapping[str, ArmResult]]) -> str:
    rows = [
        (
            phase,
            arm,
            f"{found.median_us:.0f}",
            f"{found.p99_us:.0f}",
            "1" if arm == NOTHING else found.ratio.show(),
            "" if arm == NOTHING or phase == BEFORE else found.to_before.show(),
        )
        for phase, by_arm in results.items()
        for arm, found in by_arm.items()
    ]
    header = ("phase", "", "µs a step, median", "p99", "ratio", "to before")
    return _table(header, rows, left=2)


def _arrivals_table(rounds: Sequence[Round]) -> str:
    rows = [
        (
            str(number),
            str(found.points),
            str(found.delivered),
            str(found.doubled),
            f"{found.closing_seconds:.1f}",
        )
        for number, found in enumerate(rounds, 1)
    ]
    header = ("round", "values in the ledger", "in MLflow", "besides", "s to close")
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3, help="outages (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a short one; write nothing")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be above 0")
    plan, count = (QUICK, 1) if given.quick else (FULL, given.rounds)
    chance = random.Random(SEED)  # noqa: S311 - an order, not a secret
    rounds = []
    for number in range(count):
        print(f"round {number + 1} of {count}", file=sys.stderr, flush=True)
        rounds.append(one_round(plan, chance))
    report = Report(environment(count), plan, results_of(rounds), rounds)
    markdown = as_markdown(report)
    print(markdown)
    if not given.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "outage.md").write_text(markdown, encoding="utf-8")
        text = json.dumps(_without_steps(report), indent=1)
        (RESULTS / "outage.json").write_text(text + "\n", encoding="utf-8")


def _without_steps(report: Report) -> dict[str, Any]:
    """Return the report with each turn's median and slowest step in place of all its steps."""
    plain = asdict(report)
    for found in plain["rounds"]:
        for phase, turns in found["turns"].items():
            found["turns"][phase] = [
                {
                    arm: {"median_us": 1e6 * median(steps), "slowest_us": 1e6 * max(steps)}
                    for arm, steps in turn.items()
                }
                for turn in turns
            ]
    return plain


if __name__ == "__main__":
    main()
