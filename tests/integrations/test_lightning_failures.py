"""What goes wrong in a fit, the user's fault or the meter's: training is as without a meter."""

import logging

import pytest
import torch
from lightning_fits import assert_nothing_left, fit, meter
from small_runs import BATCH, FLOPS_PER_EXAMPLE
from torch.utils._python_dispatch import _get_current_dispatch_mode

from computemeter.ledger import read_ledger
from computemeter.lightning import ComputeMeter
from computemeter_lightning._callback import _UNUSED_BATCH_HOOKS


def test_out_of_memory_in_a_counted_step_is_said_and_not_tried_again(small):
    class Fills(small.Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 0:
                raise torch.OutOfMemoryError("no more")
            return super().training_step(batch, batch_idx)

    callback = meter()
    with pytest.raises(torch.OutOfMemoryError):
        fit(small, callback, module=Fills())
    assert callback.summary().model_flops == 0
    assert any("out of memory" in warning for warning in callback.summary().warnings)


def test_an_exception_in_training_reaches_the_user_and_leaves_nothing(small):
    class Breaks(small.Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise RuntimeError("mine")
            return super().training_step(batch, batch_idx)

    callback = meter(ledger=str(small.folder / "ledger"))
    trainer = small.trainer(callback)
    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(Breaks(), small.data(6 * BATCH))
    assert_nothing_left(trainer)
    assert callback.summary().steps == 3
    (file,) = (small.folder / "ledger").glob("*.jsonl")
    assert read_ledger(file).status == "failed"
    assert read_ledger(file).last_totals["model_flops"] == 3 * BATCH * FLOPS_PER_EXAMPLE


def test_ctrl_c(small, capsys):
    class Stopped(small.Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                print("a bar", end="")  # noqa: T201 - as a bar that is not done leaves its line
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    callback = meter(ledger=str(small.folder / "ledger"), verbose=1)
    trainer = small.trainer(callback)
    with pytest.raises(SystemExit):
        trainer.fit(Stopped(), small.data(6 * BATCH))
    assert_nothing_left(trainer)
    (file,) = (small.folder / "ledger").glob("*.jsonl")
    assert read_ledger(file).status == "interrupted"
    # Lightning leaves the process here: no line of the user's could print it any more.
    out = capsys.readouterr().out
    assert "│ 2: " in out.partition("│ steps ")[2].partition("\n")[0]
    assert out.partition("a bar")[2].lstrip(" ").startswith("\n")


def test_ctrl_c_in_a_validation_by_itself_prints_no_table(small, capsys):
    class Stopped(small.Module):
        stops = True

        def validation_step(self, batch, batch_idx):
            if self.stops:
                raise KeyboardInterrupt

    module, data = Stopped(), small.data(BATCH)
    trainer = small.trainer(meter(verbose=1))

    def validate():
        with pytest.raises(SystemExit):
            trainer.validate(module, data)
        return capsys.readouterr().out

    assert "│ steps " not in validate()
    module.stops = False
    trainer.fit(module, data)
    assert "│ steps " in capsys.readouterr().out
    module.stops = True
    assert "│ steps " not in validate()


def test_ctrl_c_after_the_training_prints_the_table_of_the_fit_once(small, capsys):
    class Stopped(small.Module):
        def on_train_end(self):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(small, meter(verbose=1), module=Stopped())
    assert capsys.readouterr().out.count("│ steps ") == 1


def test_a_users_own_patch_of_the_trainer_stays(small):
    trainer = small.trainer(meter())
    trainer.save_checkpoint = mine = lambda *args, **kwargs: None
    trainer.fit(small.Module(), small.data(BATCH))
    assert trainer.save_checkpoint is mine


def test_a_fit_that_cannot_be_metered_is_unknown_and_not_zero(small, monkeypatch):
    def fails(*args, **kwargs):
        raise AttributeError("moved")

    monkeypatch.setattr("computemeter.patches.Patches.wrap", fails)
    callback = meter()
    fit(small, callback)
    assert callback.summary().model_flops is None
    assert callback.summary().run_flops is None


def test_hooks_that_do_nothing_are_not_called(small):
    callback = meter()
    for hook in _UNUSED_BATCH_HOOKS:
        assert not callable(getattr(callback, hook))
        # Lightning must still have a hook of this name, or the list is out of date.
        assert callable(getattr(small.pl.Callback, hook))
    fit(small, callback)
    assert callback.summary().warnings == ()


def test_what_the_callback_wraps_still_exists(small):
    """The wrapped methods are semi-private: this test says so when Lightning moves them."""
    trainer = small.trainer()
    loop = trainer.fit_loop.epoch_loop
    assert callable(loop.automatic_optimization.run)
    assert callable(loop.manual_optimization.run)
    assert isinstance(loop._batches_that_stepped, int)
    assert isinstance(trainer._logger_connector.should_update_logs, bool)
    assert callable(trainer.fit_loop._should_accumulate)


@pytest.mark.parametrize(
    "target",
    [
        "computemeter.meter.Meter.start_step",
        "computemeter.meter.Meter.end_step",
        "computemeter.meter.Meter.attach",
        "computemeter.meter.Meter.log",
        "computemeter.meter.Meter.close",
        "computemeter.meter.Meter.leave_out",
        "computemeter.meter.Meter.take_back",
        "computemeter.meter.Meter.print_summary",
        "computemeter.meter.Meter._read",
        "computemeter.run_meter.Journal",
        "computemeter.run_meter.take_snapshot",
        "computemeter.step_meter.examples",
        "computemeter.book.StepBook.add",
        "computemeter.book.StepBook.wants_count",
        "computemeter.counters.torch_counter._plain_signature",
        "computemeter.counters.torch_counter.torch_device",
        "computemeter.counters.torch_tally.Tally.book",
        "computemeter.counters.torch_tally.Tally.count",
        "computemeter.counters.torch_counter.CountingMode",
        "computemeter_lightning._callback.TorchCounter",
        "computemeter_lightning._callback._place",
        "computemeter_lightning._steps._batch_of",
        "computemeter_lightning._callback.LossWindow.automatic",
        "computemeter.patches.Patches.wrap",
        "computemeter.patches.Patches.remove",
    ],
)
def test_a_failure_anywhere_leaves_training_untouched(small, monkeypatch, target):
    def train(*callbacks):
        small.pl.seed_everything(3)
        module = small.Module()
        trainer = small.trainer(*callbacks, max_epochs=2, enable_checkpointing=True)
        trainer.fit(module, small.data(4 * BATCH), small.data(BATCH))
        return module.state_dict(), torch.get_rng_state()

    weights, random_state = train()
    callback = meter(verbose=1)

    def fails(*args, **kwargs):
        raise ValueError("injected")

    monkeypatch.setattr(target, fails)
    metered, metered_state = train(callback)
    assert all(torch.equal(weights[name], metered[name]) for name in weights)
    assert torch.equal(random_state, metered_state)
    assert _get_current_dispatch_mode() is None
    assert any("injected" in message for message in callback.failures.messages)


def test_a_failure_is_logged_once_and_stands_in_the_summary(small, monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise ValueError("injected")

    monkeypatch.setattr("computemeter.book.StepBook.add", fails)
    callback = meter()
    with caplog.at_level(logging.WARNING, "computemeter"):
        fit(small, callback, examples=6 * BATCH)
    assert [record for record in caplog.records if "injected" in record.message] != []
    assert len([record for record in caplog.records if "injected" in record.message]) == 1
    assert any("injected (6 times)" in warning for warning in callback.summary().warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peak_flops": -1}, r"peak_flops=-1: accepted is FLOP/s of one device above 0"),
        ({"assumed_utilization": 3}, r"assumed_utilization=3: accepted is a share in \(0, 1\]"),
        ({"warn_at": 0.5}, r"warn_at=0.5: accepted is a factor above 1"),
        ({"warn_at": 4.0, "alarm_at": 3.0}, r"alarm_at=3.0 is below warn_at=4.0"),
    ],
)
def test_bad_values_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        ComputeMeter(**options)


def test_an_unknown_option_is_refused_with_what_is_accepted():
    with pytest.raises(TypeError, match=r"'peak_flop'.*did you mean 'peak_flops'.*loss_key"):
        ComputeMeter(peak_flop=1e12)
    with pytest.raises(TypeError, match="loss_key=3"):
        ComputeMeter(loss_key=3)
