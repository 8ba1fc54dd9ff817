"""How many times as long a step takes with each tool.

Training by training in turns, as `benchmarks/overhead.py` does it and with its code. CodeCarbon
works in a thread that would meet every arm alike: it is timed on whole trainings, one at a time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from lightning import pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.comparison_parts.results import (
    CODECARBON,
    COMPUTEMETER,
    FLOP_COUNTER,
    MONITOR,
    PROFILER,
    TOTAL_FLOS,
    Cost,
    Timed,
)
from benchmarks.comparison_parts.runs import GPT2_RUN, MLP_RUN
from benchmarks.measuring.estimates import SEED, Estimate
from benchmarks.measuring.running import counted_off
from benchmarks.overhead_parts.arms import (
    AGAIN,
    COMPUTE_METER,
    LIGHTNING_ARMS,
    LOG_EVERY,
    NOTHING,
    Train,
    Workload,
    fit,
)
from benchmarks.overhead_parts.nets import Batch, Feed, Net
from benchmarks.overhead_parts.turns import ArmRound, counts_noted, run_rounds
from computemeter import Meter

_EXAMPLES = 4  # of GPT-2, to a batch


class Profiled(Callback):
    """The profiler around all of a fit."""

    def on_train_start(self, *_: Any) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], with_flops=True)
        self._profile.start()

    def on_train_end(self, *_: Any) -> None:
        self._profile.stop()


def elsewhere(net: Net, feed: Feed, folder: Path, *, counts: bool, metered: bool) -> None:
    """Train with Hugging Face's Trainer.

    Args:
        net: whose body is a model of `transformers`.
        feed: of batches.
        folder: for the ledger.
        counts: let it keep its `total_flos`; it cannot be told not to, so that its method is
            replaced.
        metered: give it a `Meter`.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

    meter = Meter(log_every=LOG_EVERY, ledger=folder, trackers=None, verbose=0)

    class Fed(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return _Named(feed)

        def floating_point_ops(self, inputs: Any) -> int:
            return int(super().floating_point_ops(inputs)) if counts else 0

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not metered:
                return super().training_step(model, inputs, *args, **kwargs)
            with meter.step(inputs):
                return super().training_step(model, inputs, *args, **kwargs)

    options = TrainingArguments(
        str(folder),
        max_steps=len(feed),
        logging_steps=LOG_EVERY,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Fed(net.body, options)
    trainer.remove_callback(PrinterCallback)
    with meter if metered else nullcontext():
        trainer.train()


class _Named:
    """A feed whose batches have the names that `transformers` gives them."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __len__(self) -> int:
        return len(self._feed)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return ({"input_ids": tokens, "labels": labels} for tokens, labels in self._feed)


_LIGHTNING: Mapping[str, Train] = {
    **{arm: train for arm, train in LIGHTNING_ARMS.items() if "Callback" not in arm},
    PROFILER: partial(fit, lambda _: [Profiled()]),
}
_ELSEWHERE: Mapping[str, Train] = {
    NOTHING: partial(elsewhere, counts=False, metered=False),
    AGAIN: partial(elsewhere, counts=False, metered=False),
    COMPUTE_METER: partial(elsewhere, counts=False, metered=True),
    TOTAL_FLOS: partial(elsewhere, counts=True, metered=False),
}
_TOOLS = {
    COMPUTE_METER: COMPUTEMETER,
    "Lightning's ThroughputMonitor": MONITOR,
    "PyTorch's FlopCounterMode, every step": FLOP_COUNTER,
    PROFILER: PROFILER,
    TOTAL_FLOS: TOTAL_FLOS,
}


def _gpt2() -> Net:
    return GPT2_RUN.build(_EXAMPLES)


def workloads(turns: float) -> list[Workload]:
    """Return the trainings that go in turns; `turns` is a factor on their number."""
    few, many = round(10 * turns), round(12 * turns)
    return [
        Workload("the MLP in Lightning", MLP_RUN.build, _LIGHTNING, COMPUTE_METER, 0, 50, 1 + few),
        Workload("GPT-2 in Lightning", _gpt2, _LIGHTNING, COMPUTE_METER, 0, 5, 1 + many),
        Workload(
            "GPT-2 in Hugging Face's Trainer", _gpt2, _ELSEWHERE, COMPUTE_METER, 0, 5, 1 + many
        ),
    ]


def in_turns(rounds: int, turns: float) -> list[Timed]:
    """Time all tools but CodeCarbon.

    Args:
        rounds: of all arms.
        turns: factor on the turns of each.
    """
    with counts_noted():
        found = run_rounds(workloads(turns), rounds)
    return [_timed(title, arms) for title, arms in found.items()]


def _timed(title: str, arms: Mapping[str, Sequence[ArmRound]]) -> Timed:
    costs = {arm: _cost([one.ratio for one in rounds]) for arm, rounds in arms.items()}
    return Timed(
        name=title,
        step_ms=median(one.step_us for one in arms[NOTHING]) / 1000,
        again=costs[AGAIN],
        costs={_TOOLS[arm]: cost for arm, cost in costs.items() if arm in _TOOLS},
    )


def _cost(ratios: Sequence[float]) -> Cost:
    found = Estimate.of(ratios)
    return Cost(found.value, found.low, found.high)


class _Stream:
    """Hands out one batch again and again, and notes when it was asked first and last."""

    def __init__(self, batch: Batch, steps: int) -> None:
        self._batch, self._steps = batch, steps
        self.seconds = 0.0

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        began = time.perf_counter()
        for _ in range(self._steps - 1):
            yield self._batch
        self.seconds = time.perf_counter() - began
        yield self._batch  # it only ends the step before


def whole_fits(rounds: int, steps: int) -> Timed:
    """Time CodeCarbon on whole trainings of the MLP, by the mean step.

    It is told to measure each second, since these trainings are shorter than its 15 s.
    """
    shuffle = random.Random(SEED).shuffle  # noqa: S311 - an order, not a secret
    seconds: dict[str, list[float]] = {arm: [] for arm in (NOTHING, AGAIN, CODECARBON)}
    for _ in counted_off(rounds, "whole fits, round"):
        arms = list(seconds)
        shuffle(arms)
        for arm in arms:
            with tracker() if arm == CODECARBON else nullcontext():
                seconds[arm].append(_fit(steps))
    ratios = {
        arm: [mine / plain for mine, plain in zip(taken, seconds[NOTHING], strict=True)]
        for arm, taken in seconds.items()
    }
    return Timed(
        name="the MLP in Lightning, mean of whole fits",
        step_ms=1000 * median(seconds[NOTHING]) / (steps - 1),
        again=_cost(ratios[AGAIN]),
        costs={CODECARBON: _cost(ratios[CODECARBON])},
    )


def tracker() -> AbstractContextManager[object]:
    """Return CodeCarbon's tracker; it starts where it is entered."""
    from codecarbon import OfflineEmissionsTracker

    options: dict[str, Any] = {"measure_power_secs": 1, "save_to_file": False}
    return OfflineEmissionsTracker(country_iso_code="DEU", log_level="critical", **options)


def tracker_start() -> float:
    """Return the seconds that a tracker takes to start; the first of a process looks around."""
    began = time.perf_counter()
    with tracker():
        return time.perf_counter() - began


def _fit(steps: int) -> float:
    """Return the seconds of a training, from its first batch on."""
    net = MLP_RUN.build()
    stream = _Stream(net.batch, steps)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(net, stream)
    return stream.seconds
