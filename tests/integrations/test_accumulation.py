"""Gradients accumulated over micro-batches: counts by hand."""

import torch
from lightning_fits import meter as callback_of
from meter_loops import quiet
from small_runs import BATCH, FLOPS_PER_EXAMPLE
from stacks import ALL_TRAINED, batches, stack
from torch.nn.functional import cross_entropy


def test_accumulation_in_a_plain_loop_with_partial_batch_and_window():
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sizes = [BATCH] * 7 + [BATCH - 5]
    with quiet() as meter:
        for step, (inputs, labels) in enumerate(batches(*sizes)):
            with meter.step(inputs):
                cross_entropy(model(inputs), labels).backward()
                if step % 3 == 2 or step == len(sizes) - 1:
                    optimizer.step()
                    optimizer.zero_grad()
    assert meter.summary().steps == 8
    assert meter.summary().model_flops == (8 * BATCH - 5) * ALL_TRAINED
    assert meter.summary().estimated_steps == 0


def test_a_window_of_micro_batches_as_one_step():
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for window in (3, 3, 2):
            micro = list(batches(*[BATCH] * window))
            with meter.step(micro):
                for inputs, labels in micro:
                    cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    assert meter.summary().steps == 3
    assert meter.summary().model_flops == 8 * BATCH * ALL_TRAINED


def test_accumulation_scheduled_by_the_trainer(small):
    callback = callback_of()
    scheduler = small.pl.callbacks.GradientAccumulationScheduler({0: 1, 1: 2, 3: 4})
    trainer = small.trainer(callback, scheduler, max_epochs=4)
    trainer.fit(small.Module(), small.data(4 * BATCH + 3))
    assert trainer.global_step == 5 + 3 + 3 + 2
    assert callback.summary().steps == 4 * 5
    assert callback.summary().model_flops == 4 * (4 * BATCH + 3) * FLOPS_PER_EXAMPLE
