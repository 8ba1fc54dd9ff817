"""A fit that was interrupted and goes on from its backup: what its work was, and what was spent."""

import copy
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
from keras_job import FLOPS, Crash, Job, fit, ledgers_in, logged, net, totals

from computemeter.keras import ComputeMeter
from computemeter_keras._resume import ResumeFile


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing is written into the checkout."""
    monkeypatch.chdir(tmp_path)


# Where the crash is after 10 steps: 2 epochs of 4, and 2 batches.
CRASH = (2, 1)


@pytest.mark.parametrize("first", ["backup", "meter"])
@pytest.mark.parametrize(
    ("save_freq", "run"),
    [
        # The backup has 8 steps; epochs 2 and 3 are 8 more.
        ("epoch", 8 + 8),
        # It has 9, made after steps 3, 6 and 9; Keras begins epoch 2 again all the same.
        (3, 9 + 8),
    ],
)
def test_a_resumed_fit_carries_its_totals_on(tmp_path, first, save_freq, run):
    job = Job(tmp_path, save_freq=save_freq)
    crashed = job.launch(Crash(*CRASH), first=first)
    assert not job.went_well
    assert totals(crashed) == (10, 10)
    assert "backup.computemeter.json" in job.files()
    meter = job.launch(first=first)
    assert job.went_well
    # The 10 steps of before were spent whatever came of them.
    assert totals(meter) == (run, 10 + 8)
    assert meter.summary().model_flops == 8 * FLOPS
    assert job.files() == ["ledger"]
    before, after = job.ledgers()
    assert (before.status, after.status) == ("failed", "finished")
    assert (before.header.parent, after.header.parent) == (None, before.header.segment)
    assert before.header.run == after.header.run == before.header.segment
    # The end of epochs 0 and 1, the crash in 2, and the ends of 2 and 3.
    assert [each.step for each in logged(before)] == [0, 1, 2]
    assert [each.step for each in logged(after)] == [2, 3]
    assert after.last_totals["run_flops"] == run * FLOPS
    assert after.last_totals["spent_flops"] == 18 * FLOPS
    assert logged(after)[0].metrics["compute/flops"] == (run - 4) * FLOPS
    assert meter.summary().warnings == ()


def test_two_crashes(job):
    job.launch(Crash(1, 2))  # 7 steps, 4 of them kept
    job.launch(Crash(2, 0))  # goes on in epoch 1: 4 steps and 1
    meter = job.launch()  # goes on in epoch 2: 8 steps
    assert totals(meter) == (4 + 4 + 8, 7 + 5 + 8)
    first, second, third = job.ledgers()
    assert second.header.parent == first.header.segment
    assert third.header.parent == second.header.segment
    assert {each.header.run for each in (first, second, third)} == {first.header.segment}


def test_steps_go_on_where_the_backup_was_made(job):
    job.launch(Crash(*CRASH), log_freq=4)
    job.launch(log_freq=4)
    steps = [[each.step for each in logged(ledger)] for ledger in job.ledgers()]
    # The crash after step 10 is logged too; the backup has 8.
    assert steps == [[4, 8, 10], [12, 16]]


_SCRIPT = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from keras_job import Crash, Job

job = Job(Path(sys.argv[2]), save_freq=eval(sys.argv[3]))
job.launch(Crash(*eval(sys.argv[4]), how=lambda: os.kill(os.getpid(), signal.SIGKILL)))
"""


@pytest.mark.parametrize(
    ("save_freq", "crash", "run", "spent"),
    [
        # The ledger has the 8 steps of the last logging step, and the backup has as many.
        pytest.param("epoch", CRASH, 8 + 8, 8 + 8, marks=pytest.mark.slow),
        # The ledger was last written before the backup of step 9.
        (3, CRASH, 9 + 8, 9 + 8),
        # Before the first backup and logging step: nothing but that it is the same run.
        pytest.param("epoch", (0, 1), 16, 16, marks=pytest.mark.slow),
    ],
)
def test_a_fit_that_was_killed_is_resumed(tmp_path, save_freq, crash, run, spent):
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", _SCRIPT, tests, tmp_path, repr(save_freq), repr(crash)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    job = Job(tmp_path, save_freq=save_freq)
    meter = job.launch()
    assert totals(meter) == (run, spent)
    before, after = job.ledgers()
    assert (before.status, after.status) == ("unknown", "finished")
    assert (after.header.run, after.header.parent) == (before.header.run, before.header.segment)
    assert job.files() == ["ledger"]


