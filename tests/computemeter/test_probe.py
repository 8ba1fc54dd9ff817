"""A few real steps of a copy: what is measured, and all that stays as it was."""

import copy
import os
import random
import subprocess
import types

import numpy as np
import pytest
import torch
from probe_inputs import data, net, ones
from probe_models import WritesIntoIt
from small_runs import FLOPS_PER_EXAMPLE
from torch import nn

from computemeter.planning import _untouched
from computemeter.planning._trial import Job
from computemeter.planning.probe import (
    ProbeError,
    probe,
)


def everything(model, optimizer, batch):
    """All that a probe must leave as it was, as bytes that can be compared."""
    state = [*model.state_dict().values(), *batch]
    state += [each.grad for each in model.parameters() if each.grad is not None]
    state += [part for slot in optimizer.state.values() for part in slot.values()]
    return (
        [each.detach().numpy().tobytes() for each in state],
        [each.training for each in model.modules()],
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002 - the shared generator is what is looked at
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
    )


@pytest.mark.parametrize("in_process", [None, True])
def test_steps_are_measured_and_nothing_of_the_user_s_is_touched(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, batch, loss = net(), data(), nn.functional.cross_entropy
    optimizer = torch.optim.Adam(model.parameters())
    loss(model(batch[0]), batch[1]).backward()
    optimizer.step()
    model[2].eval()
    before = everything(model, optimizer, batch)
    result = probe(model, batch, loss=loss, optimizer=optimizer, in_process=in_process)
    assert everything(model, optimizer, batch) == before
    assert [step.batch_size for step in result.measured] == [2, 4, 8, 16, 32]
    assert all(step.seconds > 0 and step.spread >= 0 for step in result.measured)
    assert {step.steps for step in result.measured} == {10}
    assert result.flops_per_example == FLOPS_PER_EXAMPLE
    assert (result.dropped, result.notes) == ((), ())
    assert result.fit is not None
    assert result.device_name
    assert list(tmp_path.glob("computemeter*")) == []
    assert "_worker" not in children()


def children():
    command = ["ps", "--ppid", str(os.getpid()), "-o", "args="]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_in_this_process_too_nothing_of_the_user_s_is_touched():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, out, target):
            self.calls += 1
            penalty = sum(each.square().sum() for each in model.parameters())
            return self.weight * (out - target).square().mean() + penalty

    model, loss, batch = WritesIntoIt(4, 1), Weighted(), (ones(), ones(width=1))
    model(ones()).sum().backward()
    gradient = model.weight.grad
    before = gradient.clone()
    assert len(probe(model, batch, loss=loss, in_process=True).measured) == 5
    assert model.weight.grad is gradient
    assert torch.equal(gradient, before)
    assert (loss.weight.grad, loss.calls.item()) == (None, 0)
    assert torch.equal(batch[0], ones())


def test_every_step_is_given_the_batch_as_it_was():
    # It ends at what is not a row of ones.
    result = probe(WritesIntoIt(4, 1), ones(), batch_sizes=[8, 16], in_process=True)
    assert [step.batch_size for step in result.measured] == [8, 16]


def test_a_generator_that_begins_with_the_probe_is_restored_too(monkeypatch):
    state = ["seeded"]
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: False,
        get_rng_state_all=lambda: list(state),
        set_rng_state_all=lambda states: state.__setitem__(slice(None), states),
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    with _untouched.untouched(None, "cuda"):
        state[0] = "drawn"
    assert state == ["seeded"]
    with _untouched.untouched(None, "cpu"):  # it is not begun for nothing
        state[0] = "drawn"
    assert state == ["drawn"]


@pytest.mark.slow
def test_compiled_code_is_counted_as_it_is_written():
    # 2 x (4 x 8 + 8) forward and again for the weights, 2 x 8 for the hidden units: 80 + 80 + 16.
    model = torch.compile(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
    result = probe(model, ones(), batch_sizes=[8], steps=1, in_process=True)
    assert result.flops_per_example == 176


def test_what_a_step_raises_is_said_in_one_line():
    with pytest.raises(ProbeError, match=r"2: RuntimeError: .*shapes cannot be mult") as error:
        probe(nn.Linear(5, 1), ones(width=4), in_process=True)
    assert "\n" not in str(error.value)


def test_the_model_s_own_loss_or_a_stand_in_and_said_so():
    class WithLoss(nn.Linear):
        def forward(self, x, y):
            return {"loss": (super().forward(x) - y).square().mean()}

    given = {"x": ones(), "y": ones(width=1)}
    own = probe(WithLoss(4, 1), given, batch_sizes=[2, 8], in_process=True)
    assert own.notes == ("No optimizer was given: Adam with its defaults stands in.",)
    stand_in = probe(nn.Linear(4, 1), ones(), batch_sizes=[2], in_process=True)
    assert stand_in.notes[1] == "No loss was given: the mean of the output stands in for it."


class NeedsClosure(torch.optim.SGD):
    """Runs the step by itself, twice, as LBFGS does."""

    def step(self, closure):
        closure()
        return super().step(closure)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, NeedsClosure])
