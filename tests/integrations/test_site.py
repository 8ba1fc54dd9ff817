"""COMPUTEMETER=1 meters every Trainer of a site."""

import copy
import json
import os
import pickle
import socket
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from site_fits import FLOPS, fit, ledgers, site_meters, weights
from small_runs import BATCH

from computemeter import site
from computemeter.ledger import read_ledger
from computemeter.lightning import ComputeMeter
from computemeter_lightning._site import SiteMeter

pytestmark = pytest.mark.usefixtures("metered_site")

# The factory.


def test_lightning_asks_for_it_in_both_namespaces(pl):
    points = entry_points(group=f"{pl.__name__}.callbacks_factory", name="computemeter")
    assert [point.load() for point in points] == [site.callbacks]


@pytest.mark.parametrize("value", ["1", "on", "TRUE"])
def test_every_trainer_has_one(small, value, monkeypatch):
    monkeypatch.setenv("COMPUTEMETER", value)
    first, second = small.trainer(), small.pl.Trainer(callbacks=None, logger=False)
    assert len(site_meters(first)) == len(site_meters(second)) == 1
    assert site_meters(first) != site_meters(second)


@pytest.mark.parametrize("value", [None, "", " ", "0", "no"])
def test_no_trainer_has_one_unless_the_site_asks(small, value, monkeypatch):
    monkeypatch.delenv("COMPUTEMETER")
    if value is not None:
        monkeypatch.setenv("COMPUTEMETER", value)
    assert site_meters(small.trainer()) == []


@pytest.mark.parametrize("value", ["", "0", "maybe"])
def test_where_it_is_not_asked_for_nothing_is_imported(value):
    code = f"""
import os, sys
os.environ["COMPUTEMETER"] = {value!r}
from computemeter.site import callbacks
assert callbacks() == []
print(sorted({{"torch", "lightning", "computemeter.meter", "computemeter_lightning"}}
    & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_value_that_is_not_accepted_is_one_warning_and_no_meter(small, monkeypatch, caplog):
    monkeypatch.setenv("COMPUTEMETER", "maybe")
    assert site_meters(fit(small)) == site_meters(fit(small)) == []
    ours = [record.message for record in caplog.records if record.name == "computemeter"]
    assert len(ours) == 1
    assert "no meter is attached to any Trainer" in ours[0]
    assert "COMPUTEMETER='maybe': accepted are 0, off, false, no (no meter at all)" in ours[0]
    with pytest.raises(ValueError, match="COMPUTEMETER='maybe': accepted"):
        ComputeMeter()


@pytest.mark.parametrize("error", [RuntimeError("boom"), ImportError("boom"), KeyError("boom")])
def test_a_meter_that_cannot_be_made_is_one_warning(small, error, monkeypatch, caplog):
    def fail(_self):
        raise error

    monkeypatch.setattr(SiteMeter, "__init__", fail)
    assert site_meters(small.trainer()) == site_meters(small.trainer()) == []
    ours = [record.message for record in caplog.records if record.name == "computemeter"]
    assert len(ours) == 1
    assert "boom" in ours[0]


def test_options_that_are_not_accepted_are_warned_of(small, monkeypatch, caplog):
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(small.folder / f"{small.folder.name}.toml"))
    trainer = fit(small)
    assert trainer.state.finished
    ours = [record.message for record in caplog.records if record.name == "computemeter"]
    assert any(f"{small.folder.name}.toml" in message for message in ours)


# What it does.


def test_its_options_come_from_the_environment(small, monkeypatch, capfd):
    folder = small.folder / "elsewhere"
    for name, value in {"PROJECT": "p", "TEAM": "t", "LEDGER": str(folder)}.items():
        monkeypatch.setenv(f"COMPUTEMETER_{name}", value)
    (meter,) = site_meters(fit(small))
    assert meter.summary().model_flops == FLOPS
    assert meter.summary().warnings == ()
    (file,) = folder.glob("*.jsonl")
    ledger = read_ledger(file)
    assert (ledger.header.project, ledger.header.team) == ("p", "t")
    assert ledger.summary["model_flops"] == FLOPS
    assert capfd.readouterr().out == ""


def test_weights_are_the_same_with_and_without(small, monkeypatch):
    metered = weights(fit(small, max_epochs=3))
    monkeypatch.setenv("COMPUTEMETER", "0")
    assert weights(fit(small, max_epochs=3)) == metered


def test_two_fits_of_one_trainer_and_one_of_another(small):
    trainer = fit(small)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, small.data(2 * BATCH))
    (first,) = site_meters(trainer)
    # The second fit goes on from the first: two more epochs.
    assert first.summary().model_flops == 2 * FLOPS
    assert first.summary().run_flops == 3 * FLOPS
    (other,) = site_meters(fit(small))
    assert other.summary().run_flops == FLOPS
    assert len(ledgers(small)) == 3


def test_trainers_that_share_a_list_of_callbacks(small):
    """Lightning adds the factory's callbacks to the very list that the user passed."""
    shared = [small.pl.callbacks.Timer()]
    quiet = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "log_every_n_steps": 1}
    trainers = [
        small.pl.Trainer(callbacks=shared, default_root_dir=small.folder, **quiet) for _ in range(2)
    ]
    assert len(site_meters(trainers[1])) == 2
    for trainer in trainers:
        trainer.fit(small.Module(), small.data(2 * BATCH))
    totals = [ledger.summary["model_flops"] for ledger in ledgers(small)]
    assert totals == [FLOPS, FLOPS]


