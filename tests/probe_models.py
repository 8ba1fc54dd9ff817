"""Nets that a probe takes to another process, which imports them from here."""

import os
import time

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
            time.sleep(3600)
        return super().forward(x)


class Suicidal(nn.Linear):
    """Is killed, as the system kills what takes too much memory, at more than 8 examples."""

    def forward(self, x):
        if len(x) > 8:
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Leaving(nn.Linear):
    """Ends its process of its own will at more than 8 examples."""

    def forward(self, x):
        if len(x) > 8:
            raise SystemExit("bye")
        return super().forward(x)


class Forking(nn.Linear):
    """Has a child that it names in a file, and never ends a step of more than 8 examples."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.child = self.named_in = None

    def forward(self, x):
        if self.child is None:
            self.child = os.fork()
            if not self.child:
                time.sleep(600)
                os._exit(0)
            self.named_in.write_text(str(self.child))
        if len(x) > 8:
            time.sleep(600)
        return super().forward(x)


class WritesIntoIt(nn.Linear):
    """Doubles its batch in place, and takes only ones."""

    def forward(self, x):
        if not bool((x == 1).all()):
            raise ValueError("no ones")
        return super().forward(x.mul_(2))


class StaysHere(nn.Linear):
    """Is read in no other process."""

    def __reduce_ex__(self, protocol):
        raise TypeError("it stays here")

    def __deepcopy__(self, memo):
        copy = StaysHere(self.in_features, self.out_features)
        copy.load_state_dict(self.state_dict())
        return copy