def test_an_optimizer_may_be_made_for_the_copy(optimizer):
    loss = nn.functional.cross_entropy
    result = probe(net(), data(), loss=loss, optimizer=optimizer, in_process=True)
    assert len(result.measured) == 5
    # One that runs the step twice takes two steps' operations.
    times = 2 if optimizer is NeedsClosure else 1
    assert result.flops_per_example == times * FLOPS_PER_EXAMPLE


class Own:
    """Is no optimizer of PyTorch's, and keeps nothing."""

    def __init__(self, weights):
        self.weights = weights

    def zero_grad(self):
        for each in self.weights:
            each.grad = None

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        for each in self.weights:
            each.sub_(0.01 * each.grad)


class Momentum(torch.optim.Optimizer):
    """Keeps one tensor of each weight, and no dictionary of them."""

    def __init__(self, weights):
        super().__init__(weights, {})

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        for each in self.param_groups[0]["params"]:
            self.state[each] = each.grad + 0.9 * self.state.get(each, 0)
            each.sub_(0.01 * self.state[each])


@pytest.mark.parametrize("optimizer", [Own, Momentum])
def test_an_optimizer_may_be_of_the_user_s_own_kind(optimizer):
    loss = nn.functional.cross_entropy
    result = probe(net(), data(), loss=loss, optimizer=optimizer, in_process=True)
    assert len(result.measured) == 5
    assert result.flops_per_example == FLOPS_PER_EXAMPLE


def test_an_optimizer_of_the_user_s_own_kind_that_has_trained():
    model, (x, y) = net(), data()
    optimizer = Momentum(model.parameters())
    optimizer.step(lambda: nn.functional.cross_entropy(model(x), y).backward())
    kept = [each.clone() for each in optimizer.state.values()]
    result = probe(
        model, (x, y), loss=nn.functional.cross_entropy, optimizer=optimizer, in_process=True
    )
    assert len(result.measured) == 5
    assert all(map(torch.equal, kept, optimizer.state.values()))


def test_an_optimizer_of_another_model_is_refused():
    other = torch.optim.SGD(net().parameters())
    with pytest.raises(ProbeError, match="updates none of the model's parameters"):
        probe(net(), data(), optimizer=other, in_process=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": [0]}, "batch_sizes=0: accepted is a whole number of at least 1"),
        ({"batch_sizes": [-8]}, "batch_sizes=-8"),
        ({"batch_sizes": ["8"]}, "batch_sizes='8'"),
        ({"batch_sizes": []}, "batch_sizes is empty"),
        ({"batch_sizes": 5}, "batch_sizes=5: accepted are several whole numbers"),
        ({"seconds": "x"}, "seconds must be above 0, got 'x'"),
        ({"device": "gpu"}, "device='gpu': RuntimeError: "),
        ({"device": 3}, "device=3: accepted is a text"),
        ({"steps": 0}, "steps=0"),
        ({"warmup": 0}, "warmup=0"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"seconds": float("nan")}, "seconds must be above 0"),
        ({"memory_limit": -1}, "memory_limit=-1"),
    ],
)
def test_bad_values_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        probe(net(), data(), **options)


def test_no_model_and_no_batch_are_refused():
    with pytest.raises(TypeError, match="not a function"):
        probe(lambda x: x, ones())
    for batch in (3.0, [], torch.tensor(1.0), torch.ones(0, 4)):
        with pytest.raises(ValueError, match="holds no array"):
            probe(net(), batch)


def test_the_copy_of_a_job_shares_nothing():
    from computemeter.planning import _torch_probe

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    made = _torch_probe.copied(Job(model, data(), None, optimizer))
    own = {id(each) for each in made.model.parameters()}
    assert {id(each) for each in made.optimizer.param_groups[0]["params"]} == own
    assert not own & {id(each) for each in model.parameters()}
    assert copy.deepcopy(made.optimizer.defaults) == optimizer.defaults


class Watched(torch.optim.Adam):
    """Tells of each step how many second moments are zero before it."""

    zeros = None

    def step(self, closure=None):
        kept = [slot["exp_avg_sq"] for slot in self.state.values()]
        Watched.zeros.append(sum(int((each == 0).sum()) for each in kept))
        return super().step(closure)


def test_what_a_new_optimizer_keeps_has_no_zeros_as_after_a_long_run():
    # One of 10 rows of 4 is used. Of the others the first step leaves 36 zeros, and then none is.
    Watched.zeros = []
    embedding, rows = nn.Embedding(10, 4), torch.zeros(3, dtype=torch.int64)
    probe(embedding, rows, batch_sizes=[3], optimizer=Watched, steps=2, warmup=1, in_process=True)
    assert Watched.zeros[0] == 0  # nothing is kept yet
    assert set(Watched.zeros[1:]) == {0}


def test_what_the_user_s_optimizer_keeps_is_left_as_it_is():
    Watched.zeros = []
    embedding, rows = nn.Embedding(10, 4), torch.zeros(3, dtype=torch.int64)
    optimizer = Watched(embedding.parameters())
    embedding(rows).mean().backward()
    optimizer.step()
    probe(embedding, rows, batch_sizes=[3], optimizer=optimizer, steps=2, warmup=1, in_process=True)
    assert set(Watched.zeros[1:]) == {36}
