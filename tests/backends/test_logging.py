"""At which steps a Keras fit logs, and what: into a tracker, the ledger and its history."""

import keras
import pytest
from keras_fits import meter as quiet_meter
from keras_logs import FLOPS, NAMES, Tracker, fit, net

from computemeter.ledger import read_ledger

pytestmark = pytest.mark.usefixtures("elsewhere")


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
