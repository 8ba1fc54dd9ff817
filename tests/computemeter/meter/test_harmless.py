"""The meter never harms the training: the same bit for bit, whatever fails inside."""

import copy
import logging
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from meter_loops import PER_EXAMPLE, ListSink, backward, batches, net, quiet, the_ledger, train
from small_runs import BATCH
from torch.utils._python_dispatch import _get_current_dispatch_mode

from computemeter.book import StepBook
from computemeter.clock import TrainingClock
from computemeter.counters.torch_counter import TorchCounter
from computemeter.counters.torch_tally import Tally
from computemeter.journal import Journal


def train_alone(meter_of):
    """Train from a fixed start; return everything that a meter must not change."""
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the state that old code shares
    random.seed(5)
    model = net()
    losses = []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    meter = meter_of()
    with meter or nullcontext():
        for batch in batches(8, 8, 5, 8, 8, 5, 8, 8):
            noise = np.random.rand() + random.random()  # noqa: NPY002
            with meter.step(batch) if meter else nullcontext():
                optimizer.zero_grad()
                losses.append(backward(model, {**batch, "x": batch["x"] + noise}))
                optimizer.step()
            with meter.validation() if meter else nullcontext(), torch.no_grad():
                model(batch["x"])
    random_state = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    return meter, (losses, copy.deepcopy(model.state_dict()), random_state)


def assert_identical(one, other):
    (losses, weights, states), (same_losses, same_weights, same_states) = one, other
    assert [loss.item() for loss in losses] == [loss.item() for loss in same_losses]
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert torch.equal(states[0], same_states[0])
    assert all(
        np.array_equal(mine, its) for mine, its in zip(states[1], same_states[1], strict=True)
    )
    assert states[2] == same_states[2]


@pytest.fixture(scope="module")
def unmetered():
    return train_alone(lambda: None)[1]


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), random.random, np.random.rand])
def test_the_comparison_would_see_a_single_draw(unmetered, draw):
    def no_meter():
        draw()

    with pytest.raises(AssertionError):
        assert_identical(unmetered, train_alone(no_meter)[1])


def test_training_is_the_same_bit_for_bit(unmetered, tmp_path):
    meter, result = train_alone(lambda: quiet(ledger=tmp_path, log_every=1, verbose=1))
    assert_identical(unmetered, result)
    # 6 batches of 8 and 2 of 5
    assert meter.summary().model_flops == 58 * PER_EXAMPLE
    assert meter.summary().warnings == ()


def fail(*_args, **_kwargs):
    raise RuntimeError("injected")


def stop_and_fail(self, stop=TorchCounter.stop):
    stop(self)
    fail()


