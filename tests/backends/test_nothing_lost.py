"""A Keras fit that is killed, switched off for a while, or tracked twice: it is all told of."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras_job import FLOPS, Crash, Job, fit, net, totals
from small_runs import BATCH, INPUTS

from computemeter.keras import ComputeMeter
from computemeter.receipt import read_receipt

RECEIPT = "compute_receipt.json"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing is written into the checkout."""
    monkeypatch.chdir(tmp_path)


def quiet_meter(folder, **options):
    return ComputeMeter(**{"ledger": folder / "ledger", "trackers": None, "verbose": 0, **options})


# Killed.


def launch(folder, number, save_freq, first):
    """Start a process that trains when it is told to; until then it imports, for seconds."""
    script, marks = Path(__file__).parents[1] / "keras_job.py", folder / f"marks{number}"
    command = [sys.executable, script, folder, str(save_freq), first, marks]
    with marks.with_suffix(".errors").open("w") as errors:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors), marks


def kill(process, marks, seconds):
    """Let it train, and kill it so many seconds after its first step; return its marks."""
    process.stdin.write(b"train\n")
    process.stdin.close()
    try:
        while process.poll() is None and not (marks.exists() and marks.stat().st_size):
            time.sleep(0.001)
        time.sleep(seconds)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, marks.with_suffix(".errors").read_text()
    return marks.read_bytes()


def opens(weights):
    """Whether HDF5 can read the file: a torn one may well begin as one should."""
    try:
        h5py.File(weights).close()
    except OSError:
        return False
    return True


def mended(backup):
    """Do what a user has to where Keras was killed within a file; return the epoch to go on at."""
    weights, metadata = backup / "latest.weights.h5", backup / "training_metadata.json"
    if weights.exists() and not (opens(weights) or Path(f"{weights}.bkp").exists()):
        shutil.rmtree(backup)
    try:
        return json.loads(metadata.read_text())["epoch"]
    except (FileNotFoundError, ValueError):
        metadata.unlink(missing_ok=True)
        return 0


def kill_again_and_again(folder, seconds, save_freq="epoch", first="backup"):
    """Kill a fit at several instants, resume it each time, and at last let it end."""
    job, spent = Job(folder, save_freq=save_freq, double_checkpoint=True), 0
    waiting = launch(folder, 0, save_freq, first)
    for number, each in enumerate(seconds, start=1):
        training, waiting = waiting, launch(folder, number, save_freq, first)
        marks = kill(*training, each)
        epoch = mended(folder / "backup")
        ledger = job.ledgers()[-1]
        assert ledger.status == "unknown"
        # All steps that ended, and the one that was running, if it came so far.
        steps = ledger.last_totals["steps"] if ledger.progress else 0
        assert marks.count(b")") <= steps <= marks.count(b"(")
        assert steps == 0 or ledger.last_totals["model_flops"] == steps * FLOPS
        spent += steps
    waiting[0].stdin.close()  # and it ends
    assert waiting[0].wait() == 0
    last = job.launch(first=first, epochs=epoch + 2, trackers=None)
    assert job.went_well
    # Keras keeps the number of the optimizer's steps with the weights.
    run = int(job.model.optimizer.iterations)
    assert last.summary().steps == 8
    assert totals(last) == (run, spent + 8)
    headers = [each.header for each in job.ledgers()]
    assert {each.run for each in headers} == {headers[0].segment}
    assert [each.parent for each in headers[1:]] == [each.segment for each in headers[:-1]]
    assert last.summary().warnings == ()
    assert not job.state_file.exists()
    receipt = read_receipt(folder / "ledger" / RECEIPT)
    assert (receipt.run_flops, receipt.spent_flops) == (run * FLOPS, (spent + 8) * FLOPS)


def test_killed_at_any_instant(tmp_path):
    choose = random.Random(keras.backend.backend())
    kill_again_and_again(tmp_path, [choose.uniform(0, 0.3) for _ in range(2)])


@pytest.mark.slow
@pytest.mark.parametrize("save_freq", ["epoch", 1, 3])
@pytest.mark.parametrize("first", ["backup", "meter"])
def test_killed_at_more_instants(tmp_path, save_freq, first):
    choose = random.Random(f"{save_freq} {first}")
    seconds = [choose.uniform(0, 0.3) for _ in range(6)]
    kill_again_and_again(tmp_path, seconds, save_freq, first)


