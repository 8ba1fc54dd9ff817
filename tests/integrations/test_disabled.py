"""COMPUTEMETER=0 meters nothing, whoever attached a meter."""

import os
import subprocess
import sys

import pytest
import torch
from lightning_fits import meter as users
from site_fits import FLOPS, fit, ledgers, weights

from computemeter.lightning import ComputeMeter

pytestmark = pytest.mark.usefixtures("metered_site")


def test_a_disabled_meter_touches_nothing(small, monkeypatch, capfd, caplog):
    plain = weights(fit(small))
    monkeypatch.setenv("COMPUTEMETER", "0")
    wrapped = []

    class Module(small.Module):
        def training_step(self, batch, batch_idx):
            loop = self.trainer.fit_loop.epoch_loop
            wrapped.extend(
                ["run" in vars(loop.automatic_optimization), "_on_before_fetch" in vars(loop)]
            )
            return super().training_step(batch, batch_idx)

    written = len(ledgers(small))
    capfd.readouterr()
    meter = ComputeMeter()
    trainer = fit(small, meter, module=Module)
    trainer.save_checkpoint(small.folder / "at.ckpt")
    assert weights(trainer) == plain
    assert wrapped == [False] * 4
    assert len(ledgers(small)) == written
    assert torch.load(small.folder / "at.ckpt", weights_only=True)["callbacks"] == {}
    assert capfd.readouterr().out == ""
    assert [record for record in caplog.records if record.name == "computemeter"] == []
    summary = meter.summary()
    assert "COMPUTEMETER=0 disables every meter" in summary.diagnosis
    assert summary.warnings == (summary.diagnosis,)
    assert summary.model_flops is summary.run_flops is summary.mfu is None
    assert meter.breakdown() == {}


def test_a_run_that_was_resumed_without_its_meter_has_no_total(small, monkeypatch):
    paths = [small.folder / "first.ckpt", small.folder / "second.ckpt"]
    fit(small, users()).save_checkpoint(paths[0])
    monkeypatch.setenv("COMPUTEMETER", "0")
    fit(small, users(), ckpt_path=paths[0], max_epochs=2).save_checkpoint(paths[1])
    monkeypatch.setenv("COMPUTEMETER", "1")
    meter = users()
    fit(small, meter, ckpt_path=paths[1], max_epochs=3)
    assert meter.summary().model_flops == FLOPS
    assert meter.summary().run_flops is None


def test_a_disabled_keras_meter_touches_nothing(tmp_path):
    code = """
import keras, numpy
from computemeter.keras import ComputeMeter
meter = ComputeMeter(log_freq="batch")
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
x, y = numpy.ones((8, 3)), numpy.ones((8, 2))
model.fit(x, y, batch_size=4, callbacks=[meter], verbose=0)
with meter.training(model):
    model.train_on_batch(x, y)
print(meter.summary().steps, meter.summary().model_flops, meter.summary().warnings)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "COMPUTEMETER": "0", "KERAS_BACKEND": "torch"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    reason = "nothing was measured: COMPUTEMETER=0 disables every meter"
    assert done.stdout.strip() == f"0 None ('{reason}',)", done.stderr
    assert list(tmp_path.iterdir()) == []
