"""A stack of three layers, trained in a plain loop or with a Trainer, and its FLOPs by hand."""

import torch
from meter_loops import quiet
from small_runs import CLASSES, HIDDEN, INPUTS
from torch import nn
from torch.nn.functional import cross_entropy

# Forward FLOPs of one example through each layer of `stack`; a weight's gradient is as much work
# again, and so is the gradient of a layer's input.
FIRST, SECOND, THIRD = 2 * INPUTS * HIDDEN, 2 * HIDDEN * HIDDEN, 2 * HIDDEN * CLASSES
ALL_TRAINED = 2 * FIRST + 3 * SECOND + 3 * THIRD


def stack():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, CLASSES),
    )


def batches(*sizes):
    torch.manual_seed(1)
    for size in sizes:
        yield torch.randn(size, INPUTS), torch.randint(0, CLASSES, (size,))


def train(model, data, optimizer=None):
    """Train in a plain loop, and return the meter's summary."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer or torch.optim.SGD(trained, lr=0.1)
    with quiet() as meter:
        for inputs, labels in data:
            with meter.step((inputs, labels)):
                cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    assert meter.summary().warnings == ()
    assert meter.summary().uncounted_ops == {}
    return meter.summary()
