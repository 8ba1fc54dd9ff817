"""Each tool on a training, in the lines that its documentation asks of a user.

Each function is `plain`, or `plain_elsewhere`, and what the tool needs: how many lines that is, is
counted in its source. What it returns is what the tool says of the whole run.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning import pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.comparison_parts.results import (
    CODECARBON,
    COMPUTEMETER,
    FLOP_COUNTER,
    MONITOR,
    PROFILER,
    TOTAL_FLOS,
    Counted,
)
from benchmarks.comparison_parts.runs import BATCH, Layer, Run
from benchmarks.overhead_parts.nets import Batch, Net

POINTWISE = frozenset({"aten::add", "aten::mul"})


@dataclass(frozen=True, slots=True)
class Job:
    """A run, ready to be trained once.

    Attributes:
        run: which one.
        module: for Lightning's Trainer.
        data: its batches.
    """

    run: Run
    module: Net
    data: DataLoader[Batch]

    @classmethod
    def of(cls, run: Run) -> Job:
        """Make one, with the same weights each time."""
        return cls(run, run.build(), run.loader())

    def trainer(self, **options: Any) -> pl.Trainer:
        """Return a Trainer of Lightning for one epoch."""
        return pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            accumulate_grad_batches=self.run.accumulate,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )

    def options(self) -> Any:
        """Return what Hugging Face's Trainer is told."""
        from transformers import TrainingArguments

        return TrainingArguments(
            "trainer",
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=self.run.accumulate,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )

    def rows(self) -> list[dict[str, Tensor]]:
        """Return the data as Hugging Face's Trainer takes it."""
        return [{"input_ids": x, "labels": y} for x, y in zip(*self.run.tensors(), strict=True)]


def plain(job: Job) -> None:
    trainer = job.trainer()
    trainer.fit(job.module, job.data)


def computemeter(job: Job) -> tuple[int | None, int | None]:
    from computemeter.lightning import ComputeMeter

    meter = ComputeMeter()
    trainer = job.trainer(callbacks=[meter])
    trainer.fit(job.module, job.data)
    return meter.summary().model_flops, meter.summary().hardware_flops


def throughput_monitor(job: Job) -> int:
    """Do as its docstring says; it logs a rate, so that the total is left to the user."""
    from lightning.fabric.utilities.throughput import measure_flops
    from lightning.pytorch.callbacks import ThroughputMonitor

    with torch.device("meta" if job.run.on_meta else "cpu") as device:
        model = job.run.build()
        sample = (model.batch[0].to(device), model.batch[1].to(device))
        flops = measure_flops(model, lambda: model.training_step(sample), torch.Tensor.sum)
        job.module.flops_per_batch = flops
    monitor = ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]))
    trainer = job.trainer(callbacks=[monitor])
    trainer.fit(job.module, job.data)
    return flops * len(job.data)


def flop_counter_mode(job: Job) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    trainer = job.trainer()
    with FlopCounterMode(display=False) as mode:
        trainer.fit(job.module, job.data)
    return int(mode.get_total_flops())


def profiler(job: Job) -> int:
    """Leave out the two pointwise operators that it counts beside products and convolutions."""
    from torch.profiler import ProfilerActivity, profile

    trainer = job.trainer()
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as found:
        trainer.fit(job.module, job.data)
    return sum(int(each.flops) for each in found.key_averages() if each.key not in POINTWISE)


def codecarbon(job: Job) -> tuple[float, float, float]:
    """Return kWh of electricity, and the watts that it took processor and memory to draw."""
    from codecarbon import OfflineEmissionsTracker

    trainer = job.trainer()
    with OfflineEmissionsTracker(country_iso_code="DEU", log_level="critical") as tracker:
        trainer.fit(job.module, job.data)
    data = tracker.final_emissions_data
    return data.energy_consumed, data.cpu_power, data.ram_power


def plain_elsewhere(job: Job) -> None:
    from transformers import Trainer

    trainer = Trainer(job.module.body, job.options(), train_dataset=job.rows())
    trainer.train()


def total_flos(job: Job) -> int:
    from transformers import Trainer

    trainer = Trainer(job.module.body, job.options(), train_dataset=job.rows())
    trainer.train()
    return int(trainer.state.total_flos)


def computemeter_elsewhere(job: Job) -> int | None:
    from transformers import Trainer

    from computemeter import Meter

    class MeteredTrainer(Trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            with meter.step(inputs):
                return super().training_step(model, inputs, *args, **kwargs)

    trainer = MeteredTrainer(job.module.body, job.options(), train_dataset=job.rows())
    with Meter() as meter:
        trainer.train()
    return meter.summary().model_flops


COUNTERS: Mapping[str, Callable[[Job], int]] = {
    MONITOR: throughput_monitor,
    FLOP_COUNTER: flop_counter_mode,
    PROFILER: profiler,
}


def count(run: Run) -> Counted:
    """Train once with each tool; each training is the same."""
    model_flops, as_run = computemeter(Job.of(run))
    if model_flops is None or as_run is None:
        raise RuntimeError(f"{run.name}: computemeter has no count")
    answers = {COMPUTEMETER: model_flops}
    answers |= {tool: use(Job.of(run)) for tool, use in COUNTERS.items()}
    elsewhere = None
    if run.is_language_model:
        answers[TOTAL_FLOS] = total_flos(Job.of(run))
        elsewhere = computemeter_elsewhere(Job.of(run))
    return Counted(
        name=run.name,
        model_flops=run.model_flops,
        as_run_flops=run.as_run_flops,
        layers=tuple(map(_in_words, run.layers)),
        answers=answers,
        disclaimed=(MONITOR,) if run.examples % BATCH else (),
        meter_as_run=as_run,
        meter_elsewhere=elsewhere,
    )


def _in_words(layer: Layer) -> str:
    again = f" + {layer.again:,}" if layer.again else ""
    return f"{layer.name}: {layer.forward:,} x {layer.passes}{again}"


def lines() -> dict[str, int]:
    """Count for each tool the lines of `lines_added`."""
    in_lightning = {COMPUTEMETER: computemeter, CODECARBON: codecarbon, **COUNTERS}
    found = {tool: lines_added(use, plain) for tool, use in in_lightning.items()}
    return {**found, TOTAL_FLOS: lines_added(total_flos, plain_elsewhere)}


def lines_added(use: Callable[[Job], object], base: Callable[[Job], object]) -> int:
    """Count the lines that a tool adds to a training script, or changes in it.

    Reading the result is one of them; how far a line is indented does not matter.
    """
    known = _lines(base)
    return sum(line not in known for line in _lines(use))


def _lines(use: Callable[[Job], object]) -> list[str]:
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(use))).body
    assert isinstance(function, ast.FunctionDef)
    documented = ast.get_docstring(function) is not None
    body = ast.Module(function.body[documented:], [])
    return [line.strip() for line in ast.unparse(body).splitlines() if line.strip()]