@pytest.mark.parametrize("first", ["backup", "meter"])
@pytest.mark.parametrize(
    ("instant", "run"),
    [
        # The backup of epoch 0 has 4 steps; epochs 1 and 2 are 8 more.
        ("before", 4 + 8),
        # Keras goes back to the copy of that.
        ("torn", 4 + 8),
        # That of epoch 1 has 8, and Keras has not noted yet that the epoch is over.
        ("after", 8 + 8),
    ],
)
def test_killed_while_it_backs_up(tmp_path, instant, run, first, monkeypatch):
    """What is on the disk at an instant is what a kill leaves."""
    job, left = Job(tmp_path / "job", double_checkpoint=True), tmp_path / "left"
    usual = keras.Model.save_weights

    def save_weights(model, filepath, **options):
        second = int(model.optimizer.iterations) == 8
        if second and instant == "before":
            shutil.copytree(job.folder, left)
        usual(model, filepath, **options)
        if second and instant != "before":
            shutil.copytree(job.folder, left)

    with monkeypatch.context() as patched:
        patched.setattr(keras.Model, "save_weights", save_weights)
        job.launch(first=first, epochs=2)
    if instant == "torn":
        weights = left / "backup" / "latest.weights.h5"
        weights.write_bytes(weights.read_bytes()[:-100])
    resumed = Job(left, double_checkpoint=True)
    meter = resumed.launch(first=first, epochs=3)
    assert int(resumed.model.optimizer.iterations) == run
    assert totals(meter) == (run, 8 + 8)
    assert meter.summary().warnings == ()


# Not metered for a while.


class Looks(keras.callbacks.Callback):
    """Notes what lies on the model while it is trained."""

    def on_train_batch_end(self, batch, logs=None):
        self.seen = set(vars(self.model)) & {"save", "save_weights", "evaluate", "predict"}


def test_switched_off_it_does_nothing_at_all(tmp_path, monkeypatch):
    plain = net()
    fit(plain)
    monkeypatch.setenv("COMPUTEMETER", "0")
    job, looks = Job(tmp_path), Looks()
    meter = job.launch(looks, ledger="auto", trackers="auto")
    assert looks.seen == set()
    assert job.files() == []
    assert_same_weights(job.model, plain)
    assert meter.summary().steps == 0
    assert "COMPUTEMETER=0" in meter.summary().diagnosis


def test_switched_off_in_a_loop_of_ones_own(tmp_path, monkeypatch):
    def trained(meter=None):
        model = net()
        batch = np.ones((BATCH, INPUTS), "float32"), np.zeros(BATCH, int)
        if meter is None:
            model.train_on_batch(*batch)
            return model
        with meter.training(model):
            train_function = vars(model).get("train_function")
            model.train_on_batch(*batch)
            assert train_function is None  # Keras makes it at the first batch
        return model

    monkeypatch.setenv("COMPUTEMETER", "0")
    meter = ComputeMeter()
    assert_same_weights(trained(meter), trained())
    assert meter.summary().steps == 0
    assert list(tmp_path.iterdir()) == []


def assert_same_weights(model, other):
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_work_that_no_meter_saw_is_unknown_and_not_zero(tmp_path, monkeypatch):
    job = Job(tmp_path)
    job.launch(Crash(1, 2))
    with monkeypatch.context() as patched:
        patched.setenv("COMPUTEMETER", "0")
        job.launch(Crash(2, 2))
    meter = job.launch()
    assert job.went_well
    summary = meter.summary()
    # The last backup is of epoch 1, made without a meter.
    assert (summary.steps, summary.model_flops) == (8, 8 * FLOPS)
    assert (summary.run_flops, summary.spent_flops) == (None, None)


# The receipt.


class Saves(keras.callbacks.Callback):
    """Saves the model at the end of each epoch."""

    def __init__(self, *args, **options):
        super().__init__()
        self._call = args, options

    def on_epoch_end(self, epoch, logs=None):
        args, options = self._call
        self.model.save(*args, **options)


SAVING = {
    "a file": (lambda: keras.callbacks.ModelCheckpoint("kept/model.keras"), "kept"),
    "weights": (
        lambda: keras.callbacks.ModelCheckpoint(
            Path("kept", "{epoch}.weights.h5"), save_weights_only=True
        ),
        "kept",
    ),
    "by hand": (lambda: Saves("model.keras"), "."),
    "a folder": (lambda: Saves(filepath="kept", zipped=False), "kept"),
    "a backup": (lambda: keras.callbacks.BackupAndRestore("backup"), "ledger"),
    "nothing": (keras.callbacks.TerminateOnNaN, "ledger"),
}


@pytest.mark.parametrize("saving", SAVING)
def test_the_receipt_lies_with_the_model(saving, tmp_path):
    callback, folder = SAVING[saving]
    if folder == "kept":
        Path("kept").mkdir()
    meter = quiet_meter(tmp_path)
    assert fit(net(), callback(), meter, epochs=2)
    assert [path.parent.name for path in tmp_path.rglob(RECEIPT)] == [
        tmp_path.name if folder == "." else folder
    ]
    receipt = read_receipt(tmp_path / folder / RECEIPT)
    assert (receipt.steps, receipt.run_flops, receipt.status) == (8, 8 * FLOPS, "finished")
    assert meter.summary().warnings == ()


def test_a_folder_that_has_gone_is_not_made_again(tmp_path):
    class Leaves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            shutil.rmtree("kept")

    saving = keras.callbacks.ModelCheckpoint("kept/model.keras")
    assert fit(net(), saving, Leaves(), quiet_meter(tmp_path), epochs=1)
    assert [path.parent.name for path in tmp_path.rglob(RECEIPT)] == ["ledger"]


