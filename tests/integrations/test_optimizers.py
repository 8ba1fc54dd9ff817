"""Optimizers, one or several, with closures or in turns: counts by hand."""

import pytest
import torch
from lightning_fits import meter as callback_of
from meter_loops import quiet
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from stacks import ALL_TRAINED, batches, stack, train
from torch import nn
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize(
    "name",
    [
        "SGD",
        "Adam",
        "AdamW",
        "RMSprop",
        "Adagrad",
        "NAdam",
        "Rprop",
        "Adafactor",  # an outer product for every weight
        "Muon",  # 5 Newton-Schulz iterations for every weight
    ],
)
def test_what_the_optimizer_computes_is_no_model_work(name):
    model = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, CLASSES, bias=False)
    )
    summary = train(
        model, batches(BATCH, BATCH), getattr(torch.optim, name)(model.parameters(), lr=0.01)
    )
    assert summary.model_flops == 2 * BATCH * FLOPS_PER_EXAMPLE


@pytest.mark.parametrize("op", ["aten::mm", "aten::dot"])
def test_a_closure_counts_as_often_as_it_is_called(op):
    model = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, CLASSES, bias=False)
    )
    optimizer = torch.optim.LBFGS(
        model.parameters(), lr=0.01, max_iter=4, tolerance_grad=0, tolerance_change=0
    )
    calls = 0
    with quiet() as meter:
        for inputs, labels in batches(BATCH, BATCH, BATCH):
            with meter.step(inputs):

                def closure():
                    nonlocal calls
                    calls += 1
                    optimizer.zero_grad()
                    loss = cross_entropy(model(inputs), labels)  # noqa: B023 - called at once
                    loss.backward()
                    return loss

                optimizer.step(closure)
    assert calls == 3 * 4
    expected = {"aten::mm": calls * BATCH * FLOPS_PER_EXAMPLE, "aten::dot": 0}
    assert meter.summary().by_op.get(op, 0) == expected[op]


def test_several_optimizers_of_one_model():
    model = stack()
    optimizers = [
        torch.optim.SGD(model[:3].parameters(), lr=0.1),
        torch.optim.AdamW(model[3:].parameters()),
    ]
    with quiet() as meter:
        for inputs, labels in batches(BATCH, BATCH, BATCH - 1):
            with meter.step(inputs):
                cross_entropy(model(inputs), labels).backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
    assert meter.summary().model_flops == (3 * BATCH - 1) * ALL_TRAINED


@pytest.mark.parametrize("all_counted", [True, False])
def test_optimizers_that_take_turns(small, monkeypatch, all_counted):
    """Whose turn it is, is decided inside the step: no key can show it before the step runs."""
    if all_counted:
        monkeypatch.setattr("computemeter.book.StepBook.wants_count", lambda _self, _key: True)

    class Alternates(small.Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            # `toggle_optimizer` freezes what the other optimizer trains.
            optimizer = self.optimizers()[batch_idx % 3 == 2]
            self.toggle_optimizer(optimizer)
            self.manual_backward(self.loss(batch))
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)

        def configure_optimizers(self):
            return [
                torch.optim.SGD(self.net[0].parameters(), lr=0.1),
                torch.optim.SGD(self.net[3].parameters(), lr=0.1),
            ]

    first, second = 2 * INPUTS * HIDDEN, 2 * HIDDEN * CLASSES
    # The first alone: forward, its weight gradient, and the input gradient of the second.
    turns = 2 * first + 2 * second, first + 2 * second
    callback = callback_of()
    small.trainer(callback).fit(Alternates(), small.data(30 * BATCH))
    summary, exact = callback.summary(), BATCH * (20 * turns[0] + 10 * turns[1])
    assert summary.steps == 30
    # Which optimizer stepped is seen afterwards, and parts the steps of the one key.
    assert summary.model_flops == exact
    assert summary.estimated_steps == 0
