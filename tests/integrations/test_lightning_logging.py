"""What the Lightning callback logs, where and at which steps; where the wall time goes."""

import csv
from pathlib import Path

import pytest
from lightning_fits import fit, meter
from moved_clock import Hands
from small_runs import BATCH, FLOPS_PER_EXAMPLE

from computemeter.clock import TrainingClock
from computemeter.ledger import read_ledger
from computemeter.lightning import ComputeMeter


def test_where_the_wall_time_of_a_fit_goes(small, tmp_path):
    callback, hands = meter(), Hands()

    class Waits(small.Module):
        def training_step(self, *args):
            hands.wait(2)
            return super().training_step(*args)

        def validation_step(self, batch, batch_idx):
            hands.wait(100)

    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                hands.wait(30)
                yield batch

    class Hooks(small.pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            callback._meter._clock = TrainingClock(now=hands)
            callback._meter._clock.begin()
            hands.wait(7)

        def on_train_batch_start(self, *_):
            hands.wait(1)

        def on_save_checkpoint(self, *_):
            hands.wait(50)

    trainer = small.trainer(
        callback,
        Hooks(),
        small.pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2),
        num_sanity_val_steps=0,
        val_check_interval=2,
        enable_checkpointing=True,
    )
    trainer.fit(Waits(), Slow(small.data(4 * BATCH)), small.data(BATCH))
    summary = callback.summary()
    # Four batches of 30 s, four steps of 2 s, a callback's second before each, checkpoints and
    # validation after the second and the fourth step.
    assert summary.host_seconds == pytest.approx(
        {
            "step": 4 * 2,
            "stall": 4 * 30,
            "validation": 2 * 100,
            "checkpoint": 2 * 50,
            "compile": 0,
            "counting": 0,
            "other": 7 + 4 * 1,
        },
        abs=0.1,  # the meter's own work is timed by the real clock
    )
    assert sum(summary.host_seconds.values()) == pytest.approx(summary.wall_seconds, rel=0.01)
    # First step to last: the first batch and what came before it are not training.
    assert summary.training_seconds == 4 * 2 + 3 * 30 + 3 * 1


def test_the_ledger_goes_beside_the_run(small):
    callback = ComputeMeter(verbose=0, trackers=None)
    fit(small, callback, examples=4 * BATCH)
    (file,) = (small.folder / "compute_ledger").glob("*.jsonl")
    ledger = read_ledger(file)
    assert ledger.status == "finished"
    assert ledger.summary["model_flops"] == callback.summary().model_flops
    # The Trainer logs every 2 steps: at its steps 1 and 3.
    assert [record.step for record in ledger.progress] == [1, 3]


def read_csv(logger):
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_values_stand_at_the_trainers_own_steps_beside_its_loss(small, accumulated):
    logger = small.pl.loggers.CSVLogger(small.folder)
    callback = meter(trackers="auto")
    fit(
        small,
        callback,
        examples=9 * accumulated * BATCH,
        logger=logger,
        accumulate_grad_batches=accumulated,
    )
    rows = read_csv(logger)
    ours = {row["step"]: row for row in rows if row["compute/pfs_days"]}
    theirs = {row["step"]: row["loss"] for row in rows if row["loss"]}
    assert set(theirs) <= set(ours)
    # The Trainer's 4 logging steps, and the last step, 8, that it does not log.
    assert sorted(map(int, ours)) == [1, 3, 5, 7, 8]
    for step, row in ours.items():
        done = (int(step) + 1) * accumulated * BATCH
        assert int(float(row["compute/flops"])) == done * FLOPS_PER_EXAMPLE
    if accumulated == 1:
        for step, loss in theirs.items():
            assert float(ours[step]["compute/loss"]) == float(loss)


def test_the_loss_is_the_mean_of_the_accumulated_micro_batches(small):
    losses = []

    class Keeps(small.Module):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(float(loss))
            return loss

    logger = small.pl.loggers.CSVLogger(small.folder)
    fit(
        small,
        meter(trackers="auto"),
        module=Keeps(),
        examples=8 * BATCH,
        logger=logger,
        accumulate_grad_batches=4,
        log_every_n_steps=1,
    )
    logged = [float(row["compute/loss"]) for row in read_csv(logger) if row["compute/loss"]]
    expected = [sum(losses[:4]) / 4, sum(losses[4:]) / 4]
    assert logged == pytest.approx(expected, rel=1e-6)


def test_accumulation_scheduled_by_the_trainer_has_each_value_once(small):
    logged = []

    class Keeps(small.pl.loggers.CSVLogger):
        def log_metrics(self, metrics, step=None):
            if "compute/flops" in metrics:
                logged.append((step, metrics["compute/flops"]))

    scheduler = small.pl.callbacks.GradientAccumulationScheduler({0: 4})
    trainer = small.trainer(
        meter(trackers="auto"), scheduler, logger=Keeps(small.folder), log_every_n_steps=1
    )
    trainer.fit(small.Module(), small.data(8 * BATCH))
    window = 4 * BATCH * FLOPS_PER_EXAMPLE
    assert logged == [(0, window), (1, 2 * window)]