FAILURES = {
    "StepBook.add": (StepBook, "add", fail),
    "StepBook.wants_count": (StepBook, "wants_count", fail),
    "StepBook.totals": (StepBook, "totals", fail),
    "TrainingClock.start_step": (TrainingClock, "start_step", fail),
    "TrainingClock.end_step": (TrainingClock, "end_step", fail),
    "TrainingClock.leave_out": (TrainingClock, "leave_out", fail),
    "TrainingClock.take_back": (TrainingClock, "take_back", fail),
    "TorchCounter.key": (TorchCounter, "key", fail),
    "TorchCounter.complete": (TorchCounter, "complete", fail),
    "TorchCounter.start": (TorchCounter, "start", fail),
    "TorchCounter.stop": (TorchCounter, "stop", stop_and_fail),
    "TorchCounter.stop, before it stops": (TorchCounter, "stop", fail),
    "TorchCounter.device": (TorchCounter, "device", fail),
    "TorchCounter.parameter_counts": (TorchCounter, "parameter_counts", fail),
    "Tally.book": (Tally, "book", fail),
    "Tally.count": (Tally, "count", fail),
    "Journal.__init__": (Journal, "__init__", fail),
    "Journal.write": (Journal, "write", fail),
    "Journal.close": (Journal, "close", fail),
    "take_snapshot": ("computemeter.run_meter", "take_snapshot", fail),
    "examples": ("computemeter.step_meter", "examples", fail),
    "print_start": ("computemeter.table", "print_start", fail),
    "print_summary": ("computemeter.table", "print_summary", fail),
    "LedgerWriter.open": ("computemeter.ledger_writer.LedgerWriter", "open", fail),
    "LedgerWriter.progress": ("computemeter.ledger_writer.LedgerWriter", "progress", fail),
    "LedgerWriter.end": ("computemeter.ledger_writer.LedgerWriter", "end", fail),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_inside_the_meter_stays_there(name, unmetered, monkeypatch, tmp_path, caplog):
    target, attribute, function = FAILURES[name]
    if isinstance(target, str):
        monkeypatch.setattr(f"{target}.{attribute}", function)
    else:
        monkeypatch.setattr(target, attribute, function)
    with caplog.at_level(logging.WARNING, "computemeter"):
        meter, result = train_alone(lambda: quiet(ledger=tmp_path, log_every=1, verbose=1))
    assert_identical(unmetered, result)
    assert _get_current_dispatch_mode() is None
    # Each trouble is logged once, and kept with how often it came.
    logged = [each.message for each in caplog.records if "injected" in each.message]
    assert logged
    assert len(logged) == len(set(logged))
    assert {each.levelname for each in caplog.records if each.message in logged} == {"WARNING"}
    assert any("injected" in message for message in meter.failures.messages)
    if name not in {"StepBook.totals", "TorchCounter.device", "TorchCounter.parameter_counts"}:
        assert any("injected" in message for message in meter.summary().warnings)
    if meter._journal is not None and meter._journal._ledger is not None:
        meter._journal._ledger.close()  # where the failure kept it open


@pytest.mark.parametrize(
    "name",
    [
        "StepBook.wants_count",
        "TorchCounter.key",
        "TorchCounter.start",
        "TorchCounter.stop",
        "Tally.book",
        "Tally.count",
    ],
)
def test_a_count_that_fails_once_is_made_up_for(name, monkeypatch, tmp_path):
    target, attribute, function = FAILURES[name]
    real, calls = getattr(target, attribute), []

    def fails_once(*args, **kwargs):
        calls.append(1)
        return (function if len(calls) == 1 else real)(*args, **kwargs)

    monkeypatch.setattr(target, attribute, fails_once)
    with quiet(ledger=tmp_path) as meter:
        train(meter, net(), batches(*[BATCH] * 10))
    summary = meter.summary()
    # The step that was not counted is booked like the others, if need be at their mean.
    assert summary.model_flops == 10 * BATCH * PER_EXAMPLE
    assert summary.steps == 10
    assert "injected" in summary.warnings[0]
    assert the_ledger(tmp_path).summary["warnings"] == list(summary.warnings)


def test_a_run_that_was_never_counted_is_unknown_and_not_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(Tally, "book", fail)
    sink = ListSink()
    with quiet(ledger=tmp_path, trackers=[sink], peak_flops=1e12) as meter:
        train(meter, net(), batches(*[BATCH] * 5))
    summary = meter.summary()
    assert (summary.steps, summary.estimated_steps, summary.counted_steps) == (5, 5, 0)
    assert (summary.verdict, summary.cause) == ("unknown", "count_suspect")
    assert summary.ratio is summary.mfu is None
    assert "unknown" in str(summary).partition("operations (method 1)")[2].partition("\n")[0]
    assert "compute/flops" not in sink.logged[-1][2]
    assert "compute/pfs_days" not in sink.logged[-1][2]


def test_the_flops_of_a_step_that_was_never_counted_are_not_zero(monkeypatch):
    monkeypatch.setattr(Tally, "book", fail)
    with quiet() as meter:
        train(meter, net(), batches(*[BATCH] * 5))
    assert meter.summary().flops_per_step is None


def test_a_tracker_that_always_fails_harms_nobody(unmetered, tmp_path):
    class Broken(ListSink):
        def log(self, metrics, *, step, time):
            raise RuntimeError("injected")

        def tag(self, tags):
            raise RuntimeError("injected")

        def close(self, timeout=5.0):
            raise RuntimeError("injected")

    meter, result = train_alone(lambda: quiet(ledger=tmp_path, trackers=[Broken()], log_every=1))
    assert_identical(unmetered, result)
    assert len([each for each in meter.summary().warnings if "injected" in each]) == 3
    assert the_ledger(tmp_path).last_totals["model_flops"] == 58 * PER_EXAMPLE
    assert the_ledger(tmp_path).status == "finished"


def test_a_folder_that_cannot_be_written_harms_nobody(unmetered, tmp_path):
    (tmp_path / "file").touch()
    meter, result = train_alone(lambda: quiet(ledger=tmp_path / "file" / "ledger", log_every=1))
    assert_identical(unmetered, result)
    assert meter.summary().model_flops == 58 * PER_EXAMPLE
    (warning,) = meter.summary().warnings
    assert "file" in warning


def test_an_error_that_cannot_even_be_printed_stays_inside(monkeypatch):
    class UnprintableError(Exception):
        def __str__(self):
            raise ValueError("no text")

    def unprintable(*_args, **_kwargs):
        raise UnprintableError

    monkeypatch.setattr(StepBook, "add", unprintable)
    with quiet() as meter:
        train(meter, net(), batches(BATCH))
    assert meter.failures.messages
