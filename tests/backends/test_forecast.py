"""What a Keras fit says of its own length, held against the fit that follows."""

import keras
import numpy as np
import pytest
from keras import layers
from torch.utils.data import DataLoader, IterableDataset

from computemeter.keras import ComputeMeter

EPOCH = 5
"""Batches, of 4 examples."""
X = np.random.default_rng(0).random((4 * EPOCH, 3), dtype="float32")
Y = np.eye(2, dtype="float32")[[0, 1] * 10]


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Let a forecast rest on one step, and be told of a second: these fits have few."""
    monkeypatch.setattr("computemeter.forecast._ENOUGH_STEPS", 1)
    monkeypatch.setattr("computemeter.forecast._WORTH_SAYING", 0.0)


class Asked(keras.callbacks.Callback):
    """Stands behind a meter, and notes what is said of the length at each logging step."""

    def __init__(self, meter):
        super().__init__()
        self._meter, self.lengths = meter, []

    def on_train_begin(self, logs=None):
        outlook = self._meter._meter.outlook
        ask = outlook.length

        def asked(steps):
            self.lengths.append((steps, ask(steps)))
            return self.lengths[-1][1]

        outlook.length = asked


def fit(model, *callbacks, data=(X, Y), meter=None, **options):
    options = {"verbose": 0, "epochs": 3, **options}
    if isinstance(data, tuple):
        options["batch_size"] = 4
    else:
        data = (data,)
    meter = meter or quiet()
    asked = Asked(meter)
    model.fit(*data, callbacks=[meter, asked, *callbacks], **options)
    return meter, asked.lengths


def quiet(**options):
    return ComputeMeter(**{"ledger": None, "trackers": None, "verbose": 0, **options})


def batches():
    while True:
        yield X[:4], Y[:4]


class Unsized(IterableDataset):
    """An epoch of it has 5 batches; it does not say so."""

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def assert_true(meter, lengths):
    total = meter.summary().steps
    assert [length.steps for _, length in lengths] == [total - steps for steps, _ in lengths]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 3 * EPOCH),
        ({"initial_epoch": 1, "epochs": 4}, 3 * EPOCH),
        ({"data": batches(), "steps_per_epoch": 2}, 3 * 2),
    ],
)
def test_the_steps_that_are_left(model, options, steps):
    meter, lengths = fit(model, **options)
    assert meter.summary().steps == steps
    assert_true(meter, lengths)
    projection = meter.summary().projection
    assert (projection.steps, projection.real_steps, projection.flops_error) == (steps, steps, 0.0)
    # At their ends there is nothing: no validation, and nobody saves.
    assert {(length.rounds, length.validates) for _, length in lengths} == {(0, False)}


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        # Logged at the ends of six epochs: the validations after each.
        ({"validation_data": (X, Y)}, [5, 4, 3, 2, 1, 0]),
        ({"validation_split": 0.2}, [5, 4, 3, 2, 1, 0]),
        ({"validation_data": (X, Y), "validation_freq": 4}, [1, 1, 1, 0, 0, 0]),
        ({"validation_data": (X, Y), "validation_freq": [2, 5]}, [2, 1, 1, 1, 0, 0]),
        ({"validation_data": (X, Y), "validation_freq": 4, "initial_epoch": 3}, [0, 0, 0]),
        ({}, [0, 0, 0, 0, 0, 0]),
        ({"validation_freq": 2}, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_the_validations_that_are_left(model, options, rounds):
    _, lengths = fit(model, epochs=6, **options)
    assert [length.rounds for _, length in lengths] == rounds
    assert {length.validates for _, length in lengths} == {
        "_data" in str(options) or "_split" in str(options)
    }


@pytest.mark.parametrize("kind", ["ModelCheckpoint", "BackupAndRestore"])
def test_without_validation_the_ends_of_epochs_are_rounds_where_they_save(model, tmp_path, kind):
    path = tmp_path / "kept.weights.h5"
    saving = {
        "ModelCheckpoint": lambda: keras.callbacks.ModelCheckpoint(path, save_weights_only=True),
        "BackupAndRestore": lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup"),
    }[kind]()
    _, lengths = fit(model, saving)
    assert [length.rounds for _, length in lengths] == [2, 1, 0]


def test_a_fit_that_cannot_be_looked_into_has_an_epochs_end_for_a_round(model, monkeypatch):
    def fails(_):
        raise RuntimeError("injected")

    monkeypatch.setattr("computemeter_keras._callback.validation_freq_of", fails)
    meter, lengths = fit(model)
    assert [length.rounds for _, length in lengths] == [2, 1, 0]
    assert meter.summary().steps == 3 * EPOCH


@pytest.mark.parametrize("log_freq", ["epoch", 2])
def test_the_line_begins_below_a_bar_that_goes_to_a_file(model, capsys, log_freq):
    fit(model, meter=quiet(verbose=1, log_freq=log_freq), verbose=1)
    out = capsys.readouterr().out
    assert "\ncomputemeter: about" in out
    assert "step - loss" in out.partition("\ncomputemeter: about")[0]
    # Without a bar there is no empty line.
    fit(model, meter=quiet(verbose=1, log_freq=log_freq), verbose=2)
    assert "\n\ncomputemeter" not in capsys.readouterr().out


def test_by_batches_the_end_of_an_epoch_is_still_to_come(model):
    meter, lengths = fit(model, meter=quiet(log_freq=EPOCH), validation_data=(X, Y))
    assert_true(meter, lengths)
    assert [length.rounds for _, length in lengths] == [3, 2, 1]
    # Its validation has come since the first logging step.
    assert meter._snapshot.forecast.rounds_missing is False


def test_data_without_a_length_has_one_from_the_second_epoch_on(model, capsys):
    unsized = DataLoader(Unsized(), batch_size=4)
    meter, lengths = fit(model, meter=quiet(log_freq=2, verbose=1), data=unsized)
    # Logged at steps 2 and 4, with no length; then at 6, 8, 10, 12 and 14 of 15, and at the end.
    first, then = lengths[:2], lengths[2:]
    assert [(steps, length.steps) for steps, length in first] == [(2, None), (4, None)]
    assert [(steps, length.steps) for steps, length in then[:5]] == [
        (steps, 15 - steps) for steps in (6, 8, 10, 12, 14)
    ]
    assert {length.unknown for _, length in lengths} == {""}
    assert meter.summary().projection.step == 6
    assert capsys.readouterr().out.count("left on") == 1


def test_one_epoch_of_it_has_none(model, capsys):
    unsized = DataLoader(Unsized(), batch_size=4)
    meter, _ = fit(model, meter=quiet(log_freq=2, verbose=1), data=unsized, epochs=1)
    assert meter.summary().projection is None
    assert meter.summary().warnings == ()
    assert "left" not in capsys.readouterr().out  # nothing can be said, and nothing is


def test_nobody_knows_when_a_callback_stops_it(model, capsys):
    stops = keras.callbacks.EarlyStopping(
        "loss", patience=0, mode="max", baseline=10.0, start_from_epoch=2
    )
    meter, lengths = fit(
        model, stops, keras.callbacks.TerminateOnNaN(), meter=quiet(verbose=1), epochs=50
    )
    assert lengths[0][1].may_stop == ("EarlyStopping", "TerminateOnNaN")
    assert "; EarlyStopping or TerminateOnNaN may end it sooner" in capsys.readouterr().out
    projection = meter.summary().projection
    assert (projection.steps, projection.real_steps) == (50 * EPOCH, meter.summary().steps)
    assert projection.real_steps < 50 * EPOCH
    assert projection.flops_error is None


def test_the_line_is_printed_once_by_each_fit(model, capsys):
    meter = quiet(verbose=1)
    for _ in range(2):
        fit(model, meter=meter, epochs=4)
        assert capsys.readouterr().out.count("left on") == 1
    fit(model, meter=meter, epochs=1)
    assert "left on" not in capsys.readouterr().out


def test_a_second_fit_is_told_of_its_own_steps_and_the_whole_run(model):
    meter = quiet()
    fit(model, meter=meter, epochs=2)
    before = meter.summary().run_flops
    _, lengths = fit(model, meter=meter, epochs=4)
    assert_true(meter, lengths)
    projection = meter.summary().projection
    assert projection.steps == 4 * EPOCH
    assert projection.run_flops == before + 4 * EPOCH * meter.summary().flops_per_step


def test_a_loop_of_the_users_own_has_no_length(model):
    meter = quiet(log_freq=2)
    with meter.training(model):
        for _ in range(8):
            model.train_on_batch(X[:4], Y[:4])
    assert meter._snapshot.forecast is None
    assert meter.summary().warnings == ()


def test_a_length_that_fails_is_told_of_and_the_fit_goes_on(model, monkeypatch):
    def fails(*_):
        raise RuntimeError("injected")

    monkeypatch.setattr("computemeter_keras._length.FitLength.left", fails)
    monkeypatch.setattr("computemeter_keras._length.FitLength.end_epoch", fails)
    meter = quiet()
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[meter])
    assert meter.summary().steps == 3 * EPOCH
    assert any("injected" in warning for warning in meter.summary().warnings)
