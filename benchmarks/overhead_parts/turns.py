"""Trainings that take turns, and what a round of them shows."""

from __future__ import annotations

import gc
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Thread, local
from unittest import mock

import torch

from benchmarks.measuring.estimates import SEED
from benchmarks.measuring.running import counted_off
from benchmarks.overhead_parts.arms import LOG_EVERY, NOTHING, Train, Workload
from benchmarks.overhead_parts.nets import Feed
from computemeter.counters.torch_counter import TorchCounter

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
    for _ in counted_off(rounds):
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
