"""A fault at every place where a Keras callback calls the meter: the training never learns of it.

Each test replaces one method by one that raises, and compares with training that nothing meters:
the same weights, optimizer state, random seeds and losses, bit for bit.
"""

import importlib

import keras
import numpy as np
import pytest
from keras_job import Crash, Job
from small_runs import BATCH, CLASSES, HIDDEN, INPUTS

from computemeter import Meter
from computemeter.book import StepBook
from computemeter.carried import Carried
from computemeter.journal import Journal
from computemeter.keras import ComputeMeter
from computemeter.ledger_writer import LedgerWriter
from computemeter.patches import Patches
from computemeter.run_meter import RunMeter
from computemeter.step_meter import StepMeter
from computemeter_keras import _callback, _resume
from computemeter_keras._fit import Fit
from computemeter_keras._resume import ResumeFile

BACKEND = keras.backend.backend()
FAULT = "an injected fault"
NEVER_REACHED = {
    *(f"Meter.{name}" for name in ("step", "pause", "validation", "add_flops", "count")),
    *(f"Meter.{name}" for name in ("breakdown", "summary", "load_state_dict")),  # the user's calls
    *(f"StepMeter.{name}" for name in ("start_execution", "end_execution", "drop_execution")),
    "StepMeter.break_off",  # of a step that raises, see below
    "StepBook.give_up",  # of a step that runs out of memory
    "Carried.from_state",  # of a resumed run, see below
    "ResumeFile._read",
    "Journal.folder",  # the receipt lies with the checkpoint
    "Journal.alert",
}
if BACKEND == "torch":
    NEVER_REACHED |= {"StepMeter.start_waiting", "StepMeter.end_waiting"}
else:
    NEVER_REACHED |= {"TracedCounter.breakdown", "computemeter_keras._callback.torch_ranks"}
WRAPPED = {"save", "save_weights", "evaluate", "predict", "make_train_function"}


class Tracker:
    """A sink with everything that a sink may have."""

    name, run_id, destination = "tracker", "run", "http://host"

    def log(self, metrics, *, step, time):
        """Queue values."""

    def tag(self, tags):
        """Queue facts."""

    def files(self, make):
        """Store files."""

    def close(self, timeout=5.0):
        """Deliver."""
        return 0


_BACKENDS = {
    "jax": ("computemeter_keras._jax", "JaxClock", "TracedCounter"),
    "tensorflow": ("computemeter_keras._tensorflow", "TensorflowClock", "TracedCounter"),
    "torch": ("computemeter_keras._torch", None, "_Counter"),
}
_module, _clock, _counter = _BACKENDS[BACKEND]
MODULE = importlib.import_module(_module)
OF_THE_BACKEND = [getattr(MODULE, name) for name in (_clock, _counter) if name]


def own_methods(cls):
    kinds = (property, staticmethod, classmethod)
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, kinds))
    ]


METERS = (Meter, RunMeter, StepMeter)
# What lies deeper is the core's, and its faults are tried in tests/integrations too.
DEEPER = [Journal, LedgerWriter, Tracker, StepBook]
TARGETS = [
    *((cls, name) for cls in (*METERS, *OF_THE_BACKEND) for name in own_methods(cls)),
    *(
        pytest.param(cls, name, marks=pytest.mark.slow)
        for cls in DEEPER
        for name in own_methods(cls)
    ),
    *((ResumeFile, name) for name in ("_read", *own_methods(ResumeFile))),
    *((Fit, name) for name in ("__init__", "wrap", "_outermost")),
    *((MODULE.KerasModel, name) for name in ("__init__", "metered", "settle")),
    *((_callback, name) for name in ("_backup_among", "_callback_list", "_local_folder")),
    *((_callback, "backend_of"), (_callback, "torch_ranks"), (Patches, "wrap")),
    *((ComputeMeter, name) for name in ("_begin", "_after_call", "_log", "_saved", "_state")),
]


class Fault:
    """Raises wherever it is called, and counts."""

    def __init__(self, monkeypatch, owner, name):
        self.calls = 0
        kinds = {property: property, staticmethod: staticmethod, classmethod: classmethod}
        kind = kinds.get(type(vars(owner).get(name)), lambda function: function)
        monkeypatch.setattr(owner, name, kind(self._fail()))

    def _fail(self):
        def fail(*args, **kwargs):
            self.calls += 1
            raise RuntimeError(FAULT)

        return fail


