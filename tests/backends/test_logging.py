"""What a Keras fit logs, where, at which steps, and what it leaves alone."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS

from computemeter.keras import ComputeMeter
from computemeter.ledger import read_ledger

FLOPS = BATCH * FLOPS_PER_EXAMPLE
"""Of one step."""
NAMES = {
    "compute/pfs_days",
    "compute/flops",
    "compute/flops_per_step",
    "compute/flops_per_sec",
    "compute/device_hours",
    "compute/uncounted_ops",
    "compute/loss",
}
"""What every logging step has; the rest depends on the machine and its clock."""
OTHER_NAMES = {
    "compute/pfs_days_gpu_time",
    "compute/ratio",
    "compute/divergence",
    "compute/mfu",
    "compute/hfu",
    "compute/busy_fraction",
    "compute/busy_device_hours",
}


class Tracker:
    """A sink that keeps what it gets."""

    name, run_id = "stub", "run of the stub"

    def __init__(self):
        self.rows, self.tags, self.closed = [], {}, 0

    def log(self, metrics, *, step, time):
        self.rows.append((step, dict(metrics)))

    def tag(self, tags):
        self.tags.update(tags)

    def close(self, timeout=5.0):
        self.closed += 1
        return 0

    def column(self, name):
        return {step: metrics[name] for step, metrics in self.rows}


class Losses(keras.callbacks.Callback):
    """What Keras itself says the loss is, by the number of batches trained on."""

    def __init__(self):
        super().__init__()
        self.by_step, self._before = {}, 0

    def on_epoch_begin(self, epoch, logs=None):
        self._before = max(self.by_step, default=0)

    def on_train_batch_end(self, batch, logs=None):
        # The last execution of an epoch may have fewer steps than Keras says here.
        done = min(batch + 1, self.params["steps"])
        self.by_step[self._before + done] = float(logs["loss"])


def net(**compiled):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((INPUTS,)), layers.Dense(HIDDEN, "relu"), layers.Dense(CLASSES)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, **compiled)
    return model


def fit(model, *callbacks, batches=4, epochs=1, **options):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(batches * BATCH, INPUTS)).astype("float32")
    labels = random.integers(0, CLASSES, batches * BATCH)
    quiet = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(inputs, labels, epochs=epochs, callbacks=list(callbacks), **quiet)


def quiet_meter(**options):
    return ComputeMeter(**{"ledger": None, "trackers": None, "verbose": 0, **options})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing is written into the checkout."""
    monkeypatch.chdir(tmp_path)


# When.


def test_by_epoch_the_step_is_the_epoch_and_a_second_fit_goes_on():
    tracker = Tracker()
    meter, model = quiet_meter(trackers=[tracker]), net()
    histories = [fit(model, meter, epochs=3), fit(model, meter, epochs=2)]
    # 4 steps to an epoch, 5 epochs
    assert tracker.column("compute/flops") == {epoch: (epoch + 1) * 4 * FLOPS for epoch in range(5)}
    losses = [loss for history in histories for loss in history.history["loss"]]
    assert tracker.column("compute/loss") == dict(enumerate(losses))
    assert [step for step, _ in tracker.rows] == [0, 1, 2, 3, 4]
    assert all(set(row) >= NAMES for _, row in tracker.rows)
    assert tracker.closed == 2
    assert meter.summary().warnings == ()


def test_another_models_epochs_begin_anew():
    tracker = Tracker()
    meter = quiet_meter(trackers=[tracker])
    fit(net(), meter, epochs=2)
    fit(net(), meter)
    assert [(step, row["compute/flops"]) for step, row in tracker.rows] == [
        (0, 4 * FLOPS),
        (1, 8 * FLOPS),
        (0, 4 * FLOPS),
    ]


def test_a_fit_that_begins_at_a_later_epoch_logs_that():
    tracker = Tracker()
    fit(net(), quiet_meter(trackers=[tracker]), initial_epoch=5, epochs=7)
    assert tracker.column("compute/flops") == {5: 4 * FLOPS, 6: 8 * FLOPS}


