"""The Lightning callback with real trackers: every value once, and a dead tracker harms nothing."""

import csv
import json
import logging
import socket
import sqlite3
from pathlib import Path

import pytest
from small_runs import BATCH, FLOPS_PER_EXAMPLE

from computemeter.ledger import read_ledger
from computemeter.lightning import ComputeMeter
from computemeter_lightning._callback import _run_name
from computemeter_mlflow import MLflowSink


@pytest.fixture
def closed_port():
    """A loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"run_name": "big"}, "big"),
        ({"tags": {"mlflow.runName": "tagged"}}, "tagged"),
        ({"run_name": "big", "tags": {"mlflow.runName": "tagged"}}, "big"),
        ({"tags": {"team": "audio"}}, "digits"),
        ({}, "digits"),
    ],
)
def test_the_ledger_has_the_name_that_people_know(small, given, name):
    store = f"sqlite:///{small.folder / 'mlflow.db'}"
    logger = small.pl.loggers.MLFlowLogger("digits", tracking_uri=store, **given)
    trainer = small.trainer(ComputeMeter(verbose=0, trackers=None), logger=logger, max_epochs=1)
    trainer.fit(small.Module(), small.data(BATCH))
    (file,) = (small.folder / "compute_ledger").glob("*.jsonl")
    assert read_ledger(file).header.name == name


@pytest.mark.parametrize(("given", "name"), [({"name": "big"}, "big"), ({}, "speech")])
def test_a_wandb_run_is_not_begun_for_the_sake_of_its_name(small, monkeypatch, given, name):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "init", None)
    logger = small.pl.loggers.WandbLogger(project="speech", save_dir=small.folder, **given)
    assert _run_name(logger) == name


def test_one_value_for_each_key_and_step_in_the_store(small):
    store = small.folder / "mlflow.db"
    loggers = [
        small.pl.loggers.MLFlowLogger("digits", tracking_uri=f"sqlite:///{store}"),
        small.pl.loggers.CSVLogger(small.folder),
    ]
    callback = ComputeMeter(verbose=0, project="p", team="t", settle_steps=0, settle_seconds=0)
    trainer = small.trainer(callback, logger=loggers, max_epochs=2)
    trainer.fit(small.Module(), small.data(9 * BATCH), small.data(BATCH))
    with sqlite3.connect(store) as database:
        rows = database.execute("select run_uuid, key, step, value from metrics").fetchall()
        tags = dict(database.execute("select key, value from tags").fetchall())
        runs = database.execute("select run_uuid, status from runs").fetchall()
    ours = [row for row in rows if row[1].startswith("compute/")]
    assert len({(run, key, step) for run, key, step, _ in ours}) == len(ours)
    assert runs == [(loggers[0].run_id, "FINISHED")]
    flops = {step: value for _, key, step, value in ours if key == "compute/flops"}
    # 18 steps; the Trainer logs at 1, 3, ..., 17, and 17 is the last.
    assert flops == {step: (step + 1) * BATCH * FLOPS_PER_EXAMPLE for step in range(1, 18, 2)}
    loss = {step: value for _, key, step, value in rows if key == "loss"}
    assert {step: value for _, key, step, value in ours if key == "compute/loss"} == loss
    assert {key for _, key, _, _ in ours} >= {
        "compute/pfs_days",
        "compute/pfs_days_gpu_time",
        "compute/log10_pfs_days",
        "compute/ratio",
        "compute/divergence",
        "compute/flops_per_step",
        "compute/flops_per_sec",
        "compute/mfu",
        "compute/hfu",
        "compute/busy_fraction",
        "compute/device_hours",
        "compute/busy_device_hours",
        "compute/uncounted_ops",
    }
    summary = callback.summary()
    assert tags["computemeter.project"] == "p"
    assert tags["computemeter.team"] == "t"
    assert tags["computemeter.verdict"] == summary.verdict
    assert tags["computemeter.cause"] == summary.cause
    (segment,) = [tag for tag in tags if tag.startswith("computemeter.segment.")]
    assert json.loads(tags[segment])["model_flops"] == summary.model_flops
    with (Path(loggers[1].log_dir) / "metrics.csv").open(newline="") as file:
        written = [row["step"] for row in csv.DictReader(file) if row["compute/flops"]]
    assert sorted(map(int, written)) == sorted(flops)
    (file,) = (small.folder / "compute_ledger").glob("*.jsonl")
    assert dict(read_ledger(file).header.trackers) == {"mlflow": loggers[0].run_id}


def test_a_tracker_that_cannot_be_reached_is_one_warning(small, closed_port, caplog):
    sink = MLflowSink(tracking_uri=closed_port, run_id="0" * 32, interval=0.1)
    callback = ComputeMeter(verbose=0, trackers=[sink])
    trainer = small.trainer(callback, max_epochs=30)
    with caplog.at_level(logging.WARNING, "computemeter"):
        trainer.fit(small.Module(), small.data(9 * BATCH))
    assert callback.summary().steps == 30 * 9
    ours = [record for record in caplog.records if record.name.startswith("computemeter")]
    unreachable = [record for record in ours if "mlflow" in record.message.lower()]
    # The outage once, when it is met; at the end how what was not delivered gets there.
    assert len(unreachable) == 2
    assert f"--to {closed_port}" in unreachable[1].message
    assert "sending failed" in unreachable[0].message
    assert "did not reach mlflow; this sends the rest: computemeter push" in ours[-1].message
    assert len(ours) == 2
    (file,) = (small.folder / "compute_ledger").glob("*.jsonl")
    assert read_ledger(file).last_totals["model_flops"] == callback.summary().model_flops


def test_what_lightnings_own_logger_does_with_a_dead_server(small, closed_port, monkeypatch):
    """`MLFlowLogger` itself raises before any callback runs: the meter cannot help, nor harms."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    logger = small.pl.loggers.MLFlowLogger("digits", tracking_uri=closed_port)
    callback = ComputeMeter(verbose=0)
    with pytest.raises(Exception, match=r"(?i)max retries|refused|failed"):
        small.trainer(callback, logger=logger).fit(small.Module(), small.data(BATCH))
    assert callback.summary().steps == 0
