"""A net, its batches and a limit, for tests of the probe."""

import torch
from small_runs import BATCH, CLASSES, HIDDEN, INPUTS
from torch import nn

GIB = 2**30


def net():
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, CLASSES),
    )


def data():
    return torch.randn(BATCH, INPUTS), torch.randint(CLASSES, (BATCH,))


def ones(size=BATCH, width=4):
    return torch.ones(size, width)
