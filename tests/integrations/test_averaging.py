"""Averaged weights, whose upkeep is no training step: counts by hand."""

import pytest
import torch
from lightning_fits import meter as callback_of
from meter_loops import quiet
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from stacks import batches
from torch import nn
from torch.nn.functional import cross_entropy


def normalised(small):
    """Make the small module with a BatchNorm, which both kinds of averaging look after."""

    class Normalised(small.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(INPUTS, HIDDEN),
                nn.BatchNorm1d(HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, CLASSES),
            )

    return Normalised()


def test_stochastic_weight_averaging(small):
    callback = callback_of()
    averaging = small.pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    small.trainer(callback, averaging, max_epochs=4).fit(small.Module(), small.data(3 * BATCH))
    assert callback.summary().steps == 4 * 3
    assert callback.summary().model_flops == 4 * 3 * BATCH * FLOPS_PER_EXAMPLE


def passes_after_the_last_epoch(small, callback):
    """Train 4 epochs of 3 batches with a BatchNorm; return how often a batch was passed on."""
    passes = []

    class Notes(small.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            passes.append(trainer.current_epoch)

    averaging = small.pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    trainer = small.trainer(callback, averaging, Notes(), max_epochs=4)
    trainer.fit(normalised(small), small.data(3 * BATCH))
    # The pass over the data at the end is one accumulation, at whose end the optimizer steps.
    assert trainer.global_step == 4 * 3 + 1
    return passes.count(4)


def test_swa_passes_over_the_data_for_batchnorm_are_no_training_steps(small):
    """Lightning runs one epoch more, forward only, to collect the averaged net's statistics."""
    callback = callback_of()
    assert passes_after_the_last_epoch(small, callback) == 3
    assert callback.summary().steps == 4 * 3
    assert callback.summary().model_flops == 4 * 3 * BATCH * FLOPS_PER_EXAMPLE


@pytest.mark.parametrize("every", [1, 2])
def test_ema_weight_averaging_with_validation_on_the_average(small, every):
    callback = callback_of()
    averaging = small.pl.callbacks.EMAWeightAveraging(decay=0.9, update_every_n_steps=every)
    trainer = small.trainer(callback, averaging, max_epochs=2)
    trainer.fit(normalised(small), small.data(3 * BATCH), small.data(2 * BATCH))
    # The averages are element by element; validation on them is no training.
    assert callback.summary().steps == 2 * 3
    assert callback.summary().model_flops == 2 * 3 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().uncounted_ops == {}


def test_averaging_in_a_plain_loop_and_the_batchnorm_update_after_it():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for inputs, labels in batches(BATCH, BATCH, BATCH):
            with meter.step(inputs):
                cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
                average.update_parameters(model)
        torch.optim.swa_utils.update_bn(batches(BATCH, BATCH), average)
    assert meter.summary().steps == 3
    assert meter.summary().model_flops == 3 * BATCH * FLOPS_PER_EXAMPLE
    assert meter.summary().uncounted_ops == {}
