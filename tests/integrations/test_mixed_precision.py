"""Autocast and mixed precision: which dtype a product is booked under."""

import torch
from lightning_fits import meter as callback_of
from meter_loops import quiet
from small_runs import BATCH, FLOPS_PER_EXAMPLE
from stacks import ALL_TRAINED, batches, stack
from torch.nn.functional import cross_entropy


def test_bf16_autocast_in_a_plain_loop():
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for inputs, labels in batches(BATCH, BATCH, BATCH - 3):
            with meter.step(inputs):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = cross_entropy(model(inputs), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    summary = meter.summary()
    assert summary.model_flops == (3 * BATCH - 3) * ALL_TRAINED
    assert summary.by_dtype == {"bfloat16": summary.model_flops}
    assert summary.precision == "bf16"


def test_autocast_that_comes_on_halfway_parts_the_dtypes():
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for step, (inputs, labels) in enumerate(batches(*[BATCH] * 10)):
            with torch.autocast("cpu", torch.bfloat16, enabled=step >= 7), meter.step(inputs):
                cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    each = BATCH * ALL_TRAINED
    assert meter.summary().by_dtype == {"float32": 7 * each, "bfloat16": 3 * each}


def test_bf16_mixed_in_a_trainer(small):
    callback = callback_of()
    small.trainer(callback, precision="bf16-mixed").fit(small.Module(), small.data(3 * BATCH + 1))
    summary = callback.summary()
    assert summary.model_flops == (3 * BATCH + 1) * FLOPS_PER_EXAMPLE
    assert summary.by_dtype == {"bfloat16": summary.model_flops}
    assert summary.precision == "bf16"
