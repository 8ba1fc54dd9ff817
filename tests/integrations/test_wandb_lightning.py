"""Beside a WandbLogger a user's own rows are as without the meter, and Lightning's have compute."""

from pathlib import Path

import pytest

wandb = pytest.importorskip("wandb")

from small_runs import BATCH, FLOPS_PER_EXAMPLE  # noqa: E402 - after the check for wandb
from wandb_server import read_back  # noqa: E402

from computemeter.ledger import read_ledger  # noqa: E402
from computemeter.lightning import ComputeMeter  # noqa: E402
from computemeter_wandb import WandbSink  # noqa: E402

STEPS = 50
LONG_AGO = 1e9
"""A time before any test ran: a user may log what happened then."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Have the sink's thread send after every step and not every ten seconds."""
    monkeypatch.setitem(WandbSink.__init__.__kwdefaults__, "interval", 0.001)
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


def in_the_step(run, step, hook):
    if hook == "training_step":
        run.log({"my": step, "_timestamp": step}, step=step)


def after_the_step(run, step, hook):
    if hook == "on_train_batch_end":
        run.log({"my": step, "_timestamp": step}, step=step)


def without_a_step(run, step, hook):
    run.log({hook: step})


def not_at_all(_run, _step, _hook):
    pass


def train(small, user, every, *, metered, own_run=False):
    """Train with a WandbLogger; return the run and where its ledger is."""
    folder = small.folder / ("metered" if metered else "alone")
    folder.mkdir()
    if own_run:  # Lightning then defines no metrics
        wandb.init(project="p", mode="offline", dir=folder)
    logger = small.pl.loggers.WandbLogger(project="p", save_dir=folder, offline=True)
    run = logger.experiment

    class Module(small.Module):
        def training_step(self, batch, batch_idx):
            user(run, self.global_step, "training_step")
            return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, *_):
            user(run, self.global_step, "on_train_batch_end")

    callbacks = [ComputeMeter(verbose=0, ledger=folder)] if metered else []
    trainer = small.trainer(*callbacks, logger=logger, log_every_n_steps=every, max_epochs=1)
    small.pl.seed_everything(1, verbose=False)
    trainer.fit(Module(), small.data(STEPS * BATCH), small.data(BATCH))
    run.finish()
    return read_back(Path(run.dir).parent), folder


def without_compute(found):
    """Return the rows less what the meter put in and when they were logged, unless long ago."""
    return [
        {
            key: "now" if key == "_timestamp" and value > LONG_AGO else value
            for key, value in row.items()
            if not key.startswith("compute/") and key != "_runtime"
        }
        for row in found.history
    ]


@pytest.mark.parametrize(
    ("user", "every"),
    [
        (in_the_step, 1),
        (in_the_step, 10),
        (in_the_step, 50),
        (after_the_step, 1),
        (without_a_step, 10),
        (not_at_all, 1),
    ],
)
@pytest.mark.parametrize("pl", ["lightning.pytorch"], indirect=True)
def test_rows_are_the_twins_and_lightnings_have_the_compute_of_their_step(small, user, every):
    alone, _ = train(small, user, every, metered=False)
    metered, ledger = train(small, user, every, metered=True)
    assert without_compute(metered) == without_compute(alone)
    ours = [row for row in metered.history if "compute/flops" in row]
    steps = list(range(every - 1, STEPS, every))
    assert [row["trainer/global_step"] for row in ours] == steps
    work = BATCH * FLOPS_PER_EXAMPLE
    assert [row["compute/flops"] for row in ours] == [(step + 1) * work for step in steps]
    assert all(row["compute/loss"] == row["loss"] for row in ours)
    (path,) = ledger.glob("*.jsonl")
    told = [line.metrics["compute/pfs_days"] for line in read_ledger(path).progress if line.metrics]
    assert [row["compute/pfs_days"] for row in ours] == told[: len(steps)]


@pytest.mark.parametrize("pl", ["lightning.pytorch"], indirect=True)
def test_a_run_that_the_user_opened(small):
    alone, _ = train(small, in_the_step, 10, metered=False, own_run=True)
    metered, _ = train(small, in_the_step, 10, metered=True, own_run=True)
    assert without_compute(metered) == without_compute(alone)
    assert sum("compute/flops" in row for row in metered.history) == STEPS // 10
    assert metered.metrics["compute/pfs_days"] == "trainer/global_step"


@pytest.mark.parametrize("pl", ["lightning.pytorch"], indirect=True)
def test_where_lightning_logs_no_rows_the_users_take_the_values(small):
    class Silent(small.Module):
        log = lambda *_: None  # noqa: E731

    small.Module = Silent
    metered, _ = train(small, in_the_step, 10, metered=True)
    ours = [(row["my"], row["compute/flops"]) for row in metered.history if "compute/flops" in row]
    # Those of step 9 wait for a row of Lightning's; once those of step 19 come, any row will do.
    work = BATCH * FLOPS_PER_EXAMPLE
    assert ours == [(step + 1, (step + 1) * work) for step in (19, 29, 39)]
    assert metered.summary["compute/flops"] == STEPS * work