def test_a_fast_dev_run_writes_nothing(small):
    (meter,) = site_meters(fit(small, fast_dev_run=True))
    assert meter.summary().steps == 1
    assert ledgers(small) == []


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_what_is_no_training_is_not_metered(small, method):
    class Module(small.Module):
        test_step = small.Module.validation_step

        def predict_step(self, batch):
            return self.net(batch[0])

    trainer = small.trainer()
    getattr(trainer, method)(Module(), small.data(BATCH))
    (meter,) = site_meters(trainer)
    assert meter.summary().steps == 0
    assert meter.summary().warnings == ()
    assert ledgers(small) == []


def test_a_learning_rate_finder_before_the_fit(small):
    class Module(small.Module):
        learning_rate = 0.01

    trainer, module = small.trainer(), Module()
    tuner = __import__(f"{small.pl.__name__}.tuner", fromlist=["Tuner"]).Tuner(trainer)
    tuner.lr_find(module, small.data(8 * BATCH), num_training=4, early_stop_threshold=None)
    trainer.fit(module, small.data(2 * BATCH))
    (meter,) = site_meters(trainer)
    assert meter.summary().run_flops == FLOPS
    assert meter.summary().warnings == ()
    assert len(ledgers(small)) == 1


def pickled(each):
    return pickle.loads(pickle.dumps(each))  # noqa: S301 - our own


# What was trained holds the module, and this one is a class of a test's own.
@pytest.mark.parametrize(
    ("copied", "trained"), [(copy.deepcopy, False), (copy.deepcopy, True), (pickled, False)]
)
def test_a_trainers_callbacks_can_be_copied(small, copied, trained):
    trainer = fit(small) if trained else small.trainer()
    (meter,) = copied(site_meters(trainer))
    assert meter.summary().steps == 0
    again = small.trainer(meter)
    again.fit(small.Module(), small.data(2 * BATCH))
    assert meter.summary().model_flops == FLOPS
    assert site_meters(again)[0] is meter


def test_a_trainer_can_be_copied(small):
    trainer = copy.deepcopy(small.trainer())
    trainer.fit(small.Module(), small.data(2 * BATCH))
    assert site_meters(trainer)[0].summary().model_flops == FLOPS


def test_a_fit_that_raises(small):
    class Module(small.Module):
        def training_step(self, batch, batch_idx):
            if batch_idx:
                raise KeyError("the user's own")
            return super().training_step(batch, batch_idx)

    trainer = small.trainer()
    with pytest.raises(KeyError, match="the user's own"):
        trainer.fit(Module(), small.data(2 * BATCH))
    assert [ledger.status for ledger in ledgers(small)] == ["failed"]
    assert "run" not in vars(trainer.fit_loop.epoch_loop.automatic_optimization)


# Many processes.

SCRIPT = """
import json, sys
import torch
from pathlib import Path
from torch.utils.data import DataLoader, TensorDataset
from lightning import pytorch as pl

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(12, 4)
    def training_step(self, batch, _):
        return self.net(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

torch.set_num_threads(1)
pl.seed_everything(1, verbose=False)
module = Module()
rows = torch.randn(32, 12, generator=torch.Generator().manual_seed(1))
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False,
    default_root_dir=sys.argv[1], enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(module, DataLoader(TensorDataset(rows), batch_size=8))
found = [callback for callback in trainer.callbacks if type(callback).__name__ == "SiteMeter"]
if trainer.is_global_zero:
    print(json.dumps([[each.summary().model_flops for each in found],
        [parameter.tolist() for parameter in module.parameters()]]))
"""


@pytest.mark.slow
def test_two_ranks(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(value):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_PORT": port}
        done = subprocess.run(
            [sys.executable, script, tmp_path],
            env={**os.environ, **shared, "COMPUTEMETER": value},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return json.loads(done.stdout.strip().splitlines()[-1])

    (totals, metered), (without, plain) = run("1"), run("")
    # 32 rows through Linear(12, 4): forward and the weight's gradient, nobody needs the input's.
    assert totals == [32 * 2 * 2 * 12 * 4]
    assert without == []
    assert metered == plain
    (file,) = tmp_path.rglob("*.jsonl")
    assert read_ledger(file).header.device_count == 2
