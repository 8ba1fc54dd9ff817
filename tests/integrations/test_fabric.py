"""The meter in a loop with Lightning Fabric."""

import importlib

import pytest
import torch
from meter_loops import quiet
from same_trainings import assert_complete, assert_identical, dataset, net, state, step_of
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader


@pytest.fixture(params=["lightning.fabric", "lightning_fabric"])
def fabric_library(request):
    """Each of the two namespaces of Fabric."""
    return importlib.import_module(request.param)


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_fabric(fabric_library, precision, accumulated):
    examples = 4 * BATCH + 3

    def train(meter):
        fabric = fabric_library.Fabric(accelerator="cpu", devices=1, precision=precision)
        fabric.launch()
        plain = net()
        model, optimizer = fabric.setup(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
        loader = fabric.setup_dataloaders(DataLoader(dataset(examples), batch_size=BATCH))
        torch.manual_seed(2)
        for _ in range(2):
            for index, (inputs, labels) in enumerate(loader):
                accumulating = index % accumulated != accumulated - 1
                with step_of(meter, inputs):
                    with fabric.no_backward_sync(model, enabled=accumulating):
                        fabric.backward(cross_entropy(model(inputs), labels))
                    if not accumulating:
                        fabric.clip_gradients(model, optimizer, max_norm=1.0)
                        optimizer.step()
                        optimizer.zero_grad()
        return state(plain)

    without = train(None)
    with quiet() as meter:
        assert_identical(without, train(meter))
    summary = meter.summary()
    assert summary.steps == 10
    assert summary.samples == 2 * examples
    assert summary.model_flops == 2 * examples * FLOPS_PER_EXAMPLE
    dtype = "float32" if precision == "32-true" else "bfloat16"
    assert summary.by_dtype == {dtype: summary.model_flops}
    assert_complete(summary)


def test_fabric_with_a_lightning_module_and_a_frozen_layer(small):
    fabric_library = pytest.importorskip(
        small.pl.__name__.replace("pytorch_lightning", "lightning_fabric").replace(
            "lightning.pytorch", "lightning.fabric"
        )
    )
    module = small.Module()
    module.log = lambda *args, **kwargs: None  # there is no Trainer that could log
    module.net[0].requires_grad_(False)
    fabric = fabric_library.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    model, optimizer = fabric.setup(module, module.configure_optimizers())
    loader = fabric.setup_dataloaders(small.data(3 * BATCH))
    with quiet() as meter:
        for index, batch in enumerate(loader):
            with meter.step(batch):
                fabric.backward(model.training_step(batch, index))
                optimizer.step()
                optimizer.zero_grad()
    # Both layers forward, and the weight gradient of the second.
    each = 2 * (INPUTS * HIDDEN + HIDDEN * CLASSES) + 2 * HIDDEN * CLASSES
    assert meter.summary().model_flops == 3 * BATCH * each
    assert_complete(meter.summary())
