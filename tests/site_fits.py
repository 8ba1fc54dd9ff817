"""Fits in which a site may have attached a meter of its own."""

from small_runs import BATCH, FLOPS_PER_EXAMPLE

from computemeter.ledger import read_ledger
from computemeter_lightning._site import SiteMeter

FLOPS = 2 * BATCH * FLOPS_PER_EXAMPLE
"""Of an epoch of two batches, which is what `fit` trains."""


def site_meters(trainer):
    return [each for each in trainer.callbacks if isinstance(each, SiteMeter)]


def fit(small, *callbacks, module=None, ckpt_path=None, **options):
    small.pl.seed_everything(3)
    trainer, module = small.trainer(*callbacks, **options), (module or small.Module)()
    trainer.fit(module, small.data(2 * BATCH), small.data(BATCH), ckpt_path=ckpt_path)
    return trainer


def weights(trainer):
    return [parameter.tolist() for parameter in trainer.lightning_module.parameters()]


def ledgers(small):
    return [read_ledger(file) for file in small.folder.rglob("*.jsonl")]