class Model:
    """One model, trained from the same state again and again: it is compiled once."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        layers = keras.layers
        self.model = keras.Sequential(
            [
                keras.Input((INPUTS,)),
                layers.Dense(HIDDEN, "relu"),
                layers.Dropout(0.5),
                layers.Dense(CLASSES),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile("adam", loss)
        self.model.optimizer.build(self.model.trainable_variables)
        self._begin = self._state()
        self.plain = None

    def _variables(self):
        model = self.model
        seeds = [layer.seed_generator.state for layer in model.layers if "drop" in layer.name]
        return [*model.variables, *model.optimizer.variables, *seeds]

    def _state(self):
        return [np.array(each) for each in self._variables()]

    def fit(self, *callbacks):
        """Train with a validation and with saving; return everything that must not change."""
        for variable, value in zip(self._variables(), self._begin, strict=True):
            variable.assign(value)
        random = np.random.default_rng(0)
        x = random.normal(size=(2 * BATCH, INPUTS)).astype("float32")
        y = random.integers(0, CLASSES, 2 * BATCH)
        keras.utils.set_random_seed(1)  # for the order of the data
        more = [
            keras.callbacks.BackupAndRestore("backup"),
            keras.callbacks.ModelCheckpoint("model.weights.h5", save_weights_only=True),
        ]
        history = self.model.fit(
            *(x, y),
            batch_size=BATCH,
            epochs=2,
            verbose=0,
            validation_data=(x[:BATCH], y[:BATCH]),
            callbacks=[*callbacks, *more],
        )
        return [*(each.tolist() for each in self._state()), history.history]


@pytest.fixture(scope="module")
def model():
    return Model()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing is written into the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trains_the_same(model, tmp_path, caplog):
    """Train with a meter, and compare; return what the user was told."""

    def train():
        if model.plain is None:
            model.fit()  # compiles
            model.plain = model.fit()
        meter = ComputeMeter(
            ledger=tmp_path / "ledger",
            trackers=[Tracker()],
            verbose=0,
            log_freq="batch",
        )
        caplog.clear()
        assert model.fit(meter) == model.plain
        assert not WRAPPED & set(vars(model.model))
        assert Fit.of(model.model.train_function) is None
        return [record.message for record in caplog.records if record.name == "computemeter"]

    return train


def test_training_without_a_fault(trains_the_same):
    assert trains_the_same() == []


@pytest.mark.parametrize(
    ("owner", "name"), TARGETS, ids=lambda each: getattr(each, "__name__", each)
)
def test_a_fault_at(owner, name, trains_the_same, monkeypatch):
    fault = Fault(monkeypatch, owner, name)
    told = trains_the_same()
    assert fault.calls or f"{owner.__name__}.{name}" in NEVER_REACHED
    assert [text for text in told if FAULT in text] != [] or not fault.calls


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Carried, "from_state"), (ResumeFile, "read"), (_resume, "_mark_restored")],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_fault_in_what_a_resumed_fit_reads(owner, name, tmp_path, monkeypatch):
    with_a_fault, without = Job(tmp_path / "with"), Job(tmp_path / "without")
    for job in (with_a_fault, without):
        job.launch(Crash(2, 1))
    without.launch()
    fault = Fault(monkeypatch, owner, name)
    meter = with_a_fault.launch()
    assert fault.calls
    assert with_a_fault.went_well
    for one, two in zip(with_a_fault.model.get_weights(), without.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert [text for text in meter.summary().warnings if FAULT in text] != []


@pytest.mark.parametrize("name", ["start_step", "break_off", "ensure_off", "close", "steps"])
def test_the_users_own_exception_arrives(name, monkeypatch):
    class Broken(keras.Sequential):
        def train_step(self, *_):
            raise KeyError("the user's own")

    model = Broken([keras.Input((INPUTS,)), keras.layers.Dense(CLASSES)])
    model.compile("sgd", "mse")
    Fault(monkeypatch, Meter, name)
    x, y = np.zeros((BATCH, INPUTS), "float32"), np.zeros((BATCH, CLASSES), "float32")
    with pytest.raises(KeyError, match="the user's own"):
        model.fit(x, y, verbose=0, callbacks=[ComputeMeter(ledger=None, trackers=None, verbose=0)])
    assert not WRAPPED & set(vars(model))
