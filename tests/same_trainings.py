"""A small net and its data for any trainer, and what must be the same with and without a meter."""

import random
from contextlib import nullcontext

import torch
from small_runs import CLASSES, HIDDEN, INPUTS
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.data import TensorDataset


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(HIDDEN, CLASSES)
    )


def dataset(examples):
    torch.manual_seed(1)
    return TensorDataset(torch.randn(examples, INPUTS), torch.randint(0, CLASSES, (examples,)))


def step_of(meter, batch):
    return meter.step(batch) if meter else nullcontext()


def state(model):
    """Return what must be the same with and without the meter."""
    return model.state_dict(), torch.get_rng_state(), random.getstate()


def assert_identical(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert torch.equal(one[1], other[1])
    assert one[2] == other[2]


def assert_complete(summary):
    assert summary.hardware_flops == summary.model_flops
    assert summary.estimated_steps == 0
    assert summary.uncounted_ops == {}
    assert summary.warnings == ()
    assert _get_current_dispatch_mode() is None
