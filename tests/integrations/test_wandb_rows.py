"""The rows of a user of bare W&B are the same with and without the meter, however they log."""

import os
from types import SimpleNamespace

import pytest

wandb = pytest.importorskip("wandb")

from wandb_server import SOON, finish, logged  # noqa: E402 - after the check for wandb

from computemeter_wandb import WandbSink  # noqa: E402
from computemeter_wandb._rows import Passenger  # noqa: E402

TIME = 1_700_000_000.0
EPOCHS = 6


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    if wandb.run is not None:
        wandb.run.finish()
    wandb.teardown()


def at_the_epoch(run, epoch):
    run.log({"loss": 1 / epoch}, step=epoch)


def at_the_epoch_and_committed(run, epoch):
    run.log({"loss": 1 / epoch}, step=epoch, commit=True)


def at_every_tenth_step(run, epoch):
    run.log({"loss": 1 / epoch}, step=10 * epoch)
    run.log({"accuracy": epoch / 10}, step=10 * epoch)


def without_a_step(_run, epoch):
    wandb.log({"loss": 1 / epoch})


def in_two_halves(run, epoch):
    run.log({"loss": 1 / epoch}, commit=False)
    run.log({"accuracy": epoch / 10})


def with_steps_that_go_back(run, epoch):
    run.log({"loss": 1 / epoch}, step=20 - epoch)  # W&B drops all but the first


LOOPS = [
    at_the_epoch,
    at_the_epoch_and_committed,
    at_every_tenth_step,
    without_a_step,
    in_two_halves,
    with_steps_that_go_back,
]


def train(loop, *, metered):
    """Log as the user does; values of ours come before, between and after the user's."""
    run = wandb.init(project="test")
    sink = WandbSink(run, interval=0.001) if metered else None
    for epoch in range(1, EPOCHS + 1):
        for half in (0.5, 1.0):
            if sink:
                sink.log({"compute/flops": epoch + half}, step=99, time=TIME)
        loop(run, epoch)
    if sink:
        sink.log({"compute/flops": 100.0}, step=99, time=TIME)
        assert sink.close(SOON) == 0
        assert "_partial_history_callback" not in vars(run)  # it is as W&B made it
        assert run.summary["compute/flops"] == 100
    return logged(finish(run))


@pytest.mark.parametrize("loop", LOOPS)
def test_the_users_rows_are_as_without_the_meter(loop):
    alone, metered = train(loop, metered=False), train(loop, metered=True)
    ours = [row.pop("compute/flops") for row in metered if "compute/flops" in row]
    assert metered == alone
    # The newest of the two values before each row; in steps that go back there is one row.
    assert ours == [epoch + 1.0 for epoch in range(1, len(alone) + 1)]


def test_a_row_keeps_the_users_time():
    run = wandb.init(project="test")
    sink = WandbSink(run, interval=0.001)
    sink.log({"compute/flops": 1.0}, step=0, time=TIME)
    run.log({"loss": 1.0, "_timestamp": 5.0}, step=3)
    sink.log({"compute/flops": 2.0}, step=1, time=TIME)
    assert sink.close(SOON) == 0
    (row,) = finish(run).history
    assert (row["_timestamp"], row["_step"], row["compute/flops"]) == (5, 3, 1)


def test_a_name_of_ours_that_the_user_logs_is_the_users():
    run = wandb.init(project="test")
    sink = WandbSink(run)
    sink.log({"compute/loss": 1.0, "compute/flops": 2.0}, step=0, time=TIME)
    run.log({"compute/loss": 7.0})
    assert sink.close(SOON) == 0
    assert logged(finish(run)) == [{"_step": 0, "compute/loss": 7, "compute/flops": 2}]


def test_the_loss_is_drawn_against_compute_and_the_users_metrics_as_they_said():
    run = wandb.init(project="test")
    run.define_metric("epoch")
    run.define_metric("loss", step_metric="epoch", summary="min")
    sink = WandbSink(run)
    sink.log({"compute/loss": 1.0, "compute/pfs_days": 2.0}, step=0, time=TIME)
    for loss in (1.0, 3.0):
        run.log({"loss": loss, "epoch": 0})
    assert sink.close(SOON) == 0
    found = finish(run)
    assert found.metrics == {
        "epoch": None,
        "loss": "epoch",
        "compute/pfs_days": None,
        "compute/loss": "compute/pfs_days",
    }
    assert found.summary["loss"] == {"min": 1}


@pytest.mark.parametrize("rows", [True, False])
def test_a_loss_without_compute_gets_no_zero_for_it(rows):
    run = wandb.init(project="test")
    sink = WandbSink(run, rows=rows, interval=0.001)
    sink.log({}, step=0, time=TIME)
    assert sink.close(SOON) == 0  # the definitions are there
    sink.log({"compute/loss": 1.0}, step=1, time=TIME)
    if not rows:
        run.log({"loss": 2.0})
    assert sink.close(SOON) == 0
    last = logged(finish(run))[-1]
    assert last["compute/loss"] == 1
    assert "compute/pfs_days" not in last


def test_a_forked_process_takes_nothing_along(monkeypatch):
    rows = []
    run = SimpleNamespace(_partial_history_callback=rows.append)
    passenger = Passenger(run)
    passenger.wait({"compute/flops": 1.0})
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    run._partial_history_callback({"loss": 1.0})
    monkeypatch.undo()
    run._partial_history_callback({"loss": 2.0})
    assert rows == [{"loss": 1.0}, {"compute/flops": 1.0, "loss": 2.0}]


def test_a_wandb_that_logs_in_another_way_gets_no_rows_and_no_error():
    run = SimpleNamespace()
    passenger = Passenger(run)
    passenger.wait({"compute/flops": 1.0})
    passenger.leave()
    assert vars(run) == {}
