"""A fault at every place where the meter could have one: the training never learns of it.

Each test replaces one method by one that raises, trains with a Trainer and in a plain loop, and
compares with training that nothing meters: the same weights, losses and random numbers bit for bit.
"""

import errno
import importlib
from contextlib import nullcontext
from importlib.metadata import EntryPoint

import pytest
import torch
from small_runs import BATCH, CLASSES, HIDDEN, INPUTS
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from computemeter import Meter, device_clock, ending, journal, ranks, run_meter, step_meter
from computemeter.activity import RunActivity
from computemeter.book import StepBook
from computemeter.carried import Carried
from computemeter.clock import TrainingClock
from computemeter.counters.torch_counter import TorchCounter
from computemeter.host_time import HostTimer
from computemeter.ledger_writer import LedgerWriter
from computemeter.lightning import ComputeMeter
from computemeter.patches import Patches
from computemeter.rank_reports import Report
from computemeter.ranks import SoloRanks, StoreRanks
from computemeter.run_meter import RunMeter
from computemeter.run_reading import Reading
from computemeter.step_meter import StepMeter
from computemeter.telling import Telling
from computemeter_lightning import _callback
from computemeter_lightning._loss import LossWindow
from computemeter_lightning._steps import TrainerSteps

FAULT = "an injected fault"
STEPS = 3
ASKED_BY_THE_USER = {
    *("step", "pause", "validation", "add_flops", "count"),
    *("breakdown", "summary", "state_dict", "load_state_dict", "steps"),
}
"""Of `Meter`, in a loop of one's own: what replaces them is the user's own call."""

NEVER_REACHED = {
    "Meter.validation",  # for loops of one's own, as the next three
    "Meter.steps",
    "Meter.add_flops",
    "Meter.count",
    "Meter.step",
    "Meter.pause",
    "Meter.breakdown",  # asked for by the user
    "TorchCounter.breakdown",
    "Meter.load_state_dict",  # the callback keeps what it read
    "StepMeter.start_execution",  # Keras's, tested in tests/backends
    "StepMeter.end_execution",
    "StepMeter.drop_execution",
    "StepMeter.settle",
    "TrainingClock.extend",
    "StepMeter.break_off",  # of a step that raises, see below
    "StepBook.give_up",  # of a step that runs out of memory
    "Carried.unknown",  # of a resume without totals, tested in test_resume.py
    "Carried.from_state",  # of a resumed run, see below
    "TorchCounter.off",  # of a count that cannot be ended, see below
    "Recorder.files",
}


class Recorder:
    """A sink with everything that a sink may have."""

    name, run_id, destination = "recorder", "run", "http://host"

    def log(self, metrics, *, step, time):
        """Queue values."""

    def tag(self, tags):
        """Queue facts."""

    def alert(self, title, text):
        """Queue an alert."""

    def files(self, make):
        """Store files."""

    def close(self, timeout=5.0):
        """Deliver."""
        return 0


METERS = (Meter, RunMeter, StepMeter)
METERED = [
    *METERS,
    *(journal.Journal, LedgerWriter, Recorder, TorchCounter, device_clock.TorchClock),
    *(SoloRanks, RunActivity, TrainingClock, StepBook, HostTimer, Telling, Carried, Reading),
]


def public_methods(cls):
    """Find methods and properties, so that one which is added is tested at once."""
    kinds = (property, staticmethod, classmethod)
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, kinds))
    ]


TARGETS = [(cls, name) for cls in METERED for name in public_methods(cls)]
OF_THE_CALLBACK = [
    *((LossWindow, name) for name in ("automatic", "clear")),
    *((TrainerSteps, name) for name in ("__init__", "metered", "left_out", "_begin", "_end")),
    *((TrainerSteps, "_only_looks"), (Patches, "wrap"), (TorchCounter, "__init__")),
    *((_callback, name) for name in ("torch_ranks", "_place")),
]
OF_A_LOOP = [
    *((run_meter, name) for name in ("torch_ranks", "Journal")),
    (step_meter, "_torch_counter"),
]


