"""Plain loops of PyTorch in a meter, for the tests of the meter.

The net is 12 -> 16 -> 4. For one example: forward 2*(12*16 + 16*4) = 512 FLOPs, the gradients of
the weights 512 again, and that of the second layer's input 2*16*4 = 128: 1,152 in all.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from small_runs import BATCH
from torch import nn

from computemeter import Meter
from computemeter.carried import Carried
from computemeter.clock import TrainingClock
from computemeter.ledger import read_ledger

PER_EXAMPLE = 1_152
# With the first layer frozen: forward 512, the second's weight 128, no gradient of its input.
PER_EXAMPLE_FROZEN = 640
PFS_DAY = 864 * 10**17


def quiet(**options):
    return Meter(**{"ledger": None, "trackers": None, "verbose": 0, **options})


def handed_on(meter):
    return Carried.from_state(meter.state_dict())


def on_clock(meter, hands):
    meter._clock = TrainingClock(now=hands)
    return meter


def net():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))


def batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "x": torch.randn(size, 12, generator=generator),
            "y": torch.randint(0, 4, (size,), generator=generator),
        }
        for size in sizes
    ]


def backward(model, batch):
    loss = F.cross_entropy(model(batch["x"]), batch["y"])
    loss.backward()
    return loss.detach()


def train(meter, model, data, *, given=True):
    """Train one epoch, each step in the meter."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in data:
        with meter.step(batch if given else None):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()


def steps_on(meter, hands, number):
    """Run steps of 1 s with 1 s between them."""
    model = net()
    for batch in batches(*[BATCH] * number):
        with meter.step(batch):
            backward(model, batch)
            hands.wait(1)
        hands.wait(1)
    return meter.summary()


def the_ledger(folder):
    (path,) = folder.glob("*.jsonl")
    return read_ledger(path)


class ListSink:
    """A tracker in memory."""

    name, run_id = "list", "run-7"

    def __init__(self):
        self.logged, self.tags, self.closed = [], {}, 0

    def log(self, metrics, *, step, time):
        self.logged.append((step, time, dict(metrics)))

    def tag(self, tags):
        self.tags |= tags

    def close(self, timeout=5.0):
        self.closed += 1
        return 0
