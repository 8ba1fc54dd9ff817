"""What a Trainer's own limits say of how long a fit is, held against the fit that follows."""

import gc
from datetime import timedelta

import pytest
import torch
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, INPUTS
from torch.utils.data import DataLoader, IterableDataset

from computemeter.forecast import Forecast
from computemeter.lightning import ComputeMeter
from computemeter_lightning._length import asking

EPOCH = 7
"""Batches of the data below."""


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(BATCH, INPUTS), torch.randint(0, CLASSES, (BATCH,))


@pytest.fixture
def watched(small, monkeypatch):
    """Fit, and note at each logging step what was said to be left, and what came of it."""
    # These fits are short.
    monkeypatch.setattr("computemeter.forecast._ENOUGH_STEPS", 1)
    monkeypatch.setattr("computemeter.forecast._WORTH_SAYING", 0.0)

    class Fitted(small.pl.Callback):
        def __init__(self, **options):
            options = {"trackers": None, "ledger": None, "verbose": 0, **options}
            self.meter = ComputeMeter(**options)
            self.lengths, self.rounds = [], 0  # (steps run, rounds so far, Length)

        def fit(self, *callbacks, data=None, validation=None, module=None, ckpt=None, **options):
            options = {"log_every_n_steps": 1, "num_sanity_val_steps": 1, **options}
            self.trainer = small.trainer(self.meter, self, *callbacks, **options)
            data = small.data(EPOCH * BATCH) if data is None else data
            self.trainer.fit(module or small.Module(), data, validation, ckpt_path=ckpt)
            return self

        def on_fit_start(self, trainer, pl_module):
            outlook = self.meter._meter.outlook
            ask = outlook.length

            def asked(steps):
                length = ask(steps)
                self.lengths.append((steps, self.rounds, length))
                return length

            outlook.length = asked

        def on_validation_start(self, trainer, pl_module):
            self.rounds += not trainer.sanity_checking

        @property
        def first(self):
            """The first forecast."""
            return self.meter._meter.outlook.first

        def assert_true(self):
            """All that was said to be left did come."""
            assert self.lengths
            total = self.meter.summary().steps
            assert [length.steps for _, _, length in self.lengths] == [
                total - steps for steps, _, _ in self.lengths
            ]

        def assert_rounds_true(self):
            assert [length.rounds for _, _, length in self.lengths] == [
                self.rounds - before for _, before, _ in self.lengths
            ]

    return Fitted


@pytest.mark.parametrize(
    ("options", "limit", "total"),
    [
        ({"max_epochs": 3}, "max_epochs", 3 * 7),
        ({"max_epochs": 3, "limit_train_batches": 4}, "max_epochs", 3 * 4),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, "max_epochs", 3 * 3),
        ({"max_epochs": -1, "max_steps": 10}, "max_steps", 10),
        ({"max_epochs": 3, "max_steps": 10}, "max_steps", 10),
        ({"max_epochs": 2, "max_steps": 100}, "max_epochs", 2 * 7),
        # 7 batches are 3, 3 and 1: an epoch has 3 optimizer steps.
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, "max_epochs", 14),
        ({"max_epochs": -1, "max_steps": 5, "accumulate_grad_batches": 3}, "max_steps", 7 + 6),
        ({"max_epochs": -1, "max_steps": 6, "accumulate_grad_batches": 3}, "max_steps", 14),
        ({"max_epochs": -1, "max_steps": 1, "accumulate_grad_batches": 9}, "max_steps", 7),
    ],
)
def test_the_steps_that_are_left(watched, options, limit, total):
    fitted = watched().fit(**options)
    fitted.assert_true()
    assert fitted.meter.summary().steps == total
    assert {length.limit for _, _, length in fitted.lengths} == {limit}
    assert {(length.unknown, length.may_stop) for _, _, length in fitted.lengths} == {("", ())}


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "val_check_interval": 2},
        {"max_epochs": 3, "val_check_interval": 0.5},
        {"max_epochs": 5, "check_val_every_n_epoch": 2},
        {"max_epochs": 4, "check_val_every_n_epoch": 2, "val_check_interval": 3},
        {"max_epochs": 3, "check_val_every_n_epoch": None, "val_check_interval": 5},
        {"max_epochs": -1, "max_steps": 10, "val_check_interval": 2},
        {"max_epochs": -1, "max_steps": 17, "check_val_every_n_epoch": 2},
        {"max_epochs": 3, "limit_val_batches": 0},
    ],
)
def test_the_validations_that_are_left(watched, small, options):
    fitted = watched().fit(validation=small.data(2 * BATCH), **options)
    fitted.assert_true()
    fitted.assert_rounds_true()


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 10, "val_check_interval": 3},
        {"max_steps": 9, "val_check_interval": 3},
        {"max_steps": 5, "val_check_interval": 4, "accumulate_grad_batches": 2},
        {"max_steps": 10, "val_check_interval": 4, "check_val_every_n_epoch": None},
        # A limit gives it a length.
        {"max_epochs": 3, "limit_train_batches": 4},
        {"max_epochs": 4, "limit_train_batches": 4, "check_val_every_n_epoch": 2},
        {"max_epochs": 2, "limit_train_batches": 5, "val_check_interval": 2},
    ],
)
def test_the_validations_that_are_left_of_data_without_a_length(watched, small, options):
    fitted = watched().fit(
        data=unsized(), validation=small.data(BATCH), **{"max_epochs": -1} | options
    )
    fitted.assert_true()
    fitted.assert_rounds_true()
    assert {length.validates for _, _, length in fitted.lengths} == {True}


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 2, "check_val_every_n_epoch": 2}])
def test_validations_of_which_nobody_knows_when_they_come(watched, small, options):
    # At the end of the data, if it has one; in the second epoch, if there is one.
    fitted = watched().fit(
        data=unsized(), validation=small.data(BATCH), max_epochs=-1, max_steps=6, **options
    )
    assert {(length.rounds, length.validates) for _, _, length in fitted.lengths} == {(None, True)}
    assert fitted.first.rounds_missing
    quiet = watched().fit(data=unsized(), max_epochs=-1, max_steps=6)
    assert not quiet.first.rounds_missing


