"""Faults to inject into a meter, and the trainings that must not learn of them."""

from contextlib import nullcontext

import torch
from small_runs import BATCH, CLASSES, HIDDEN, INPUTS
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

FAULT = "an injected fault"
STEPS = 3


class Recorder:
    """A sink with everything that a sink may have."""

    name, run_id, destination = "recorder", "run", "http://host"

    def log(self, metrics, *, step, time):
        """Queue values."""

    def tag(self, tags):
        """Queue facts."""

    def alert(self, title, text):
        """Queue an alert."""

    def files(self, make):
        """Store files."""

    def close(self, timeout=5.0):
        """Deliver."""
        return 0


def public_methods(cls):
    """Find methods and properties, so that one which is added is tested at once."""
    kinds = (property, staticmethod, classmethod)
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, kinds))
    ]


class Fault:
    """Raises wherever it is called, and counts."""

    def __init__(self, error=None):
        self.error = error or RuntimeError(FAULT)
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        raise self.error

    def at(self, monkeypatch, cls, name):
        kinds = {property: property, staticmethod: staticmethod, classmethod: classmethod}
        kind = kinds.get(type(vars(cls).get(name)), lambda function: function)

        def fail(*args, **kwargs):
            return self(*args, **kwargs)

        monkeypatch.setattr(cls, name, kind(fail))


def state(module, losses):
    """Return everything of a training that must not change."""
    parameters = {name: value.tolist() for name, value in module.state_dict().items()}
    return parameters, [float(loss) for loss in losses], torch.get_rng_state().tolist()


def fit(small, *callbacks):
    """Train with a Trainer, with a validation and a checkpoint."""
    losses = []

    class Module(small.Module):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.detach())
            return loss

    small.pl.seed_everything(7, verbose=False)
    module = Module()
    keeper = small.pl.callbacks.ModelCheckpoint(small.folder, every_n_train_steps=2)
    trainer = small.trainer(*callbacks, keeper, enable_checkpointing=True)
    trainer.fit(module, small.data(STEPS * BATCH), small.data(BATCH))
    loop = trainer.fit_loop.epoch_loop
    for owner in (trainer, loop, loop.automatic_optimization, loop.manual_optimization):
        left = {"run", "save_checkpoint", "_on_before_fetch", "_on_after_fetch"} & set(vars(owner))
        assert left == set()
    assert trainer.state.finished
    assert _get_current_dispatch_mode() is None
    return state(module, losses)


def loop(given=None):
    """Train in a loop, with a validation."""
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(HIDDEN, CLASSES)
    )
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    with given or nullcontext():
        for _ in range(STEPS):
            batch = torch.randn(BATCH, INPUTS)
            with given.step(batch) if given else nullcontext():
                loss = net(batch).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
        with given.validation() if given else nullcontext():
            net(batch)
    assert _get_current_dispatch_mode() is None
    return state(net, losses)
