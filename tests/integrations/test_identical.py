"""With and without the meter: the same losses, weights and random states, bit for bit."""

import copy
import random
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from small_runs import FLOPS_PER_EXAMPLE
from torch import nn

from computemeter import Meter
from computemeter.lightning import ComputeMeter

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor compiles for the CPU with g++"
)


class Attends(nn.Module):
    """Attention, convolution, recurrence, normalisation and dropout in one small net."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.rnn(x)[0].mean(1))


class Convolves(nn.Module):
    """What inductor compiles quickly: convolution, dropout, linear layers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(8 * 10, 16),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        return self.net(x)


def train(model, meter=None, steps=12, forward=None):
    """Train on shapes that change, and return everything that must not."""
    seed = 5
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global state is what must not change
    torch.manual_seed(seed)
    forward = model if forward is None else forward
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        inputs = torch.randn(4 if step % 3 else 6, 6, 10)
        labels = torch.randint(0, 3, (len(inputs),))
        context = meter.step(inputs) if meter else nullcontext()
        with context:
            loss = nn.functional.cross_entropy(forward(inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach().clone())
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # noqa: NPY002
    return torch.stack(losses), model.state_dict(), states


def assert_identical(one, other):
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    assert one[2] == other[2]


def quiet():
    return Meter(trackers=None, ledger=None, verbose=0)


@pytest.mark.parametrize("counted", ["as planned", "every step"])
def test_eager(counted, monkeypatch):
    if counted == "every step":
        monkeypatch.setattr("computemeter.book.StepBook.wants_count", lambda _self, _key: True)
    torch.manual_seed(0)
    model = Attends()
    plain = train(copy.deepcopy(model))
    with quiet() as meter:
        metered = train(model, meter)
    assert_identical(plain, metered)
    assert meter.summary().warnings == ()
    assert meter.summary().counted_steps >= 2


@needs_compiler
@pytest.mark.parametrize("counted", ["as planned", "every step"])
@pytest.mark.parametrize("warm", [False, True])
def test_compiled_by_inductor_with_dropout(warm, counted, monkeypatch):
    """Cold: the first step, which compiles, is counted. Warm: compiled before the meter came."""
    if counted == "every step":
        monkeypatch.setattr("computemeter.book.StepBook.wants_count", lambda _self, _key: True)

    def run(meter):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = Convolves()
        forward = torch.compile(model, dynamic=False)
        if warm:
            train(copy.deepcopy(model), steps=1)
            forward(torch.randn(6, 6, 10)).sum().backward()
            model.zero_grad()
        return train(model, meter, forward=forward, steps=6)

    plain = run(None)
    with quiet() as meter:
        metered = run(meter)
    assert_identical(plain, metered)
    # By hand, per example: convolution 2*10*(8*6*3), linear layers 2*80*16 and 2*16*3; each again
    # for its weight, and for its input but for the convolution, which nothing comes before.
    conv, first, second = 2 * 10 * 8 * 6 * 3, 2 * 80 * 16, 2 * 16 * 3
    # Steps 0 and 3 have 6 examples, the other 4 steps 4.
    assert meter.summary().model_flops == (2 * 6 + 4 * 4) * (2 * conv + 3 * first + 3 * second)


def test_no_extra_compilations():
    """A backend of our own counts how often a frame is compiled, metered and not."""

    def compilations(meter):
        compiled = []

        def backend(graph, _inputs):
            compiled.append(graph)
            return graph.forward

        torch._dynamo.reset()
        torch.manual_seed(0)
        model = Convolves()
        forward = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
        losses = train(model, meter, forward=forward)
        return len(compiled), losses

    plain, without = compilations(None)
    with quiet() as meter:
        metered, with_meter = compilations(meter)
    assert plain == metered == 2  # one graph for each of the two batch sizes
    assert_identical(without, with_meter)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
def test_in_a_lightning_trainer(small, compiled):
    def fit(*callbacks):
        torch._dynamo.reset()
        small.pl.seed_everything(11)
        module = small.Module()
        if compiled:
            module.net = torch.compile(module.net)
        logger = small.pl.loggers.CSVLogger(small.folder)
        trainer = small.trainer(*callbacks, max_epochs=2, logger=logger)
        trainer.fit(module, small.data(35), small.data(9))
        state = [random.getstate(), torch.get_rng_state().tolist()]
        return torch.tensor(0.0), module.state_dict(), state

    plain = fit()
    callback = ComputeMeter(verbose=0)
    assert_identical(plain, fit(callback))
    assert callback.summary().model_flops == 2 * 35 * FLOPS_PER_EXAMPLE
    assert callback.summary().warnings == ()