def test_checkpoints_that_were_seen_are_not_said_to_be_missing(watched, small):
    saving = small.pl.callbacks.ModelCheckpoint(small.folder, every_n_train_steps=1)
    fitted = watched().fit(saving, max_epochs=3, enable_checkpointing=True)
    assert (fitted.lengths[0][2].rounds, fitted.lengths[0][2].validates) == (3, False)
    assert not fitted.first.rounds_missing


def test_without_validation_the_ends_of_epochs_are_rounds_where_they_save(watched):
    fitted = watched().fit(max_epochs=3, enable_checkpointing=True)
    # The end of an epoch comes after its last batch.
    rounds = [length.rounds for _, _, length in fitted.lengths]
    assert rounds == [3] * 7 + [2] * 7 + [1] * 7
    assert {length.rounds for _, _, length in watched().fit(max_epochs=3).lengths} == {0}


@pytest.mark.parametrize(
    ("limits", "own"),
    [({"max_epochs": 3}, 3 * EPOCH - 10), ({"max_epochs": -1, "max_steps": 16}, 16 - 10)],
)
def test_a_run_resumed_in_the_middle_of_an_epoch_has_what_is_left(watched, small, limits, own):
    saving = small.pl.callbacks.ModelCheckpoint(small.folder, "middle", every_n_train_steps=10)
    watched().fit(saving, max_epochs=2, enable_checkpointing=True)
    resumed = watched().fit(ckpt=small.folder / "middle.ckpt", **limits)
    resumed.assert_true()
    assert resumed.first.steps == own
    # In all launches: 10 steps before and its own.
    assert resumed.first.run_flops == (10 + own) * BATCH * FLOPS_PER_EXAMPLE


def test_under_manual_optimization_it_steps_as_often_as_so_far(watched, small):
    class Manual(small.Module):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

        def configure_optimizers(self):
            first, last = self.net[0].parameters(), self.net[-1].parameters()
            return torch.optim.SGD(first, 0.1), torch.optim.SGD(last, 0.1)

    fitted = watched().fit(module=Manual(), max_epochs=-1, max_steps=18)
    fitted.assert_true()
    assert fitted.meter.summary().steps == 9  # of two optimizers' steps each


def test_a_limit_of_time(watched, small):
    fitted = watched().fit(max_epochs=-1, max_time=timedelta(seconds=0.3))
    steps, _, length = fitted.lengths[1]
    assert (length.steps, length.unknown) == (None, "")
    assert 0 < length.seconds <= 0.3
    first = fitted.first
    assert (first.limit, first.timed, first.rounds_missing) == ("max_time", True, False)
    assert first.step == steps
    assert 0 < first.seconds_left <= 0.3
    # Whichever is first: a million steps are not made in a second.
    both = watched().fit(max_epochs=-1, max_steps=10**6, max_time=timedelta(seconds=0.3))
    assert both.first.timed
    steps = watched().fit(max_epochs=1, max_time=timedelta(days=1))
    assert (steps.first.limit, steps.first.timed) == ("max_epochs", False)


