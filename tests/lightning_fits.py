"""Metered fits with a real Trainer, for the tests of the Lightning callback."""

from small_runs import BATCH
from torch.utils._python_dispatch import _get_current_dispatch_mode

from computemeter.lightning import ComputeMeter


def meter(**options):
    return ComputeMeter(**{"trackers": None, "ledger": None, "verbose": 0, **options})


def fit(small, callback, *, examples=5 * BATCH + 3, module=None, validation=None, **options):
    trainer = small.trainer(callback, **options)
    trainer.fit(module or small.Module(), small.data(examples), validation)
    return trainer


def assert_nothing_left(trainer):
    loop = trainer.fit_loop.epoch_loop
    assert "run" not in vars(loop.automatic_optimization)
    assert "run" not in vars(loop.manual_optimization)
    assert "save_checkpoint" not in vars(trainer)
    assert _get_current_dispatch_mode() is None
