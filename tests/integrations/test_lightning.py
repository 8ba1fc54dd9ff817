"""What the Lightning callback counts of a fit, in real Trainers of both namespaces."""

import math

import pytest
import torch
from lightning_fits import assert_nothing_left, fit, meter
from small_runs import BATCH, FLOPS_PER_EXAMPLE, INPUTS
from torch import nn


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
    assert_nothing_left(trainer)


def test_flops_that_are_added_outside_of_a_fit_are_in_no_total(small):
    class Kernel(small.Module):
        def training_step(self, batch, batch_idx):
            wrong()
            return super().training_step(batch, batch_idx)

    def wrong():
        with pytest.raises(ValueError, match="flops=-1"):
            callback.add_flops(-1)

    said = "add_flops while no fit is metered: these FLOPs are in no total"
    callback = meter()
    wrong()
    callback.add_flops(5)
    fit(small, callback, examples=BATCH, module=Kernel())
    assert callback.summary().warnings == (said,)
    wrong()
    callback.add_flops(7)
    assert callback.summary().warnings == (f"{said} (2 times)",)
    assert callback.summary().model_flops == BATCH * FLOPS_PER_EXAMPLE
    assert callback.state_dict()["run_flops"] == BATCH * FLOPS_PER_EXAMPLE


def test_layers_unfrozen_mid_run_change_the_count(small):
    class Unfreezes(small.Module):
        def on_train_batch_start(self, batch, batch_idx):
            self.net[0].requires_grad_(batch_idx >= 3)

    callback = meter()
    fit(small, callback, examples=5 * BATCH, module=Unfreezes())
    # Frozen: forward of both layers and the weight gradient of the second.
    frozen = 2 * (INPUTS * 16 + 16 * 4) + 2 * 16 * 4
    assert callback.summary().model_flops == BATCH * (3 * frozen + 2 * FLOPS_PER_EXAMPLE)


def test_a_lazy_layer_is_counted(small):
    class Lazy(small.Module):
        def __init__(self):
            super().__init__()
            self.net[0] = nn.LazyLinear(16)

    callback = meter()
    fit(small, callback, module=Lazy(), examples=3 * BATCH)
    assert callback.summary().model_flops == 3 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().parameters == 276


def test_method_2_from_a_given_peak(small):
    callback = meter(peak_flops=1e9, assumed_utilization=0.5, settle_steps=0, settle_seconds=0)
    fit(small, callback)
    summary = callback.summary()
    # 1 device x 1e9 FLOP/s x seconds x 0.5
    expected = 1e9 * summary.training_seconds * 0.5
    assert summary.pfs_days_gpu_time * 8.64e19 == pytest.approx(expected, abs=1)
    assert summary.ratio == pytest.approx(expected / summary.model_flops, rel=1e-6)
    assert math.isclose(summary.divergence, max(summary.ratio, 1 / summary.ratio))
