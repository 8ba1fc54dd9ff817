"""The meter in a loop with Accelerate."""

import pytest
import torch
from meter_loops import quiet
from same_trainings import assert_complete, assert_identical, dataset, net, state, step_of
from small_runs import BATCH, FLOPS_PER_EXAMPLE
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.data import DataLoader


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(accelerate, accumulated, precision):
    examples = 4 * BATCH + 3

    def train(meter):
        accelerator = accelerate.Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulated
        )
        plain, updates = net(), 0
        model, optimizer, loader = accelerator.prepare(
            plain,
            torch.optim.SGD(plain.parameters(), lr=0.1),
            DataLoader(dataset(examples), batch_size=BATCH, shuffle=True),
        )
        torch.manual_seed(2)
        for _ in range(2):
            for inputs, labels in loader:
                with step_of(meter, inputs), accelerator.accumulate(model):
                    accelerator.backward(cross_entropy(model(inputs), labels))
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                        updates += 1
                    optimizer.step()
                    optimizer.zero_grad()
        return state(plain), updates

    without, updates = train(None)
    with quiet() as meter:
        metered, _ = train(meter)
    assert_identical(without, metered)
    assert updates == {1: 10, 3: 4}[accumulated]
    summary = meter.summary()
    assert summary.steps == 10
    assert summary.samples == 2 * examples
    assert summary.model_flops == 2 * examples * FLOPS_PER_EXAMPLE
    assert summary.by_dtype == {"float32" if precision == "no" else "bfloat16": summary.model_flops}
    assert_complete(summary)


def test_accelerate_that_looks_for_a_batch_size_that_fits(accelerate):
    tried = []
    with quiet() as meter:

        @accelerate.utils.find_executable_batch_size(starting_batch_size=4 * BATCH)
        def train(batch_size):
            tried.append(batch_size)
            accelerator = accelerate.Accelerator(cpu=True)
            model, loader = accelerator.prepare(
                net(), DataLoader(dataset(4 * BATCH), batch_size=batch_size)
            )
            for inputs, labels in loader:
                with meter.step(inputs):
                    loss = cross_entropy(model(inputs), labels)
                    if batch_size > BATCH:
                        raise RuntimeError("CUDA out of memory.")
                    accelerator.backward(loss)

        train()
    assert tried[0] == 4 * BATCH
    # A step that raised is not booked; those of the size that fits are.
    assert meter.summary().samples == 4 * BATCH
    assert meter.summary().model_flops == 4 * BATCH * FLOPS_PER_EXAMPLE
    assert _get_current_dispatch_mode() is None
