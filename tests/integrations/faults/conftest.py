"""A fault at every place where the meter could have one: the training never learns of it.

Each test replaces one method by one that raises, trains with a Trainer and in a plain loop, and
compares with training that nothing meters: the same weights, losses and random numbers bit for bit.
"""

import importlib

import pytest
from faults import Recorder, fit, loop
from torch.utils._python_dispatch import _get_current_dispatch_mode

from computemeter import Meter, ending
from computemeter.lightning import ComputeMeter


@pytest.fixture
def pl():
    """Only one namespace of Lightning: the callback is the same in both."""
    return importlib.import_module("lightning.pytorch")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Do not wait for sinks that cannot deliver, and leave nothing to the next test."""
    monkeypatch.setattr(ending, "SECONDS", 0.5)
    yield
    while (mode := _get_current_dispatch_mode()) is not None:
        mode.__exit__(None, None, None)


@pytest.fixture(scope="module")
def without():
    """Remember training without a meter: it is the same in every test."""
    return {}


@pytest.fixture
def trains_the_same(small, without, caplog):
    """Train both ways with a meter, and compare; return what the user was told."""

    def options(sink):
        return {
            "trackers": [sink],
            "ledger": small.folder / "ledger",
            "verbose": 1,
            "alert": True,
            "settle_steps": 0,
            "settle_seconds": 0.0,
        }

    def train(sink=None, *, by_hand=True, with_a_trainer=True):
        if not without:
            without.update(fit=fit(small), loop=loop())
        caplog.clear()
        if with_a_trainer:
            assert fit(small, ComputeMeter(**options(sink or Recorder()))) == without["fit"]
        if by_hand:
            assert loop(Meter(log_every=1, **options(sink or Recorder()))) == without["loop"]
        return [record.message for record in caplog.records if record.name == "computemeter"]

    return train
