"""Runs read back from W&B: offline files of several launches, and a project over HTTP."""

import json
import os

import pytest

wandb = pytest.importorskip("wandb")

from wandb_server import Server, Stored, finish  # noqa: E402 - after the check for wandb

from computemeter.segments import merge  # noqa: E402
from computemeter.sources import SourceError  # noqa: E402
from computemeter.units import PFS_DAY  # noqa: E402
from computemeter_wandb._source import records, split  # noqa: E402

# 2 devices of 1e12 FLOP/s: 10 s of each could have done 2 * 10 * 1e12 = 2e13; 4 s, 8e12.
FIRST = {
    "steps": 100,
    "model_flops": 4 * 10**12,
    "gpu_time_flops": 6 * 10**12,
    "device_seconds": 20.0,
    "peak_flops": 1e12,
    "run_flops": 4 * 10**12,
    "spent_flops": 4 * 10**12,
    "lineage_flops": 5 * 10**12,
    "verdict": "warn",
    "cause": "input_bound",
}
# Resumed from a checkpoint at 3e12: 1e12 of the first segment is lost, and 2e12 are added.
SECOND = {
    **FIRST,
    "steps": 40,
    "model_flops": 2 * 10**12,
    "gpu_time_flops": 3 * 10**12,
    "device_seconds": 8.0,
    "run_flops": 5 * 10**12,
    "lineage_flops": 6 * 10**12,
    "verdict": "agree",
    "cause": "none",
}
FACTS = {"schema": "1", "device": "2 x NVIDIA A100", "project": "digits", "team": "vision"}


def entry(**segments):
    segment = {name: json.dumps(totals) for name, totals in segments.items()}
    return {"computemeter": {**FACTS, "segment": segment}}


def assert_both_segments(record):
    assert (record.segments, record.steps) == (2, 140)
    assert record.spent_flops == 6 * 10**12
    assert record.run_flops == 5 * 10**12
    assert record.lineage_flops == 6 * 10**12
    assert record.gpu_time_flops == 9 * 10**12
    assert record.ratio == 1.5
    assert record.possible_flops == 28 * 10**12
    assert record.mfu == 6 / 28
    assert record.device_seconds == 28
    assert (record.verdict, record.cause) == ("agree", "none")
    assert (record.device_name, record.device_count) == ("NVIDIA A100", 2)
    assert (record.project, record.team) == ("digits", "vision")
    assert record.estimated is False


class TestOffline:
    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch, tmp_path):
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_SILENT", "true")
        yield
        wandb.teardown()

    def launch(self, folder, summary, **options):
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(project="p", dir=folder, **options)
        run.summary.update(summary)
        return finish(run)

    def test_the_launches_of_a_run_add_up(self, tmp_path):
        first = self.launch(tmp_path / "a", entry(s1=FIRST), id="r1", name="before")
        second = self.launch(tmp_path / "b", entry(s2=SECOND), id="r1", name="after")
        self.launch(tmp_path / "c", {"accuracy": 1})  # no meter
        warnings = []
        (record,) = records(str(tmp_path), warn=warnings.append)
        assert_both_segments(record)
        assert (record.run_id, record.name, record.status) == ("p/r1", "after", "finished")
        assert (record.started, record.ended) == (first.started, second.ended)
        assert (record.source, record.url) == (str(second.path), None)
        assert warnings == []

    def test_runs_of_two_projects_that_have_one_id_are_two(self, tmp_path):
        self.launch(tmp_path / "a", entry(s1=FIRST), id="r1", entity="ann")
        self.launch(tmp_path / "b", entry(s2=SECOND), id="r1", entity="bob")
        found = merge(records(str(tmp_path), warn=pytest.fail))
        assert [(run.run_id, run.steps) for run in found] == [("ann/p/r1", 100), ("bob/p/r1", 40)]

    def test_what_is_missing_is_none(self, tmp_path):
        found = self.launch(tmp_path, entry(s1={"steps": 3, "device_seconds": 1.0}))
        (record,) = records(str(found.path), warn=pytest.fail)
        assert record.steps == 3
        assert record.segments == 1
        assert record.spent_flops is record.mfu is record.possible_flops is None

    def test_a_run_killed_before_its_totals_has_its_newest_values(self, tmp_path):
        values = {"compute/flops": 8.0, "compute/pfs_days_gpu_time": 1.0, "compute/ratio": 0.5}
        self.launch(tmp_path, {**values, "computemeter": FACTS})
        (record,) = records(str(tmp_path), warn=pytest.fail)
        assert (record.run_flops, record.spent_flops) == (8, 8)
        assert record.gpu_time_flops == PFS_DAY
        assert record.ratio == 0.5

    def test_files_that_cannot_be_read_are_left_out_and_told_of(self, tmp_path):
        (tmp_path / "foreign.wandb").write_bytes(b"nothing of W&B's")
        broken = entry(s1=FIRST, s2={})
        broken["computemeter"]["segment"]["s2"] = "{"
        self.launch(tmp_path, broken, id="r1")
        warnings = []
        (record,) = records(str(tmp_path), warn=warnings.append)
        assert record.spent_flops == FIRST["model_flops"]
        assert len(warnings) == 2
        assert "foreign.wandb: not a W&B run" in warnings[0]
        assert "run p/r1: the totals of segment s2 cannot be read" in warnings[1]
        with pytest.raises(SourceError, match="not a W&B run"):
            records(str(tmp_path / "foreign.wandb"), warn=pytest.fail)