class Fault:
    """Raises wherever it is called, and counts."""

    def __init__(self, error=None):
        self.error = error or RuntimeError(FAULT)
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        raise self.error

    def at(self, monkeypatch, cls, name):
        kinds = {property: property, staticmethod: staticmethod, classmethod: classmethod}
        kind = kinds.get(type(vars(cls).get(name)), lambda function: function)

        def fail(*args, **kwargs):
            return self(*args, **kwargs)

        monkeypatch.setattr(cls, name, kind(fail))


@pytest.fixture
def pl():
    """Only one namespace of Lightning: the callback is the same in both."""
    return importlib.import_module("lightning.pytorch")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Do not wait for sinks that cannot deliver, and leave nothing to the next test."""
    monkeypatch.setattr(ending, "SECONDS", 0.5)
    yield
    while (mode := _get_current_dispatch_mode()) is not None:
        mode.__exit__(None, None, None)


def state(module, losses):
    """Return everything of a training that must not change."""
    parameters = {name: value.tolist() for name, value in module.state_dict().items()}
    return parameters, [float(loss) for loss in losses], torch.get_rng_state().tolist()


def fit(small, *callbacks):
    """Train with a Trainer, with a validation and a checkpoint."""
    losses = []

    class Module(small.Module):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.detach())
            return loss

    small.pl.seed_everything(7, verbose=False)
    module = Module()
    keeper = small.pl.callbacks.ModelCheckpoint(small.folder, every_n_train_steps=2)
    trainer = small.trainer(*callbacks, keeper, enable_checkpointing=True)
    trainer.fit(module, small.data(STEPS * BATCH), small.data(BATCH))
    loop = trainer.fit_loop.epoch_loop
    for owner in (trainer, loop, loop.automatic_optimization, loop.manual_optimization):
        left = {"run", "save_checkpoint", "_on_before_fetch", "_on_after_fetch"} & set(vars(owner))
        assert left == set()
    assert trainer.state.finished
    assert _get_current_dispatch_mode() is None
    return state(module, losses)


def loop(given=None):
    """Train in a loop, with a validation."""
    torch.manual_seed(7)
    net = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(HIDDEN, CLASSES)
    )
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    with given or nullcontext():
        for _ in range(STEPS):
            batch = torch.randn(BATCH, INPUTS)
            with given.step(batch) if given else nullcontext():
                loss = net(batch).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
        with given.validation() if given else nullcontext():
            net(batch)
    assert _get_current_dispatch_mode() is None
    return state(net, losses)


@pytest.fixture(scope="module")
def without():
    """Remember training without a meter: it is the same in every test."""
    return {}


@pytest.fixture
def trains_the_same(small, without, caplog):
    """Train both ways with a meter, and compare; return what the user was told."""

    def options(sink):
        return {
            "trackers": [sink],
            "ledger": small.folder / "ledger",
            "verbose": 1,
            "alert": True,
            "settle_steps": 0,
            "settle_seconds": 0.0,
        }

    def train(sink=None, *, by_hand=True, with_a_trainer=True):
        if not without:
            without.update(fit=fit(small), loop=loop())
        caplog.clear()
        if with_a_trainer:
            assert fit(small, ComputeMeter(**options(sink or Recorder()))) == without["fit"]
        if by_hand:
            assert loop(Meter(log_every=1, **options(sink or Recorder()))) == without["loop"]
        return [record.message for record in caplog.records if record.name == "computemeter"]

    return train


def test_training_without_a_fault(trains_the_same):
    assert trains_the_same() == []


@pytest.mark.parametrize(("cls", "name"), TARGETS, ids=lambda each: getattr(each, "__name__", each))
def test_a_fault_at(cls, name, trains_the_same, monkeypatch):
    fault = Fault()
    fault.at(monkeypatch, cls, name)
    told = trains_the_same(by_hand=cls is not Meter or name not in ASKED_BY_THE_USER)
    assert fault.calls or f"{cls.__name__}.{name}" in NEVER_REACHED
    assert [text for text in told if FAULT in text] != [] or not fault.calls


@pytest.mark.parametrize(("owner", "name"), OF_THE_CALLBACK, ids=str)
def test_a_fault_of_the_callback(owner, name, trains_the_same, monkeypatch):
    fault = Fault()
    fault.at(monkeypatch, owner, name)
    told = trains_the_same(by_hand=False)
    assert fault.calls
    assert [text for text in told if FAULT in text] != []


@pytest.mark.parametrize(("owner", "name"), OF_A_LOOP, ids=str)
def test_a_fault_of_a_loop(owner, name, trains_the_same, monkeypatch):
    fault = Fault()
    fault.at(monkeypatch, owner, name)
    told = trains_the_same(with_a_trainer=False)
    assert fault.calls
    assert [text for text in told if FAULT in text] != []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, FAULT), KeyError(FAULT)], ids=repr)
@pytest.mark.parametrize(
    ("cls", "name"),
    [(Meter, "start_step"), (Meter, "log"), (LedgerWriter, "progress"), (Recorder, "log")],
)
def test_other_errors(cls, name, error, trains_the_same, monkeypatch):
    fault = Fault(error)
    fault.at(monkeypatch, cls, name)
    told = trains_the_same()
    assert fault.calls
    assert [text for text in told if FAULT in text] != []


# Steps of the user's that raise: his exception arrives, and not the meter's.


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        *(
            (cls, name)
            for cls in METERS
            for name in public_methods(cls)
            if name not in ASKED_BY_THE_USER
        ),
        *((TorchCounter, "stop"), (TorchCounter, "off"), (StepBook, "give_up")),
        *((TrainingClock, "end_step"), (journal.Journal, "close"), (Recorder, "close")),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_the_users_own_exception_arrives(cls, name, small, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        """As PyTorch calls it."""

    class Module(small.Module):
        def training_step(self, batch, batch_idx):
            raise OutOfMemoryError("the user's own")

    options = {"trackers": [Recorder()], "ledger": small.folder / "ledger", "verbose": 0}
    fault = Fault()
    fault.at(monkeypatch, cls, name)
    trainer = small.trainer(ComputeMeter(**options))
    with pytest.raises(OutOfMemoryError, match="the user's own"):
        trainer.fit(Module(), small.data(BATCH))
    assert "run" not in vars(trainer.fit_loop.epoch_loop.automatic_optimization)
    with (
        pytest.raises(OutOfMemoryError, match="the user's own"),
        Meter(**options) as metered,
        metered.step(),
    ):
        raise OutOfMemoryError("the user's own")
    # What takes the counting off is itself broken in these two.
    assert _get_current_dispatch_mode() is None or name in {"off", "ensure_off"}


# Resumed runs.


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Carried, "from_state"),
        (Carried, "to_state"),
        (Meter, "state_dict"),
        (_callback, "state_in"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_fault_in_what_a_checkpoint_carries(cls, name, small, monkeypatch, caplog):
    def resumed(*callbacks, break_it=False):
        fault, path = Fault(), small.folder / "at.ckpt"
        small.pl.seed_everything(7, verbose=False)
        small.trainer(*callbacks).fit(small.Module(), small.data(STEPS * BATCH))
        trainer = small.trainer(*callbacks)
        trainer.fit(small.Module(), small.data(STEPS * BATCH))
        trainer.save_checkpoint(path)
        if break_it:
            checkpoint = torch.load(path, weights_only=True)
            checkpoint["callbacks"].pop("computemeter" if cls is _callback else "nothing", None)
            torch.save(checkpoint, path)
            fault.at(monkeypatch, cls, name)
        again, module = small.trainer(*callbacks, max_epochs=2), small.Module()
        again.fit(module, small.data(STEPS * BATCH), ckpt_path=path)
        again.save_checkpoint(path)
        assert fault.calls or not break_it
        return state(module, [])

    plain = resumed()
    callback = ComputeMeter(trackers=None, ledger=None, verbose=0)
    assert resumed(callback, break_it=True) == plain
    assert [each for each in callback.summary().warnings if FAULT in each] != []


# Many processes, of which this is the first.


class Store(torch.distributed.HashStore):
    """The processes' store, a method of which may fail."""