@pytest.mark.parametrize(
    ("log_freq", "steps_per_execution", "steps"),
    [
        ("batch", 1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        # 2 epochs of 5 batches; what came after the last one is logged at the end.
        (4, 1, [4, 8, 10]),
        # Executions end after 3, 5, 8 and 10 batches: 4 and 8 are crossed at 5 and 8.
        (4, 3, [5, 8, 10]),
        # One may cross several.
        (2, 5, [5, 10]),
        ("batch", 3, [3, 5, 8, 10]),
        (100, 1, [10]),
    ],
)
def test_by_batches_the_step_is_the_number_of_batches(log_freq, steps_per_execution, steps):
    if keras.backend.backend() == "torch" and steps_per_execution > 1:
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    tracker, losses = Tracker(), Losses()
    meter = quiet_meter(trackers=[tracker], log_freq=log_freq)
    model = net(steps_per_execution=steps_per_execution)
    fit(model, losses, meter, batches=5, epochs=2)
    assert [step for step, _ in tracker.rows] == steps
    assert tracker.column("compute/flops") == {step: step * FLOPS for step in steps}
    assert tracker.column("compute/loss") == {step: losses.by_step[step] for step in steps}


def test_by_batches_a_second_fit_goes_on():
    tracker = Tracker()
    meter, model = quiet_meter(trackers=[tracker], log_freq=3), net()
    fit(model, meter)
    fit(model, meter)
    # Each fit has 4 batches, and logs its third and its last.
    assert tracker.column("compute/flops") == {step: step * FLOPS for step in (3, 4, 7, 8)}


def test_the_loss_is_there_too_where_training_ends_early():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    tracker, losses = Tracker(), Losses()
    meter = quiet_meter(trackers=[tracker], log_freq=2)
    with pytest.raises(KeyboardInterrupt):
        fit(net(), losses, Stop(), meter)
    meter._end("interrupted")  # what happens once nobody holds the traceback any more
    assert tracker.column("compute/loss") == {2: losses.by_step[2], 3: losses.by_step[3]}


# Where.


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A store of its own; its tables take seconds to make, so the module shares it."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def mlflow(uri, tmp_path):
    """MLflow with a store and an experiment of the test's own."""
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    made = mlflow.create_experiment(tmp_path.name, artifact_location=(tmp_path / "art").as_uri())
    mlflow.set_experiment(experiment_id=made)
    yield mlflow
    mlflow.end_run()
    mlflow.set_tracking_uri(before)


def column(mlflow, run_id, name):
    """Return a metric's values by step; a step may have one only."""
    points = mlflow.MlflowClient().get_metric_history(run_id, name)
    assert len({each.step for each in points}) == len(points)
    return {each.step: each.value for each in points}


def test_the_active_mlflow_run_gets_every_value_once(mlflow, tmp_path):
    meter, model = quiet_meter(trackers="auto", ledger=tmp_path / "ledger", project="p"), net()
    with mlflow.start_run() as run:
        history = fit(model, meter, epochs=2).history["loss"]
        history += fit(model, meter).history["loss"]
    run_id = run.info.run_id
    # 4 steps to an epoch
    assert column(mlflow, run_id, "compute/flops") == {0: 4 * FLOPS, 1: 8 * FLOPS, 2: 12 * FLOPS}
    assert column(mlflow, run_id, "compute/loss") == dict(enumerate(history))
    data = mlflow.get_run(run_id).data
    assert set(data.metrics) >= NAMES | {"compute/log10_pfs_days"}
    assert set(data.metrics) <= NAMES | OTHER_NAMES | {"compute/log10_pfs_days"}
    summary = meter.summary()
    assert data.tags["computemeter.project"] == "p"
    assert data.tags["computemeter.verdict"] == summary.verdict
    assert data.tags["computemeter.cause"] == summary.cause
    assert summary.device_name in data.tags["computemeter.device"]
    ledgers = [read_ledger(path) for path in sorted((tmp_path / "ledger").glob("*.jsonl"))]
    # One segment for each fit; the second goes on from the first.
    assert [each.header.run for each in ledgers] == [run_id, run_id]
    assert [each.header.parent for each in ledgers] == [None, ledgers[0].header.segment]
    assert [dict(each.header.trackers) for each in ledgers] == [{"mlflow": run_id}] * 2
    segments = [
        json.loads(data.tags[f"computemeter.segment.{each.header.segment}"])["model_flops"]
        for each in ledgers
    ]
    assert segments == [8 * FLOPS, 4 * FLOPS]


def test_the_run_that_autologging_opens_is_attached_to(mlflow):
    # Not `mlflow.tensorflow.autolog`: with Keras 3 it needs TensorBoard, meter or no meter.
    autolog = mlflow.keras.autolog
    autolog(log_models=False, log_datasets=False, silent=True)
    meter = quiet_meter(trackers="auto")
    try:
        history = fit(net(), meter, epochs=2).history
    finally:
        autolog(disable=True)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    assert column(mlflow, run.info.run_id, "compute/flops") == {0: 4 * FLOPS, 1: 8 * FLOPS}
    assert column(mlflow, run.info.run_id, "compute/loss") == dict(enumerate(history["loss"]))
    # Autologging's own values are there as ever, and history has none of ours.
    assert column(mlflow, run.info.run_id, "loss") == dict(enumerate(history["loss"]))
    assert set(history) == {"loss"}


def test_the_open_wandb_run_gets_a_summary(monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    meter = quiet_meter(trackers="auto")
    run = wandb.init(project="test")
    try:
        history = fit(net(), meter, epochs=2).history
        summary = json.loads(json.dumps(dict(run.summary), default=dict))
    finally:
        run.finish()
        wandb.teardown()
    assert summary["compute/flops"] == 8 * FLOPS
    assert summary["compute/loss"] == history["loss"][-1]
    assert summary["computemeter"]["verdict"] == meter.summary().verdict
    (segment,) = summary["computemeter"]["segment"].values()
    assert json.loads(segment)["model_flops"] == 8 * FLOPS


def test_trackers_asked_for_are_the_only_ones(mlflow):
    tracker = Tracker()
    with mlflow.start_run() as run:
        fit(net(), quiet_meter(trackers=[tracker]))
        fit(net(), quiet_meter(trackers=None))
    assert [step for step, _ in tracker.rows] == [0]
    assert mlflow.get_run(run.info.run_id).data.metrics == {}


def test_a_tracker_given_in_an_iterator_serves_every_fit():
    tracker = Tracker()
    meter, model = quiet_meter(trackers=iter([tracker])), net()
    fit(model, meter)
    fit(model, meter)
    assert [step for step, _ in tracker.rows] == [0, 1]


def test_the_ledger_has_everything(tmp_path):
    tracker = Tracker()
    meter = quiet_meter(trackers=[tracker], ledger=tmp_path / "ledger", log_freq=3, team="t")
    model = net()
    fit(model, meter)
    (path,) = (tmp_path / "ledger").glob("*.jsonl")
    ledger = read_ledger(path)
    assert [(each.step, dict(each.metrics)) for each in ledger.progress] == tracker.rows
    assert [each.totals["model_flops"] for each in ledger.progress] == [3 * FLOPS, 4 * FLOPS]
    assert ledger.last_totals["spent_flops"] == 4 * FLOPS
    assert ledger.status == "finished"
    assert ledger.summary["model_flops"] == meter.summary().model_flops == 4 * FLOPS
    header = ledger.header
    assert (header.name, header.team) == (model.name, "t")
    assert (header.device_name, header.device_count) == (meter.summary().device_name, 1)
    assert dict(header.trackers) == {"stub": "run of the stub"}


@pytest.mark.parametrize("log_freq", ["epoch", 3])
def test_history_gets_plain_floats_if_asked(log_freq):
    tracker = Tracker()
    meter = quiet_meter(trackers=[tracker], log_freq=log_freq, log_to_history=True)
    history = fit(net(), meter, epochs=2).history
    # The loss is there under Keras's own name.
    assert set(history) >= (NAMES - {"compute/loss"}) | {"loss"}
    assert "compute/loss" not in history
    values = [value for name, values in history.items() for value in values if name != "loss"]
    assert {type(value) for value in values} <= {float, int}
    # By epoch 4 and 8 steps; every third, the last ones are the 3rd and the 6th.
    steps = [4, 8] if log_freq == "epoch" else [3, 6]
    assert history["compute/flops"] == [count * FLOPS for count in steps]


# What is left alone.

_SCRIPT = """
import os, sys
import keras, numpy as np

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", "mse", steps_per_execution=int(sys.argv[1]))
x, y = np.zeros((8, 3), "float32"), np.zeros((8, 2), "float32")
backup = keras.callbacks.BackupAndRestore("backup")
model.fit(x, y, batch_size=2, verbose=0, callbacks=[backup], validation_data=(x, y))
before = set(sys.modules)

from computemeter.keras import ComputeMeter
meter = ComputeMeter(verbose=0)
model.fit(x, y, batch_size=2, verbose=0, callbacks=[backup, meter], validation_data=(x, y))
assert meter.summary().model_flops, meter.summary()
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print("new:", *sorted(tops & {"torch", "jax", "tensorflow", "mlflow", "wandb"}))
"""


def test_a_metered_fit_imports_no_other_framework_makes_no_noise_and_writes_a_ledger(tmp_path):
    executions = "1" if keras.backend.backend() == "torch" else "2"
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, executions],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "new:\n"
    assert "computemeter" not in result.stderr
    (path,) = (tmp_path / "compute_ledger").glob("*.jsonl")
    ledger = read_ledger(path)
    assert ledger.status == "finished"
    assert dict(ledger.header.trackers) == {}
    # The backup at the end of the epoch, and the epoch.
    assert [(each.step, bool(each.metrics)) for each in ledger.progress] == [(0, False), (0, True)]


class Hands:
    """A clock that stands still until it is moved."""

    time = 100.0

    def __call__(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds


class Waits(keras.callbacks.Callback):
    """Lets time pass between batches of training, and in those of validation."""

    def __init__(self, hands):
        super().__init__()
        self._hands = hands

    def on_train_batch_end(self, batch, logs=None):
        self._hands.wait(1)

    def on_test_batch_end(self, batch, logs=None):
        self._hands.wait(500)


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("meter_comes_last", [True, False])
def test_validation_and_saving_are_not_training(
    weights_only, meter_comes_last, monkeypatch, tmp_path
):
    from computemeter import step_meter

    hands = Hands()
    monkeypatch.setattr(step_meter, "TrainingClock", lambda: clock_of(hands))
    name = "save_weights" if weights_only else "save"
    monkeypatch.setattr(keras.Model, name, lambda *_args, **_kwargs: hands.wait(1000))
    path = tmp_path / ("model.weights.h5" if weights_only else "model.keras")
    saving = keras.callbacks.ModelCheckpoint(path, save_weights_only=weights_only)
    meter = quiet_meter()
    callbacks = [saving, meter] if meter_comes_last else [meter, saving]
    data = np.zeros((BATCH, INPUTS), "float32"), np.zeros(BATCH, int)
    fit(net(), Waits(hands), *callbacks, batches=3, epochs=2, validation_data=data)
    # A second after each of 6 batches; 500 of validation and 1000 of saving in each epoch are not.
    assert meter.summary().training_seconds == 6.0
    assert hands.time == 100.0 + 6 + 2 * (500 + 1000)


def clock_of(hands):
    from computemeter.clock import TrainingClock

    return TrainingClock(now=hands)
