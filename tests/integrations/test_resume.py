"""What a fit goes on from, by the Trainer's own checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import BATCH, FLOPS_PER_EXAMPLE

from computemeter.base_model import BaseModel
from computemeter.disclosure.find import run_at
from computemeter.disclosure.totals import assemble
from computemeter.lightning import ComputeMeter
from computemeter.receipt import read_receipt
from computemeter.receipt_match import find_receipt

STEP = BATCH * FLOPS_PER_EXAMPLE
NOT_SAID = "the checkpoint does not say what compute went into it"


def meter(**options):
    return ComputeMeter(**{"verbose": 0, "trackers": None, **options})


def fit(small, callback, path=None, epochs=1, **options):
    """Train for 3 steps an epoch; return the Trainer."""
    trainer = small.trainer(*[callback] if callback else [], max_epochs=epochs, **options)
    trainer.fit(small.Module(), small.data(3 * BATCH), ckpt_path=path, weights_only=False)
    return trainer


def saved(small, callback=None, epochs=1, path=None):
    target = small.folder / f"{epochs}.ckpt"
    fit(small, callback, path, epochs).save_checkpoint(target)
    return target


def compute(callback):
    summary = callback.summary()
    return summary.run_flops, summary.spent_flops, summary.lineage_flops


def test_work_before_the_meter_is_not_known_and_no_zero(small):
    callback = meter()
    fit(small, callback, saved(small), epochs=2)
    assert callback.summary().model_flops == 3 * STEP
    assert compute(callback) == (None, None, None)
    (said,) = callback.summary().warnings
    assert said.startswith(NOT_SAID)


def test_work_before_the_meter_may_be_the_base_of_a_new_run(small):
    callback = meter(base_flops=1000)
    fit(small, callback, saved(small), epochs=2)
    assert compute(callback) == (3 * STEP, 3 * STEP, 3 * STEP + 1000)
    assert callback.summary().warnings == ()


def halfway(small, *, killed, **options):
    """Train a run of 6 steps in a folder of its own; return its checkpoint after 3."""

    class Module(small.Module):
        def __init__(self, optimizer, data, scale):
            super().__init__()
            self.save_hyperparameters()

    folder = small.folder / "A" / "checkpoints"
    twice = small.pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1)
    where = {"default_root_dir": folder.parent, "enable_checkpointing": True}
    trainer = small.trainer(meter(**options), twice, max_epochs=2, **where)
    trainer.fit(Module(torch.optim.Adam, Path("d"), np.float64(3)), small.data(3 * BATCH))
    receipt = folder / "compute_receipt.json"
    assert read_receipt(receipt).run_flops == 6 * STEP
    if killed:  # before it could write one
        receipt.unlink()
    (first,) = folder.glob("*step=3.ckpt")
    return first


@pytest.mark.parametrize("killed", [False, True])
def test_a_base_is_what_its_checkpoint_holds_and_not_the_whole_run(small, killed):
    """A new run starts from the weights after 3 steps of 6, which had a base of 1000 FLOP."""
    first = halfway(small, killed=killed, base_flops=1000)
    base = BaseModel.read(first)
    assert (base.flops, base.note) == (3 * STEP + 1000, "")
    tuned = meter(base_model=first)
    fit(small, tuned)
    assert compute(tuned) == (3 * STEP, 3 * STEP, 6 * STEP + 1000)


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_and_one_from_its_middle_make_a_model_of_both(small, killed):
    first = halfway(small, killed=killed)
    fit(small, meter(base_model=first), default_root_dir=small.folder / "B")
    whole = small.folder / "A" / ("compute_ledger" if killed else "checkpoints")
    model = assemble("m", [run_at(whole), run_at(small.folder / "B" / "compute_ledger")])
    assert (model.bases, model.total.flops) == ((), (6 + 3) * STEP)


def test_a_base_that_went_on_without_the_meter_is_not_known(small, monkeypatch):
    path = saved(small, meter())
    assert BaseModel.read(path).flops == 3 * STEP
    monkeypatch.setenv("COMPUTEMETER", "0")
    path = saved(small, meter(), epochs=2, path=path)
    monkeypatch.delenv("COMPUTEMETER")
    base = BaseModel.read(path)
    assert read_receipt(find_receipt(path)).hash == base.receipt  # which says 3 steps
    assert base.flops is None
    assert "2.ckpt': not all the work in its weights was metered; the lineage" in base.note


def test_a_state_that_cannot_be_read_is_not_known(small):
    path = saved(small, meter())
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["callbacks"]["computemeter"]["schema"] = 99
    torch.save(checkpoint, path)
    callback = meter()
    fit(small, callback, path, epochs=2)
    assert compute(callback) == (None, None, None)
    assert any("schema 99" in said for said in callback.summary().warnings)


def test_one_checkpoint_resumed_twice_is_spent_twice(small):
    path = saved(small, meter())
    first, second = meter(), meter()
    fit(small, first, path, epochs=2)
    fit(small, second, path, epochs=3)
    # 3 steps, then 3 that the second did not go on from, then its own 6.
    assert compute(first) == (6 * STEP, 6 * STEP, 6 * STEP)
    assert compute(second) == (9 * STEP, 12 * STEP, 9 * STEP)


def test_a_resumed_warm_start_does_not_count_itself(small):
    fit(small, meter(base_flops=1000), default_root_dir=small.folder / "base")
    warm = small.folder / "base" / "compute_ledger"
    path = saved(small, meter(base_model=warm))  # lineage: 3 + 3 steps, and 1000
    resumed = meter(base_model=warm)
    fit(small, resumed, path, epochs=2)
    assert compute(resumed) == (6 * STEP, 6 * STEP, 9 * STEP + 1000)


def test_another_model_in_the_same_trainer_has_none_of_the_first_ones_work(small):
    callback = meter()
    trainer = fit(small, callback)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(small.Module(), small.data(3 * BATCH))
    assert compute(callback) == (3 * STEP, 6 * STEP, 3 * STEP)


def test_a_trainer_that_goes_on_from_a_checkpoint_knows_what_it_did_since(small):
    callback = meter(ledger=None)
    trainer = fit(small, callback)
    path = small.folder / "kept.ckpt"
    trainer.save_checkpoint(path)
    module = trainer.lightning_module
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, small.data(3 * BATCH))
    trainer.fit(module, small.data(3 * BATCH), ckpt_path=path, weights_only=False)
    # 3 in the checkpoint and 3 after it; the 3 of the second fit are lost.
    assert compute(callback) == (6 * STEP, 9 * STEP, 6 * STEP)


def test_a_run_that_has_settled_stays_so_in_a_short_last_segment(small):
    options = {"settle_steps": 5, "settle_seconds": 0, "peak_flops": 1e15}
    path = saved(small, meter(**options), epochs=2)
    resumed = meter(**options)
    fit(small, resumed, path, epochs=3)
    state = resumed.state_dict()
    (last,) = [each for name, each in state["segments"].items() if name != state["parent"]][:1]
    verdicts = [totals["verdict"] for totals in state["segments"].values()]
    assert last["steps"] == 6
    # 6 steps settle, and so do 6 and 3; the segment of 3 alone does not.
    assert verdicts == ["alarm", "alarm"]
    assert resumed.summary().verdict == "unknown"
