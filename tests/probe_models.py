"""Nets that a probe takes to another process, which imports them from here."""

import torch
from torch import nn


class Hungry(nn.Module):
    """Takes a mebibyte for each example, besides a layer that is trained."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        memory = torch.ones(len(x), 2**18)
        return self.layer(x) + memory[:, :1]


class Sleepy(nn.Linear):
    """Never ends a step of more than 8 examples."""

    def forward(self, x):
        if len(x) > 8:
            import time

            time.sleep(3600)
        return super().forward(x)


class Suicidal(nn.Linear):
    """Is killed, as the system kills what takes too much memory, at more than 8 examples."""

    def forward(self, x):
        if len(x) > 8:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class StaysHere(nn.Linear):
    """Is read in no other process."""

    def __reduce_ex__(self, protocol):
        raise TypeError("it stays here")

    def __deepcopy__(self, memo):
        copy = StaysHere(self.in_features, self.out_features)
        copy.load_state_dict(self.state_dict())
        return copy
