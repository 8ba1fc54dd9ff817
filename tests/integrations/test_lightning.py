"""The Lightning callback in real Trainers of both namespaces."""

import csv
import logging
import math
from pathlib import Path

import pytest
import torch
from small_runs import BATCH, FLOPS_PER_EXAMPLE, INPUTS
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from computemeter.clock import TrainingClock
from computemeter.ledger import read_ledger
from computemeter.lightning import ComputeMeter
from computemeter_lightning._callback import _UNUSED_BATCH_HOOKS


def meter(**options):
    return ComputeMeter(**{"trackers": None, "ledger": None, "verbose": 0, **options})


def fit(small, callback, *, examples=5 * BATCH + 3, module=None, validation=None, **options):
    trainer = small.trainer(callback, **options)
    trainer.fit(module or small.Module(), small.data(examples), validation)
    return trainer


def assert_nothing_left(trainer):
    loop = trainer.fit_loop.epoch_loop
    assert "run" not in vars(loop.automatic_optimization)
    assert "run" not in vars(loop.manual_optimization)
    assert "save_checkpoint" not in vars(trainer)
    assert _get_current_dispatch_mode() is None


def test_counts_every_example_and_the_partial_last_batch(small):
    callback = meter()
    trainer = fit(small, callback, examples=5 * BATCH + 3, max_epochs=3)
    summary = callback.summary()
    assert summary.steps == 3 * 6
    assert summary.samples == 3 * (5 * BATCH + 3)
    assert summary.model_flops == 3 * (5 * BATCH + 3) * FLOPS_PER_EXAMPLE
    assert summary.hardware_flops == summary.model_flops
    assert summary.estimated_steps == 0
    assert summary.counted_steps + summary.predicted_steps == summary.steps
    assert summary.warnings == ()
    assert_nothing_left(trainer)


def test_parameters_are_the_modules(small):
    callback, module = meter(), small.Module()
    module.net[0].bias.requires_grad_(False)
    fit(small, callback, module=module)
    # 12*16 + 16 and 16*4 + 4, and 16 of them frozen.
    assert callback.summary().parameters == 276
    assert callback.summary().trainable_parameters == 260


def test_sanity_check_and_validation_are_no_training(small):
    callback = meter()
    trainer = fit(
        small,
        callback,
        examples=4 * BATCH,
        validation=small.data(10 * BATCH),
        val_check_interval=2,
        num_sanity_val_steps=2,
    )
    assert trainer.fit_loop.epoch_loop.val_loop is not None
    assert callback.summary().steps == 4
    assert callback.summary().model_flops == 4 * BATCH * FLOPS_PER_EXAMPLE


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


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds


def test_gradient_accumulation_counts_micro_batches(small):
    callback = meter()
    fit(small, callback, examples=7 * BATCH, accumulate_grad_batches=3)
    assert callback.summary().steps == 7
    assert callback.summary().model_flops == 7 * BATCH * FLOPS_PER_EXAMPLE


def test_an_epoch_ended_by_minus_one(small):
    class Stops(small.Module):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == 2 else None

    callback = meter()
    trainer = fit(small, callback, module=Stops(), max_epochs=2)
    assert callback.summary().steps == 2 * 2
    assert callback.summary().warnings == ()
    assert_nothing_left(trainer)


def test_batches_that_are_none(small):
    callback = meter()
    trainer = small.trainer(callback)

    def every_other_none(examples):
        return None if examples[0][0] % 2 else torch.utils.data.default_collate(examples)[1]

    numbered = list(enumerate(small.data(5 * BATCH).dataset))
    data = torch.utils.data.DataLoader(numbered, batch_size=BATCH - 1, collate_fn=every_other_none)
    trainer.fit(small.Module(), data)
    # Batches of 7 begin at 0, 7, 14, 21, 28, 35: the even ones are 3 batches of 7.
    assert callback.summary().steps == 3
    assert callback.summary().model_flops == 3 * 7 * FLOPS_PER_EXAMPLE
    assert callback.summary().warnings == ()
    assert_nothing_left(trainer)


def test_a_step_that_returns_no_loss_is_forward_only(small):
    class Skips(small.Module):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            return None if batch_idx % 2 else loss

    callback = meter()
    fit(small, callback, examples=20 * BATCH, module=Skips())
    forward = 2 * (INPUTS * 16 + 16 * 4)
    assert callback.summary().model_flops == 10 * BATCH * (FLOPS_PER_EXAMPLE + forward)
    assert callback.summary().estimated_steps == 0