STORE = ["get", "set", "check", "multi_get"]
STORE_RANKS = [(StoreRanks, name) for name in public_methods(StoreRanks)]


@pytest.mark.parametrize(("cls", "name"), [*STORE_RANKS, *((Store, name) for name in STORE)])
def test_a_fault_among_ranks(cls, name, trains_the_same, monkeypatch):
    monkeypatch.setattr(ranks, "WAIT_LOGGING", 0.01)
    monkeypatch.setattr(run_meter, "WAIT_LOGGING", 0.01)
    monkeypatch.setattr(run_meter, "WAIT_CLOSING", 0.01)

    def two(*_):
        store = Store()
        store.set("1", Report.of(StepBook(lambda: 0.0).totals()).to_json())
        return StoreRanks(store, 0, 2)

    made = [two(), two()]
    monkeypatch.setattr(run_meter, "torch_ranks", lambda *_: made.pop())
    monkeypatch.setattr(_callback, "torch_ranks", lambda *_: made.pop())
    fault = Fault()
    fault.at(monkeypatch, cls, name)
    told = trains_the_same()
    assert fault.calls or (cls is Store and name in {"set", "get"})  # rank 0 reads, all at once
    assert [text for text in told if FAULT in text] != [] or not fault.calls


# Trackers. The Recorder above is any sink; these are the clients that the real ones call.