def test_a_resumed_fit_knows_where_its_model_was_saved(tmp_path):
    job = Job(tmp_path)
    job.launch(keras.callbacks.ModelCheckpoint(tmp_path / "kept" / "model.keras"), Crash(1, 1))
    first = read_receipt(tmp_path / "kept" / RECEIPT)
    assert (first.run_flops, first.status) == (6 * FLOPS, "failed")
    job.launch()
    receipt = read_receipt(tmp_path / "kept" / RECEIPT)
    # The crash took 2 of its 6 steps.
    assert (receipt.run_flops, receipt.spent_flops) == (16 * FLOPS, 18 * FLOPS)
    assert (receipt.run, receipt.status) == (first.run, "finished")
    assert len(receipt.segments) == 2


def test_a_warm_start_is_a_run_of_its_own_with_the_lineage_of_its_base(tmp_path):
    saving = keras.callbacks.ModelCheckpoint("base/model.keras")
    fit(net(), saving, quiet_meter(tmp_path), epochs=3)
    base = read_receipt(tmp_path / "base" / RECEIPT)
    meter = quiet_meter(tmp_path, base_model="base/model.keras")
    model = keras.saving.load_model("base/model.keras")
    saving = keras.callbacks.ModelCheckpoint("tuned/model.keras")
    fit(model, saving, meter, epochs=1)
    assert totals(meter) == (4, 4)
    assert meter.summary().lineage_flops == (3 * 4 + 4) * FLOPS
    receipt = read_receipt(tmp_path / "tuned" / RECEIPT)
    assert receipt.run != base.run
    assert (receipt.run_flops, receipt.lineage_flops) == (4 * FLOPS, 16 * FLOPS)
    assert receipt.parents == (base.hash,)
    # And once more, from that.
    last = quiet_meter(tmp_path, base_model=tmp_path / "tuned")
    fit(model, last, epochs=1)
    assert last.summary().lineage_flops == (16 + 4) * FLOPS
    assert last.summary().warnings == ()


# Two trackers at once, on one backend: a tracker knows of none.

one_is_enough = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="W&B's callback for Keras needs TensorFlow"
)


@pytest.fixture
def mlflow(tmp_path):
    """An active run, on sqlite."""
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    made = mlflow.create_experiment("keras", artifact_location=(tmp_path / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=made):
        yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.fixture
def run(tmp_path):
    """An active run, offline."""
    wandb = pytest.importorskip("wandb")
    settings = wandb.Settings(silent=True, mode="offline")
    yield wandb.init(project="keras", dir=str(tmp_path), settings=settings)
    wandb.teardown()


class Logs(keras.callbacks.Callback):
    """Logs as a user does, at steps of the user's own."""

    def __init__(self, mlflow, run=None):
        super().__init__()
        self._mlflow, self._run = mlflow, run

    def on_epoch_end(self, epoch, logs=None):
        self._mlflow.log_metric("mine", epoch / 2, step=100 + epoch)
        if self._run is not None:
            self._run.log({"mine": epoch / 2}, step=100 + epoch)


@one_is_enough
@pytest.mark.parametrize("with_its_callback", [True, False])
def test_mlflow_and_wandb_at_once(with_its_callback, mlflow, run, tmp_path):
    from wandb.integration.keras import WandbMetricsLogger
    from wandb_server import finish
    from wandb_server import logged as rows_of

    users = [Logs(mlflow), WandbMetricsLogger()] if with_its_callback else [Logs(mlflow, run)]
    meter = quiet_meter(tmp_path, trackers="auto")
    assert fit(net(), meter, *users, epochs=3)
    assert meter.summary().warnings == ()

    run_id = mlflow.active_run().info.run_id
    client = mlflow.MlflowClient()
    history = {
        name: {each.step: each.value for each in client.get_metric_history(run_id, name)}
        for name in ("mine", "compute/flops")
    }
    assert history["mine"] == {100: 0.0, 101: 0.5, 102: 1.0}
    assert history["compute/flops"] == {epoch: 4 * (epoch + 1) * FLOPS for epoch in range(3)}
    stored = {Path(each.path).name for each in client.list_artifacts(run_id, "compute")}
    assert stored == {RECEIPT, "loss_against_compute.html", "loss_against_compute.png"}
    receipt = read_receipt(tmp_path / "artifacts" / run_id / "artifacts" / "compute" / RECEIPT)
    assert (receipt.run, receipt.run_flops) == (run_id, 12 * FLOPS)

    found = finish(run)
    mine = [
        {name: value for name, value in row.items() if not name.startswith("compute/")}
        for row in rows_of(found)
    ]
    if with_its_callback:
        assert [(row["_step"], row["epoch/epoch"]) for row in mine] == [(0, 0), (1, 1), (2, 2)]
        assert all(row["epoch/loss"] > 0 for row in mine)
    else:
        assert mine == [{"_step": 100 + epoch, "mine": epoch / 2} for epoch in range(3)]
    assert [row["compute/flops"] for row in rows_of(found)] == [
        4 * (epoch + 1) * FLOPS for epoch in range(3)
    ]
    assert found.metrics["compute/loss"] == "compute/pfs_days"