def test_manual_optimisation_with_two_optimizers(small):
    class Gan(small.pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Linear(INPUTS, INPUTS)
            self.critic = nn.Linear(INPUTS, 1)

        def training_step(self, batch, batch_idx):
            first, second = self.optimizers()
            fake = self.generator(batch[0])
            loss = self.critic(fake).mean()
            first.zero_grad()
            self.manual_backward(loss)
            first.step()
            second.zero_grad()
            critic_loss = self.critic(batch[0]).mean() - self.critic(fake.detach()).mean()
            self.manual_backward(critic_loss)
            second.step()
            return {"total": loss}

        def configure_optimizers(self):
            return [
                torch.optim.SGD(self.generator.parameters(), lr=0.1),
                torch.optim.SGD(self.critic.parameters(), lr=0.1),
            ]

    callback = meter(loss_key="total")
    trainer = fit(small, callback, examples=3 * BATCH, module=Gan(), log_every_n_steps=3)
    generator, critic = 2 * INPUTS * INPUTS, 2 * INPUTS
    # Generator: forward and weight gradient. Critic on the fake: forward, both gradients; then
    # twice forward and weight gradient.
    each = 2 * generator + 3 * critic + 2 * 2 * critic
    assert callback.summary().model_flops == 3 * BATCH * each
    assert callback._meter._last.metrics["compute/loss"] is not None
    assert_nothing_left(trainer)


def test_an_optimizer_that_steps_now_and_then(small):
    """Four steps of a critic for one of a generator: what ran is known only afterwards."""

    class Gan(small.pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, 1)

        def training_step(self, batch, batch_idx):
            first, second = self.optimizers()
            if batch_idx % 5 == 4:
                self.manual_backward(self.critic(self.generator(batch[0])).mean())
                first.step()
            else:
                self.manual_backward(self.critic(batch[0]).mean())
                second.step()

        def configure_optimizers(self):
            return [
                torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.generator, self.critic)
            ]

    callback = meter()
    fit(small, callback, examples=50 * BATCH, module=Gan())
    # 40 times the critic forward and its weight gradient; 10 times forward of both, the weight
    # gradients of both and the critic's input gradient.
    generator, critic = 2 * INPUTS * INPUTS, 2 * INPUTS
    expected = 40 * 2 * critic + 10 * (2 * generator + 3 * critic)
    assert callback.summary().model_flops == BATCH * expected
    assert callback.summary().estimated_steps == 0


