"""docs/metrics.md and docs/ledger.md say what a run leaves, and docs/limits.md what was measured.

A net is trained, crashes after its checkpoint and is resumed, from a base model and into MLflow, so
that every metric has a value somewhere.
"""

import json
import re
import sqlite3
from importlib.metadata import distribution
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import MLFlowLogger
from torch.utils.data import DataLoader

from computemeter.lightning import ComputeMeter

DOCS = Path(__file__).parents[1] / "docs"


class Crashing(BoringModel):
    """Raises when it has trained its batches."""

    def __init__(self, batches):
        super().__init__()
        self._batches = batches

    def training_step(self, batch, batch_idx):
        if batch_idx == self._batches:
            raise RuntimeError("crash")
        return super().training_step(batch, batch_idx)


def fit(folder, module, logger, **where):
    # 20 steps of pace for a forecast; a peak, for the table may not know this machine's.
    meter = ComputeMeter(
        base_flops=1e12, peak_flops=1e12, project="p", team="t", verbose=2, ledger=folder / "ledger"
    )
    kept = ModelCheckpoint(folder, filename="kept", every_n_train_steps=20)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=logger, log_every_n_steps=5,
                         callbacks=[meter, kept], enable_progress_bar=False,
                         enable_model_summary=False)  # fmt: skip
    trainer.fit(module, DataLoader(torch.randn(60 * 4, 32), batch_size=4), **where)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that crashed after 30 steps, kept after 20, and was resumed there."""
    folder = tmp_path_factory.mktemp("run")
    logger = MLFlowLogger("digits", tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    with pytest.raises(RuntimeError, match="crash"):
        fit(folder, Crashing(30), logger)
    fit(folder, BoringModel(), logger, ckpt_path=folder / "kept.ckpt")
    return folder


@pytest.fixture(scope="module")
def lines(run):
    """Every line of the run's ledgers."""
    files = sorted((run / "ledger").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("ascii").splitlines()]


def stored(folder, query):
    with sqlite3.connect(folder / "mlflow.db") as database:
        return {key for (key,) in database.execute(query)}


def section(page, heading):
    """Return the part of a page under a heading."""
    after = (DOCS / page).read_text("utf-8").partition(f"\n## {heading}\n")[2]
    return after.partition("\n## ")[0]


def named(page, heading):
    """Return the names in the first column of a section's table."""
    rows = re.findall(r"^\| (`.*?) \|", section(page, heading), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_metrics_of_a_run_are_those_of_the_page(run):
    written = stored(run, "select distinct key from metrics where key like 'compute/%'")
    assert written == named("metrics.md", "Metrics")


def test_the_tags_of_a_run_are_those_of_the_page(run):
    tags = stored(run, "select distinct key from tags where key like 'computemeter.%'")
    facts = {re.sub(r"(?<=segment\.).*", "<id>", tag.removeprefix("computemeter.")) for tag in tags}
    assert facts == named("metrics.md", "Facts about the run")


def test_the_groups_of_entry_points_are_those_of_the_page():
    groups = {point.group for point in distribution("computemeter").entry_points}
    ours = {group for group in groups if group.startswith("computemeter.")}
    assert ours == named("metrics.md", "Entry points")


@pytest.mark.parametrize("kind", ["header", "progress", "event", "end"])
def test_the_fields_of_a_ledger_are_those_of_the_page(lines, kind):
    records = [line for line in lines if line["kind"] == kind]
    fields = {name for record in records for name in record} - {"kind", "totals"}
    totals = {f"totals.{name}" for record in records for name in record.get("totals", ())}
    assert fields | totals == named("ledger.md", kind)


def test_a_ledger_has_the_metrics_of_the_tracker_but_its_own_logarithm(lines):
    written = {name for line in lines for name in line.get("metrics", ())}
    assert written == named("metrics.md", "Metrics") - {"compute/log10_pfs_days"}


def test_the_figures_of_the_limits_are_those_of_the_benchmarks():
    results = DOCS.parent / "benchmarks" / "results"
    rows = re.findall(
        r"^\|.*\| (.*) \|.*\| \[.*\]\(results/(.*)\) \|$",
        (DOCS / "limits.md").read_text("utf-8"),
        re.MULTILINE,
    )
    figures = [(file, figure) for cell, file in rows for figure in re.findall(r"`([^`]+)`", cell)]
    pages = {file: (results / file).read_text("utf-8") for file, _ in figures}
    assert pages.keys() == {
        f"{name}.md"
        for name in ("eta", "forecast", "keras_overhead", "outage", "overhead", "trend")
    }
    assert [pair for pair in figures if pair[1] not in pages[pair[0]]] == []
