"""An outage, with trainings before it, in it and after it."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring.running import module_of_the_tests
from benchmarks.outage_parts.trainings import Turn, Turns, training

NOTHING, AGAIN, METERED = "nothing", "nothing again (A/A)", "ComputeMeter"
ARMS = NOTHING, AGAIN, METERED
BEFORE, DURING, STARTING, AFTER = "before", "during", "the server starts", "after"
PHASES = BEFORE, DURING, STARTING, AFTER


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
    servers = module_of_the_tests("mlflow_servers")
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


def _only_ledger(folder: Path) -> Any:
    from computemeter.ledger import read_ledger

    (path,) = folder.glob("*.jsonl")
    return read_ledger(path)


def _compare(ledger: Sequence[Any], stored: Sequence[Any]) -> tuple[int, int, int]:
    there = set(ledger) & set(stored)
    return len(ledger), len(there), len(stored) - len(there)