# The file that is left.


def test_it_lies_beside_the_backup_which_keras_deletes(job):
    job.launch(Crash(*CRASH))
    assert job.files() == ["backup", "backup.computemeter.json", "ledger"]


def test_a_write_that_was_cut_short_harms_nothing(job):
    job.launch(Crash(*CRASH))
    torn = job.folder / "backup.computemeter.json.new"
    torn.write_text('{"latest": {"run_fl')
    assert totals(job.launch()) == (16, 18)
    assert job.files() == ["ledger"]


def test_a_write_that_fails_leaves_the_old_file_whole(job, monkeypatch):
    job.launch(Crash(*CRASH))
    before = job.state_file.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        meter = job.launch(Crash(3, 0), ledger=None)
    assert job.state_file.read_bytes() == before
    assert any("No space left" in each for each in meter.summary().warnings)
    assert totals(meter) == (8 + 5, 10 + 5)  # epoch 2 and a batch


@pytest.mark.parametrize(
    "damage",
    [
        "",
        '{"latest": {"schema": 1, "run_fl',
        '{"latest": {"schema": 99}, "backed_up": null}',
        "[]",
    ],
)
def test_a_damaged_file_leaves_the_work_before_unknown(job, damage, caplog):
    job.launch(Crash(*CRASH))
    job.state_file.write_text(damage)
    with caplog.at_level(logging.WARNING, "computemeter"):
        meter = job.launch()
    assert job.went_well
    told = [each.message for each in caplog.records if each.name == "computemeter"]
    assert len(told) == 2
    assert str(job.state_file) in told[0]
    assert "this run's totals are not known" in told[1]
    # Keras goes on from its backup, and a zero would pass for what that took.
    assert meter.summary().model_flops == 8 * FLOPS
    assert meter.summary().run_flops is meter.summary().spent_flops is None
    assert job.files() == ["ledger"]


def test_work_before_the_meter_is_not_known_and_no_zero(job):
    job.launch(Crash(*CRASH))
    job.state_file.unlink()
    summary = job.launch().summary()
    assert summary.model_flops == 8 * FLOPS
    assert summary.run_flops is summary.spent_flops is None
    assert "base_flops=" in summary.warnings[0]


def test_a_crash_before_the_first_backup_was_for_nothing(job):
    job.launch(Crash(0, 2))
    meter = job.launch()
    # All 4 epochs are trained again, after 3 steps that are in no weights.
    assert totals(meter) == (16, 3 + 16)
    before, after = job.ledgers()
    assert (after.header.run, after.header.parent) == (before.header.run, before.header.segment)
    assert [each.metrics["compute/flops"] for each in logged(after)] == [
        epochs * 4 * FLOPS for epochs in (1, 2, 3, 4)
    ]


def test_a_backup_on_another_host_is_said_to_carry_nothing(tmp_path):
    backup = SimpleNamespace(backup_dir="gs://bucket/backup", _weights_path="gs://bucket/weights")
    file = ResumeFile(backup)
    assert file.read() is None
    with pytest.raises(OSError, match="the compute of a resumed fit is counted from there on"):
        file.begin({})
    file.end({}, finished=False)
    assert list(tmp_path.iterdir()) == []


def test_without_its_backup_it_is_another_run(job):
    job.launch(Crash(*CRASH))
    for path in (job.folder / "backup").iterdir():
        path.unlink()
    (job.folder / "backup").rmdir()
    meter = job.launch()
    assert totals(meter) == (16, 16)
    before, after = job.ledgers()
    assert after.header.parent is None
    assert after.header.run != before.header.run


