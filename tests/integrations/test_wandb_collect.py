"""A team's runs collected from W&B: estimates from what it knows of a machine, changes alone."""

import json

import pytest
from ledgers import totals

wandb = pytest.importorskip("wandb")

from wandb.proto.wandb_internal_pb2 import EnvironmentRecord  # noqa: E402 - after the check
from wandb_server import Server, Stored, finish  # noqa: E402

from computemeter.trend import cache  # noqa: E402
from computemeter.trend.collect import collect  # noqa: E402
from computemeter.trend.estimated import NO_DEVICE  # noqa: E402
from computemeter_wandb import _offline, _source  # noqa: E402

A100 = {"gpu": "NVIDIA A100-SXM4-80GB", "gpu_count": 8}
METERED = {"computemeter": {"segment": {"s1": json.dumps(totals())}, "category": "training"}}


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(cache, "cache_folder", lambda: folder)


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Server(page=2) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        monkeypatch.setenv("WANDB_SILENT", "true")
        yield server
    wandb.teardown()


@pytest.fixture
def made(monkeypatch):
    """The ids of the runs that were read in full."""
    found, make = [], _source._online_record

    def note(run, *rest):
        found.append(run.id)
        return make(run, *rest)

    monkeypatch.setattr(_source, "_online_record", note)
    return found


def by_id(collection):
    return {each.run_id.rpartition("/")[2]: each for each in collection.records}


def test_a_run_without_a_meter_is_estimated_from_its_machine(server):
    server.runs = {
        "r1": Stored("r1", "gpus", "finished", summary={"_runtime": 100}, metadata=A100),
        "r2": Stored("r2", "no gpu", "finished", summary={"_runtime": 100}, metadata={"os": "x"}),
        "r3": Stored("r3", "metered", "finished", summary=METERED, tags=["a=b", "plain"]),
        "r4": Stored("r4", "fp32", "crashed", config={"precision": "32-true"}, metadata=A100),
    }
    found = collect(["wandb://ann/p"])
    records = by_id(found)
    assert set(records) == {"r1", "r3", "r4"}
    # 8 devices x 312e12 FLOP/s (bf16) x 100 s = 2.496e17, and 33 % of it 8.2368e16.
    assert (records["r1"].gpu_time_flops, records["r1"].estimated) == (82_368 * 10**12, True)
    assert (records["r1"].device_name, records["r1"].device_count) == ("NVIDIA A100-SXM4-80GB", 8)
    # It says fp32, 19.49e12 FLOP/s, and lived for the 60 s between its two dates.
    assert records["r4"].possible_flops == 8 * 60 * 19_490_000_000_000
    assert (records["r3"].estimated, records["r3"].category) == (False, "training")
    assert records["r3"].tags == {"a": "b", "plain": ""}
    assert [(each.reason, each.count) for each in found.skipped] == [(NO_DEVICE, 1)]
    assert sorted(server.files_asked) == ["r1", "r2", "r4"]  # a metered run needs no second call


def test_the_second_reading_reads_what_changed(server, made):
    server.runs = {
        name: Stored(name, state="finished", summary=METERED) for name in ("r1", "r2", "r3")
    }
    server.runs["r4"] = Stored("r4", state="finished", summary={"_runtime": 9}, metadata=A100)
    server.runs["r5"] = Stored("r5", state="running", summary=METERED)
    for name, run in server.runs.items():
        run.summary = json.loads(json.dumps(run.summary).replace("s1", f"s-{name}"))
    first = collect(["wandb://ann/p"])
    assert len(first.records) == len(set(made)) == 5
    made.clear()
    server.files_asked.clear()
    del server.runs["r1"]
    server.runs["r2"].display = "renamed"
    server.runs["r6"] = Stored("r6", state="finished", summary={"_runtime": 9}, metadata=A100)
    second = collect(["wandb://ann/p"])
    before, after = by_id(first), by_id(second)
    assert set(after) == {"r2", "r3", "r4", "r5", "r6"}
    assert after["r2"].name == "renamed"
    assert set(made) == {"r2", "r5", "r6"}
    assert server.files_asked == ["r6"]
    assert (after["r3"], after["r4"]) == (before["r3"], before["r4"])


def test_offline_files_of_a_machine_with_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(project="p", dir=tmp_path, config={"bf16": True})
    file = finish(run)
    wandb.teardown()
    # There is no GPU here: W&B's own record of one that has two.
    look_at = _offline._Builder._look_at
    host = EnvironmentRecord(gpu_type="NVIDIA A100-SXM4-80GB", gpu_count=2)
    monkeypatch.setattr(_offline._Builder, "_look_at", lambda self, _: look_at(self, host))
    monkeypatch.setattr(_source, "_runtime", lambda *_: 100.0)
    (record,) = collect([tmp_path]).records
    # 2 x 312e12 FLOP/s x 100 s
    assert record.run_id.endswith(file.run_id)
    assert record.possible_flops == 62_400 * 10**12
    assert collect([tmp_path], include_estimated=False).records == []
