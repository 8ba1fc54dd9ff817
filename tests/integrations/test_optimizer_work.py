"""An optimizer's own products are no model work; passes run inside `step(closure)` are."""

import pytest
import torch
from torch import nn

from computemeter import Meter
from computemeter.lightning import ComputeMeter

SIZE, BATCH = 16, 8
# Forward and weight gradient of one layer.
STEP = 2 * 2 * BATCH * SIZE * SIZE


def quiet():
    return Meter(trackers=None, ledger=None, verbose=0)


def net():
    torch.manual_seed(0)
    return nn.Linear(SIZE, SIZE, bias=False)


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.SGD, torch.optim.Adam, torch.optim.Muon, torch.optim.Adafactor],
)
def test_after_the_passes(optimizer):
    model = net()
    optimizer = optimizer(model.parameters(), lr=0.01)
    with quiet() as meter:
        for _ in range(6):
            x = torch.randn(BATCH, SIZE)
            with meter.step(x):
                model(x).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    assert meter.summary().model_flops == 6 * STEP
    assert meter.summary().estimated_steps == 0


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, torch.optim.Muon])
def test_around_the_passes(optimizer):
    model, calls = net(), []
    optimizer = optimizer(model.parameters(), lr=0.01)
    with quiet() as meter:
        x = torch.randn(BATCH, SIZE)

        def closure():
            optimizer.zero_grad()
            with torch.no_grad():
                model(x)  # as a frozen teacher would: a forward pass without gradients
            loss = model(x).square().sum()
            loss.backward()
            calls.append(loss)
            return loss

        with meter.step(x):
            optimizer.step(closure)
    assert meter.summary().model_flops == len(calls) * (STEP + STEP // 2)


def test_in_lightning_where_every_pass_runs_inside_the_optimizer(small):
    class Module(small.pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def training_step(self, batch, batch_idx):
            x = batch[0][:, :1].expand(-1, SIZE)
            with torch.no_grad():
                self.net(x)
            return self.net(x).square().mean()

        def configure_optimizers(self):
            return torch.optim.Muon(self.parameters(), lr=0.01)

    callback = ComputeMeter(trackers=None, ledger=None, verbose=0)
    small.trainer(callback).fit(Module(), small.data(3 * BATCH))
    assert callback.summary().model_flops == 3 * (STEP + STEP // 2)


def test_what_an_optimizer_does_without_a_formula_is_not_held_against_the_count():
    class Preconditioned(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    torch.linalg.eigh(parameter.grad @ parameter.grad.T)
            return super().step(closure)

    model = net()
    optimizer = Preconditioned(model.parameters(), lr=0.01)
    with quiet() as meter:
        x = torch.randn(BATCH, SIZE)
        with meter.step(x):
            model(x).square().sum().backward()
            optimizer.step()
    assert meter.summary().model_flops == STEP
    assert meter.summary().uncounted_ops == {}
