"""One fit after another with the Lightning callback: what is one run, and what is another."""

import pytest
from lightning_fits import assert_nothing_left, fit, meter
from small_runs import BATCH, FLOPS_PER_EXAMPLE

from computemeter.ledger import read_ledger
from computemeter.lightning import ComputeMeter


def test_a_second_fit_of_the_same_trainer_goes_on_with_the_run(small):
    callback = meter()
    trainer = fit(small, callback, examples=2 * BATCH)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, small.data(2 * BATCH))
    assert callback.summary().model_flops == 2 * 2 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().run_flops == 3 * 2 * BATCH * FLOPS_PER_EXAMPLE
    assert_nothing_left(trainer)


def test_another_trainer_is_another_run(small):
    callback = meter()
    fit(small, callback, examples=2 * BATCH)
    fit(small, callback, examples=3 * BATCH)
    assert callback.summary().run_flops == 3 * BATCH * FLOPS_PER_EXAMPLE


def test_a_resumed_fit_carries_the_run_on(small):
    trainer = fit(small, meter(), examples=2 * BATCH)
    trainer.save_checkpoint(small.folder / "at.ckpt")
    callback = meter()
    resumed = small.trainer(callback, max_epochs=2)
    resumed.fit(small.Module(), small.data(2 * BATCH), ckpt_path=small.folder / "at.ckpt")
    assert callback.summary().model_flops == 2 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().run_flops == 2 * 2 * BATCH * FLOPS_PER_EXAMPLE


@pytest.mark.parametrize("state", [{"schema": 99}, {"run_flops": 3}, {"schema": "x"}])
def test_a_foreign_state_in_a_checkpoint_is_warned_of_and_is_work_that_is_not_known(small, state):
    callback = meter()
    callback.load_state_dict(state)
    fit(small, callback, examples=BATCH)
    assert callback.summary().model_flops == BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().run_flops is callback.summary().spent_flops is None
    assert len(callback.summary().warnings) == 1
    assert "load_state_dict" in callback.summary().warnings[0]


def test_a_fit_after_validate_and_test(small):
    callback = meter()
    trainer = small.trainer(callback)
    module = small.Module()
    module.test_step = module.validation_step
    trainer.validate(module, small.data(BATCH), verbose=False)
    trainer.fit(module, small.data(BATCH))
    trainer.test(module, small.data(BATCH), verbose=False)
    assert callback.summary().steps == 1
    assert callback.summary().warnings == ()


def test_fast_dev_run_writes_nothing(small):
    callback = ComputeMeter(verbose=0)
    small.trainer(callback, fast_dev_run=True).fit(small.Module(), small.data(BATCH))
    assert not (small.folder / "compute_ledger").exists()
    assert callback.summary().steps == 1


def test_a_fit_with_nothing_left_to_do_writes_no_point_and_ends_well(small):
    trainer = fit(small, meter(), examples=2 * BATCH)
    trainer.save_checkpoint(small.folder / "done.ckpt")
    callback = meter(ledger=str(small.folder / "ledger"))
    again = small.trainer(callback)
    again.fit(small.Module(), small.data(2 * BATCH), ckpt_path=small.folder / "done.ckpt")
    (file,) = (small.folder / "ledger").glob("*.jsonl")
    assert read_ledger(file).progress == ()
    assert read_ledger(file).status == "finished"