class TestOnline:
    @pytest.fixture
    def server(self, monkeypatch, tmp_path):
        with Server(page=2) as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
            monkeypatch.setenv("WANDB_DIR", str(tmp_path))
            monkeypatch.setenv("WANDB_SILENT", "true")
            yield server
        wandb.teardown()

    def test_a_project_is_read_page_by_page(self, server, tmp_path):
        stored = Stored("r1", "both", "finished", summary=entry(s1=FIRST, s2=SECOND), user="eve")
        server.runs = {
            "r0": Stored("r0", "no meter", summary={"accuracy": 1}),
            "r1": stored,
            "r2": Stored("r2", "going on", "running", summary=entry(s1=FIRST)),
            "r3": Stored("r3", "crashed", "crashed", summary=entry(s3=SECOND)),
            "r4": Stored("r4", "odd", "new to us", summary={"computemeter": {"segment": 3}}),
        }
        found = records("wandb://ann/p", warn=pytest.fail)
        assert [record.run_id for record in found] == [f"ann/p/r{number}" for number in range(1, 5)]
        assert server.pages_asked == 3  # of 5 runs, 2 a page
        both, going_on, crashed, odd = found
        assert_both_segments(both)
        assert (both.name, both.user, both.status) == ("both", "eve", "finished")
        # 2025-01-01 is 20,089 days after the epoch; the server's runs last a minute.
        assert (both.started, both.ended) == (20_089 * 86_400, 20_089 * 86_400 + 60)
        assert both.source == "wandb://ann/p"
        assert both.url == f"{server.url}/ann/p/runs/r1"
        assert (going_on.status, going_on.ended) == ("running", None)
        assert crashed.status == "failed"
        assert (odd.status, odd.spent_flops, odd.team) == ("unknown", None, None)
        # W&B's client makes a folder for each run it reads of; none of them is here.
        assert not list(tmp_path.iterdir())
        assert os.environ["WANDB_DIR"] == str(tmp_path)

    def test_one_run_by_its_id(self, server):
        server.runs = {name: Stored(name, summary=entry(s1=FIRST)) for name in ("r1", "r2")}
        (record,) = records("wandb://ann/p/r2", warn=pytest.fail)
        assert record.run_id == "ann/p/r2"

    def test_a_run_that_is_not_there(self, server):
        with pytest.raises(wandb.errors.CommError, match="r9"):
            records("wandb://ann/p/r9", warn=pytest.fail)


@pytest.mark.parametrize("uri", ["wandb://ann", "wandb://", "wandb://a/b/c/d", "wandb://a//c"])
def test_a_uri_that_names_no_project(uri):
    with pytest.raises(SourceError, match="not of the form wandb://entity/project"):
        split(uri)


def test_the_parts_of_a_uri():
    assert split("wandb://ann/p") == ("ann", "p", None)
    assert split("wandb://ann/p/r1/") == ("ann", "p", "r1")