def unsized():
    return DataLoader(Endless(), batch_size=None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_epochs": 3}, "the training data does not say how many batches it has"),
        ({"max_epochs": -1}, "nothing ends this fit by itself (max_epochs=-1, max_steps=-1)"),
    ],
)
def test_an_end_that_nobody_knows_is_said_and_not_guessed(watched, small, capsys, options, reason):
    data = unsized() if "data" in reason else None

    class Ends(small.pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 5

    fitted = watched(verbose=1).fit(Ends(), data=data, **options)
    line = f"computemeter: the time left is not known: {reason}"
    assert capsys.readouterr().out.count(line) == 1
    assert fitted.first is None
    assert fitted.meter.summary().projection is None
    assert fitted.meter.summary().warnings == ()


def test_data_without_a_length_ends_with_its_steps_or_sooner(watched):
    fitted = watched().fit(data=unsized(), max_epochs=2, max_steps=8)
    fitted.assert_true()
    assert {length.rounds for _, _, length in fitted.lengths} == {0}
    assert fitted.first.may_stop == ("the end of the data",)
    endless = watched().fit(data=unsized(), max_epochs=-1, max_steps=8, accumulate_grad_batches=2)
    assert endless.first.may_stop == ()
    assert (endless.first.steps, endless.meter.summary().steps) == (16, 16)


def test_early_stopping_cannot_be_known_and_is_named(watched, small, capsys):
    stopping = small.pl.callbacks.EarlyStopping(
        "loss", patience=0, mode="max", stopping_threshold=0
    )
    fitted = watched(verbose=1).fit(stopping, max_epochs=50)
    out = capsys.readouterr().out
    assert fitted.first.may_stop == ("EarlyStopping",)
    assert "; EarlyStopping may end it sooner" in out
    summary = fitted.meter.summary()
    assert (summary.projection.steps, summary.projection.real_steps) == (350, summary.steps)
    assert summary.steps < 350
    # Where it has been told to stop, there is nothing more to forecast.
    assert fitted.lengths[-1][2] is None or fitted.lengths[-1][2].steps > 0


def test_the_line_is_printed_once_and_by_each_fit(watched, small, capsys):
    fitted = watched(verbose=1)
    fitted.fit(max_epochs=3, log_every_n_steps=3, validation=small.data(BATCH))
    out = capsys.readouterr().out
    assert out.count("left on 1 x") == 1
    # At the second logging step, the sixth step, no validation has been seen: it follows the 7th.
    assert "done by" in out
    assert "validation or checkpoints that were not seen yet may come on top" in out
    assert "said at step 6 before validation" in " ".join(out.replace("│", " ").split())
    assert fitted.meter._meter._last.forecast is not None
    assert not fitted.meter._meter._last.forecast.rounds_missing
    fitted.trainer.fit_loop.max_epochs = 6
    fitted.trainer.fit(small.Module(), small.data(EPOCH * BATCH))
    assert capsys.readouterr().out.count("left on 1 x") == 1


def test_the_line_begins_below_a_progress_bar(watched, small, capsys):
    bar = small.pl.callbacks.TQDMProgressBar()
    watched(verbose=1).fit(bar, max_epochs=3, enable_progress_bar=True)
    # Into a pipe tqdm writes carriage returns only, and what follows would stand behind its bar.
    lines = capsys.readouterr().out.split("\n")
    assert sum("it/s" in line for line in lines) >= 1
    assert [line[:15] for line in lines if "left on 1 x" in line] == ["computemeter: a"]


def test_validation_is_in_the_time_that_is_left(watched, small):
    fitted = watched().fit(max_epochs=3, validation=small.data(4 * BATCH))
    last = fitted.meter._meter._last
    assert isinstance(last.forecast, Forecast)
    # Nothing but the last validation is left, and it takes what the others took.
    assert last.forecast.steps == last.totals.steps == 21
    assert 0 < last.forecast.seconds_left < fitted.meter.summary().wall_seconds / 2


@pytest.mark.parametrize(
    "options",
    [
        {"fast_dev_run": 3},
        {"max_epochs": 1, "log_every_n_steps": 4},
        {"max_epochs": 1, "log_every_n_steps": 100},
        {"max_epochs": 0},
        {"max_epochs": 3, "limit_train_batches": 0},
    ],
)
def test_nothing_is_printed_of_a_fit_that_is_too_short(watched, small, capsys, options):
    fitted = watched(verbose=1)
    fitted.fit(validation=small.data(BATCH), **options)
    assert "left on" not in capsys.readouterr().out
    assert "not known" not in capsys.readouterr().out
    assert fitted.meter.summary().warnings == ()


def test_a_trainer_that_cannot_be_asked_trains_on(watched, monkeypatch):
    def fails(trainer):
        raise RuntimeError("no such attribute")

    monkeypatch.setattr("computemeter_lightning._length._by_epochs", fails)
    fitted = watched().fit(max_epochs=2)
    summary = fitted.meter.summary()
    assert (summary.steps, summary.projection) == (14, None)
    (warning,) = summary.warnings
    assert "Outlook.look failed" in warning
    assert "no such attribute" in warning


def test_no_trainer_is_kept_alive(small):
    trainer = small.trainer()
    ask = asking(trainer)
    del trainer
    gc.collect()  # a Trainer refers to itself
    assert ask(0) is None