def test_out_of_memory_in_a_counted_step_is_said_and_not_tried_again(small):
    class Fills(small.Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 0:
                raise torch.OutOfMemoryError("no more")
            return super().training_step(batch, batch_idx)

    callback = meter()
    with pytest.raises(torch.OutOfMemoryError):
        fit(small, callback, module=Fills())
    assert callback.summary().model_flops == 0
    assert any("out of memory" in warning for warning in callback.summary().warnings)


def test_an_exception_in_training_reaches_the_user_and_leaves_nothing(small):
    class Breaks(small.Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise RuntimeError("mine")
            return super().training_step(batch, batch_idx)

    callback = meter(ledger=str(small.folder / "ledger"))
    trainer = small.trainer(callback)
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(Breaks(), small.data(6 * BATCH))
    assert_nothing_left(trainer)
    assert callback.summary().steps == 3
    (file,) = (small.folder / "ledger").glob("*.jsonl")
    assert read_ledger(file).status == "failed"
    assert read_ledger(file).last_totals["model_flops"] == 3 * BATCH * FLOPS_PER_EXAMPLE


def test_ctrl_c(small, capsys):
    class Stopped(small.Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    callback = meter(ledger=str(small.folder / "ledger"), verbose=1)
    trainer = small.trainer(callback)
    with pytest.raises(SystemExit):
        trainer.fit(Stopped(), small.data(6 * BATCH))
    assert_nothing_left(trainer)
    (file,) = (small.folder / "ledger").glob("*.jsonl")
    assert read_ledger(file).status == "interrupted"
    # Lightning leaves the process here: no line of the user's could print it any more.
    assert "│ 2: " in capsys.readouterr().out.partition("│ steps ")[2].partition("\n")[0]


def test_flops_that_the_user_adds_are_the_fits(small):
    class Kernel(small.Module):
        def training_step(self, batch, batch_idx):
            callback.add_flops(1000)
            return super().training_step(batch, batch_idx)

    callback = meter()
    trainer = fit(small, callback, examples=2 * BATCH, module=Kernel())
    counted = 2 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().model_flops == counted + 2 * 1000
    fit(small, callback, examples=2 * BATCH)
    assert callback.summary().model_flops == counted
    with pytest.raises(ValueError, match="flops=-1"):
        callback.add_flops(-1)
    assert_nothing_left(trainer)


def test_a_second_fit_of_the_same_trainer_goes_on_with_the_run(small):
    callback = meter()
    trainer = fit(small, callback, examples=2 * BATCH)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, small.data(2 * BATCH))
    assert callback.summary().model_flops == 2 * 2 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().run_flops == 3 * 2 * BATCH * FLOPS_PER_EXAMPLE
    assert_nothing_left(trainer)


def test_another_trainer_is_another_run(small):
    callback = meter()
    fit(small, callback, examples=2 * BATCH)
    fit(small, callback, examples=3 * BATCH)
    assert callback.summary().run_flops == 3 * BATCH * FLOPS_PER_EXAMPLE


def test_a_resumed_fit_carries_the_run_on(small):
    trainer = fit(small, meter(), examples=2 * BATCH)
    trainer.save_checkpoint(small.folder / "at.ckpt")
    callback = meter()
    resumed = small.trainer(callback, max_epochs=2)
    resumed.fit(small.Module(), small.data(2 * BATCH), ckpt_path=small.folder / "at.ckpt")
    assert callback.summary().model_flops == 2 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().run_flops == 2 * 2 * BATCH * FLOPS_PER_EXAMPLE


@pytest.mark.parametrize("state", [{"schema": 99}, {"run_flops": 3}, {"schema": "x"}])
def test_a_foreign_state_in_a_checkpoint_is_warned_of_and_is_work_that_is_not_known(small, state):
    callback = meter()
    callback.load_state_dict(state)
    fit(small, callback, examples=BATCH)
    assert callback.summary().model_flops == BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().run_flops is callback.summary().spent_flops is None
    assert len(callback.summary().warnings) == 1
    assert "load_state_dict" in callback.summary().warnings[0]


def test_a_fit_after_validate_and_test(small):
    callback = meter()
    trainer = small.trainer(callback)
    module = small.Module()
    module.test_step = module.validation_step
    trainer.validate(module, small.data(BATCH), verbose=False)
    trainer.fit(module, small.data(BATCH))
    trainer.test(module, small.data(BATCH), verbose=False)
    assert callback.summary().steps == 1
    assert callback.summary().warnings == ()


def test_layers_unfrozen_mid_run_change_the_count(small):
    class Unfreezes(small.Module):
        def on_train_batch_start(self, batch, batch_idx):
            self.net[0].requires_grad_(batch_idx >= 3)

    callback = meter()
    fit(small, callback, examples=5 * BATCH, module=Unfreezes())
    # Frozen: forward of both layers and the weight gradient of the second.
    frozen = 2 * (INPUTS * 16 + 16 * 4) + 2 * 16 * 4
    assert callback.summary().model_flops == BATCH * (3 * frozen + 2 * FLOPS_PER_EXAMPLE)


def test_fast_dev_run_writes_nothing(small):
    callback = ComputeMeter(verbose=0)
    small.trainer(callback, fast_dev_run=True).fit(small.Module(), small.data(BATCH))
    assert not (small.folder / "compute_ledger").exists()
    assert callback.summary().steps == 1


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


def test_a_users_own_patch_of_the_trainer_stays(small):
    trainer = small.trainer(meter())
    trainer.save_checkpoint = mine = lambda *args, **kwargs: None
    trainer.fit(small.Module(), small.data(BATCH))
    assert trainer.save_checkpoint is mine


def test_a_lazy_layer_is_counted(small):
    class Lazy(small.Module):
        def __init__(self):
            super().__init__()
            self.net[0] = nn.LazyLinear(16)

    callback = meter()
    fit(small, callback, module=Lazy(), examples=3 * BATCH)
    assert callback.summary().model_flops == 3 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().parameters == 276


def test_a_fit_that_cannot_be_metered_is_unknown_and_not_zero(small, monkeypatch):
    def fails(*args, **kwargs):
        raise AttributeError("moved")

    monkeypatch.setattr("computemeter.patches.Patches.wrap", fails)
    callback = meter()
    fit(small, callback)
    assert callback.summary().model_flops is None
    assert callback.summary().run_flops is None


def test_a_fit_with_nothing_left_to_do_writes_no_point_and_ends_well(small):
    trainer = fit(small, meter(), examples=2 * BATCH)
    trainer.save_checkpoint(small.folder / "done.ckpt")
    callback = meter(ledger=str(small.folder / "ledger"))
    again = small.trainer(callback)
    again.fit(small.Module(), small.data(2 * BATCH), ckpt_path=small.folder / "done.ckpt")
    (file,) = (small.folder / "ledger").glob("*.jsonl")
    assert read_ledger(file).progress == ()
    assert read_ledger(file).status == "finished"


def test_hooks_that_do_nothing_are_not_called(small):
    callback = meter()
    for hook in _UNUSED_BATCH_HOOKS:
        assert not callable(getattr(callback, hook))
        # Lightning must still have a hook of this name, or the list is out of date.
        assert callable(getattr(small.pl.Callback, hook))
    fit(small, callback)
    assert callback.summary().warnings == ()


def test_what_the_callback_wraps_still_exists(small):
    """The wrapped methods are semi-private: this test says so when Lightning moves them."""
    trainer = small.trainer()
    loop = trainer.fit_loop.epoch_loop
    assert callable(loop.automatic_optimization.run)
    assert callable(loop.manual_optimization.run)
    assert isinstance(loop._batches_that_stepped, int)
    assert isinstance(trainer._logger_connector.should_update_logs, bool)
    assert callable(trainer.fit_loop._should_accumulate)


@pytest.mark.parametrize(
    "target",
    [
        "computemeter.meter.Meter.start_step",
        "computemeter.meter.Meter.end_step",
        "computemeter.meter.Meter.attach",
        "computemeter.meter.Meter.log",
        "computemeter.meter.Meter.close",
        "computemeter.meter.Meter.leave_out",
        "computemeter.meter.Meter.take_back",
        "computemeter.meter.Meter.print_summary",
        "computemeter.meter.Meter._read",
        "computemeter.run_meter.Journal",
        "computemeter.run_meter.take_snapshot",
        "computemeter.step_meter.examples",
        "computemeter.book.StepBook.add",
        "computemeter.book.StepBook.wants_count",
        "computemeter.counters.torch_counter._plain_signature",
        "computemeter.counters.torch_counter.torch_device",
        "computemeter.counters.torch_tally.Tally.book",
        "computemeter.counters.torch_tally.Tally.count",
        "computemeter.counters.torch_counter.CountingMode",
        "computemeter_lightning._callback.TorchCounter",
        "computemeter_lightning._callback._place",
        "computemeter_lightning._steps._batch_of",
        "computemeter_lightning._callback.LossWindow.automatic",
        "computemeter.patches.Patches.wrap",
        "computemeter.patches.Patches.remove",
    ],
)
def test_a_failure_anywhere_leaves_training_untouched(small, monkeypatch, target):
    def train(*callbacks):
        small.pl.seed_everything(3)
        module = small.Module()
        trainer = small.trainer(*callbacks, max_epochs=2, enable_checkpointing=True)
        trainer.fit(module, small.data(4 * BATCH), small.data(BATCH))
        return module.state_dict(), torch.get_rng_state()

    weights, random_state = train()
    callback = meter(verbose=1)

    def fails(*args, **kwargs):
        raise ValueError("injected")

    monkeypatch.setattr(target, fails)
    metered, metered_state = train(callback)
    assert all(torch.equal(weights[name], metered[name]) for name in weights)
    assert torch.equal(random_state, metered_state)
    assert _get_current_dispatch_mode() is None
    assert any("injected" in message for message in callback.failures.messages)


def test_a_failure_is_logged_once_and_stands_in_the_summary(small, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise ValueError("injected")

    monkeypatch.setattr("computemeter.book.StepBook.add", fails)
    callback = meter()
    with caplog.at_level(logging.WARNING, "computemeter"):
        fit(small, callback, examples=6 * BATCH)
    assert [record for record in caplog.records if "injected" in record.message] != []
    assert len([record for record in caplog.records if "injected" in record.message]) == 1
    assert any("injected (6 times)" in warning for warning in callback.summary().warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peak_flops": -1}, r"peak_flops=-1: accepted is FLOP/s of one device above 0"),
        ({"assumed_utilization": 3}, r"assumed_utilization=3: accepted is a share in \(0, 1\]"),
        ({"warn_at": 0.5}, r"warn_at=0.5: accepted is a factor above 1"),
        ({"warn_at": 4.0, "alarm_at": 3.0}, r"alarm_at=3.0 is below warn_at=4.0"),
    ],
)
def test_bad_values_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        ComputeMeter(**options)


def test_an_unknown_option_is_refused_with_what_is_accepted():
    with pytest.raises(TypeError, match=r"'peak_flop'.*did you mean 'peak_flops'.*loss_key"):
        ComputeMeter(peak_flop=1e12)
    with pytest.raises(TypeError, match="loss_key=3"):
        ComputeMeter(loss_key=3)


def test_method_2_from_a_given_peak(small):
    callback = meter(peak_flops=1e9, assumed_utilization=0.5, settle_steps=0, settle_seconds=0)
    fit(small, callback)
    summary = callback.summary()
    # 1 device x 1e9 FLOP/s x seconds x 0.5
    expected = 1e9 * summary.training_seconds * 0.5
    assert summary.pfs_days_gpu_time * 8.64e19 == pytest.approx(expected, abs=1)
    assert summary.ratio == pytest.approx(expected / summary.model_flops, rel=1e-6)
    assert math.isclose(summary.divergence, max(summary.ratio, 1 / summary.ratio))
