"""What a run's earlier segments left in the folder of ledgers."""

import pytest
from ledgers import header, totals, write

import computemeter
from computemeter.carried import Carried
from computemeter.history import earlier_segments, totals_of
from computemeter.ledger import LedgerHeader, read_ledger
from computemeter.ledger_writer import LedgerWriter
from computemeter.records import SegmentTotals


def look(folder, run="run-1", **options):
    said = []
    return earlier_segments(folder, run, warn=said.append, **options), said


def test_only_the_runs_own_ledgers_are_found(tmp_path):
    write(tmp_path, header("a"), totals(steps=3))
    write(tmp_path, header("b"), totals(steps=1), totals(steps=5))
    write(tmp_path, header("c", run="another"), totals(steps=7))
    (tmp_path / "d.jsonl").write_text("no ledger")
    (tmp_path / "e.jsonl").write_bytes(b"\xff" * 100)
    (tmp_path / "f.jsonl").mkdir()
    found, said = look(tmp_path)
    assert {name: totals_of(file.ledger).steps for name, file in found.items()} == {"a": 3, "b": 5}
    assert said == []
    assert look(tmp_path / "missing") == ({}, [])


def test_a_folder_too_large_to_look_through_is_told_of(tmp_path):
    for number in range(3):
        write(tmp_path, header(f"seg-{number}"), totals())
    found, (said,) = look(tmp_path, seconds=-1.0)
    assert found == {}
    assert said.startswith(f"of the 3 ledgers in {tmp_path} only the newest 0 were looked at")


def test_of_a_segment_known_twice_the_later_state_holds(tmp_path):
    path = write(tmp_path, header("a"), totals(steps=10, model_flops=1000))
    early, late = SegmentTotals(steps=6, model_flops=600), totals_of(read_ledger(path))
    checkpoint = Carried(run_flops=600, segments={"a": early})
    known = checkpoint.with_segments({"a": late, "b": SegmentTotals(steps=1, model_flops=100)})
    # 10 steps of the first, of which the checkpoint has 6 in its weights, and one of another.
    assert (known.run_flops, known.spent_flops, known.steps) == (600, 1100, 11)
    assert Carried(segments={"a": late}).with_segments({"a": early}).spent_flops == 1000


def test_a_segment_that_knows_nothing_of_its_work_makes_what_was_spent_unknown():
    known = Carried(segments={"a": SegmentTotals(steps=2, model_flops=5), "b": SegmentTotals()})
    assert (known.spent_flops, known.gpu_time_flops, known.busy_device_seconds) == (None,) * 3
    assert Carried().spent_flops == 0


@pytest.mark.parametrize("damage", [{"segments": []}, {"segments": {"a": {"steps": "x"}}}])
def test_a_state_of_something_else_is_refused(damage):
    with pytest.raises(ValueError, match="no meter's state"):
        Carried.from_state({**Carried().to_state(), **damage})


def test_the_tracker_run_of_a_launch_that_did_not_finish(tmp_path):
    assert computemeter.interrupted_run("mlflow", tmp_path) is None
    trackers = {"mlflow": "0a1b"}
    write(tmp_path, header("2", trackers=trackers), totals())
    assert computemeter.interrupted_run("mlflow", tmp_path) == "0a1b"
    assert computemeter.interrupted_run("wandb", tmp_path) is None
    write(tmp_path, header("3", trackers={"mlflow": "2c3d"}), totals(), status="failed")
    assert computemeter.interrupted_run("mlflow", str(tmp_path)) == "2c3d"
    with LedgerWriter.open(tmp_path, LedgerHeader(segment="4", run="r", started=0.0)) as writer:
        # Another job that still runs is not the one that was interrupted.
        assert computemeter.interrupted_run("mlflow", tmp_path) == "2c3d"
        writer.end("finished", 1.0, {})
    assert computemeter.interrupted_run("mlflow", tmp_path) is None
    write(tmp_path, header("5", trackers={"wandb": "team/speech/3k9d2x"}), totals())
    assert computemeter.interrupted_run("wandb", tmp_path) == "3k9d2x"