@pytest.fixture(scope="module")
def mlflow_run(tmp_path_factory):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("faults"))
    return client.tracking_uri, run.info.run_id


@pytest.mark.parametrize("broken", ["client", "open_run", "Delivery", "_active_run"])
def test_a_fault_of_mlflow(broken, mlflow_run, trains_the_same, monkeypatch):
    mlflow_sink = importlib.import_module("computemeter_mlflow")
    uri, run_id = mlflow_run

    def attach(context):
        mlflow_sink._active_run()
        return mlflow_sink.MLflowSink(tracking_uri=uri, run_id=run_id, warn=context.warn)

    fault = Fault()
    if broken == "client":
        fault.at(monkeypatch, importlib.import_module("mlflow").MlflowClient, "log_batch")
    else:
        fault.at(monkeypatch, mlflow_sink, broken)
    point = EntryPoint("mlflow", "computemeter_mlflow:attach", "computemeter.sinks")
    monkeypatch.setattr("computemeter.sinks._installed", lambda: {"mlflow": point})
    monkeypatch.setattr(mlflow_sink, "attach", attach)
    told = trains_the_same("mlflow", with_a_trainer=broken == "client")
    assert fault.calls
    assert [text for text in told if FAULT in text] != []


@pytest.fixture(scope="module")
def wandb_run(tmp_path_factory):
    wandb = pytest.importorskip("wandb")
    folder = str(tmp_path_factory.mktemp("wandb"))
    settings = wandb.Settings(silent=True, mode="offline")
    run = wandb.init(project="faults", dir=folder, settings=settings)
    yield run
    # `teardown` alone leaves the run in `wandb.run`, for every test after these.
    run.finish()
    wandb.teardown()


class Proxy:
    """A run of which some attributes fail."""

    def __init__(self, run, fault, broken):
        self._run, self._fault, self._broken = run, fault, broken

    def __getattr__(self, name):
        return self._fault if name in self._broken else getattr(self._run, name)


CALLS = ["log", "define_metric", "status", "alert"]


@pytest.mark.parametrize("broken", [*([name] for name in CALLS), ["summary"], CALLS], ids=str)
def test_a_fault_of_wandb(broken, wandb_run, trains_the_same):
    sinks = importlib.import_module("computemeter_wandb")
    fault, told = Fault(), []
    proxy = Proxy(wandb_run, fault, broken)
    sink = sinks.WandbSink(proxy, rows=True, warn=told.append)
    told += trains_the_same(sink, by_hand=False)
    if broken == ["summary"]:  # it has no method `update`
        assert [text for text in told if "'Fault' object" in text] != []
    else:
        assert fault.calls
        assert [text for text in told if FAULT in text] != []