def test_a_backup_that_is_kept_keeps_its_totals(tmp_path):
    job = Job(tmp_path, delete_checkpoint=False)
    job.launch(epochs=2)
    assert job.files() == ["backup", "backup.computemeter.json", "ledger"]
    # Keras goes on from its backup: 2 epochs more.
    assert totals(job.launch(epochs=4)) == (16, 16)


def test_a_fit_that_is_let_go_of_late_leaves_nothing_behind(job):
    """A notebook holds the last exception, and with it the callbacks, until the next one."""
    held = []

    def hold():
        frame = sys._getframe()
        while frame is not None:
            held.append(frame)
            frame = frame.f_back

    crashed = job.launch(Crash(*CRASH, how=hold))
    meter = job.launch()
    # What was written before the crash is what is known: 8 steps.
    assert totals(meter) == (8 + 8, 8 + 8)
    held.clear()
    assert crashed._fit is None  # by now it has ended
    assert job.files() == ["ledger"]


# Without a backup of Keras's.


def test_one_meter_and_one_model_fitted_twice_are_one_run(tmp_path):
    meter, model = ComputeMeter(ledger=tmp_path / "ledger", verbose=0), net()
    assert fit(model, meter, epochs=1)
    assert not fit(model, meter, Crash(0, 1), epochs=1)
    assert fit(model, meter, epochs=1)
    # The model kept what the crash did not take: 4 steps, 2, and 4.
    assert totals(meter) == (10, 10)
    assert meter.summary().model_flops == 4 * FLOPS
    first, second, third = ledgers_in(tmp_path / "ledger")
    assert second.header.parent == first.header.segment
    assert third.header.parent == second.header.segment
    assert [each.status for each in (first, second, third)] == ["finished", "failed", "finished"]


def test_another_model_is_another_run():
    meter = ComputeMeter(ledger=None, verbose=0)
    fit(net(), meter, epochs=1)
    fit(net(), meter, epochs=1)
    assert totals(meter) == (4, 4)


def test_a_state_can_be_kept_by_hand(tmp_path):
    first = ComputeMeter(ledger=tmp_path / "ledger", verbose=0, log_freq="batch")
    fit(net(), first, epochs=1)
    state = pickle.loads(pickle.dumps(first.state_dict()))  # noqa: S301 - made a moment ago
    second = ComputeMeter(ledger=tmp_path / "ledger", verbose=0, log_freq="batch")
    second.load_state_dict(state)
    fit(net(), second, epochs=1)
    assert totals(second) == (8, 8)
    before, after = ledgers_in(tmp_path / "ledger")
    assert (after.header.run, after.header.parent) == (before.header.run, before.header.segment)
    assert [each.step for each in after.progress] == [5, 6, 7, 8]
    # It is for one fit: another model's is another run.
    fit(net(), second, epochs=1)
    assert totals(second) == (4, 4)


@pytest.mark.parametrize("state", [{}, {"schema": 1}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match="this is no meter's state"):
        ComputeMeter(ledger=None, verbose=0).load_state_dict(state)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda meter: pickle.loads(pickle.dumps(meter))],  # noqa: S301
)
def test_a_copy_measures_for_itself(copied):
    meter = ComputeMeter(ledger=None, verbose=0, log_freq=2, peak_flops=1e12)
    fit(net(), meter, epochs=1)
    other = copied(meter)
    assert other.summary().steps == 0
    fit(net(), other, epochs=2)
    assert totals(other) == (8, 8)
    assert totals(meter) == (4, 4)
    assert other.summary().peak_flops == 1e12


def test_a_copy_made_while_it_fits_measures_for_itself():
    class Copies(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.made = copy.deepcopy(meter)

    meter, copies = ComputeMeter(ledger=None, verbose=0), Copies()
    fit(net(), meter, copies, epochs=1)
    assert fit(net(), copies.made, epochs=1)
    assert totals(copies.made) == totals(meter) == (4, 4)
