"""Sources: every run once, whoever tells of it, and one line for what is no source."""

import sys

import pytest
from ledgers import header, totals, write

from computemeter import sources
from computemeter.receipt import ComputeReceipt, write_receipt
from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, SegmentRecord, add_up, merge
from computemeter.sources import SourceError, records, tracker_of


def run(run_id, *parts, **facts):
    """A run as a tracker tells of it; its parts are ids and steps, a PF and a second each step."""
    segments = [
        SegmentRecord(name, steps=steps, model_flops=steps * 10**15, device_seconds=float(steps))
        for name, steps in parts
    ]
    known = {
        "source": "http://host",
        "url": None,
        "name": "",
        "user": None,
        "project": None,
        "team": None,
        "started": None,
        "ended": None,
        "status": "unknown",
        "device_name": None,
        "device_count": None,
        "estimated": False,
    }
    return SegmentedRun(run_id=run_id, **{**known, **facts}, **add_up(segments))


def test_what_two_sources_tell_counts_once():
    ledger = run("a", ("seg-1", 3), ("seg-2", 4), status="finished", ended=9.0, user="ann")
    tracker = run("a", ("seg-2", 2), ("seg-3", 5), url="http://host/a", started=1.0, team="blue")
    for order in ([ledger, tracker], [tracker, ledger]):
        (merged,) = merge(order)
        # 3 + 4 + 5: of the second segment, the later state.
        assert (merged.spent_flops, merged.steps, merged.segments) == (12 * 10**15, 12, 3)
        assert (merged.status, merged.ended, merged.started) == ("finished", 9.0, 1.0)
        assert (merged.user, merged.team, merged.url) == ("ann", "blue", "http://host/a")


def test_a_run_is_known_again_by_its_segments():
    # A ledger that had no tracker and was pushed to two of them: three ids for one run.
    first, second = run("ledger", ("seg-1", 3)), run("mlflow", ("seg-1", 3), ("seg-2", 1))
    third, other = run("wandb", ("seg-2", 1)), run("other", ("seg-9", 7))
    assert sorted(each.steps for each in merge([first, third, other, second])) == [4, 7]


def test_one_state_of_a_segment_told_twice_is_what_either_knows():
    plain = SegmentRecord("seg-1", steps=2, model_flops=8, device_seconds=1.0)
    full = SegmentRecord("seg-1", steps=2, model_flops=8, device_seconds=1.0, possible_flops=5)
    for order in ([plain, full], [full, plain]):
        assert add_up(order)["possible_flops"] == 5


def test_a_run_without_segments_is_taken_as_it_is():
    facts = dict.fromkeys(RunRecord.__dataclass_fields__)
    plain = RunRecord(**{**facts, "run_id": "a", "spent_flops": 7, "segments": 1, "tags": {}})
    assert merge([plain]) == [plain]
    # Segments say more than totals: 3 steps of a PF each.
    (merged,) = merge([plain, run("a", ("seg-1", 3))])
    assert merged.spent_flops == 3 * 10**15


def test_a_relaunch_that_died_at_once_says_nothing_of_the_run():
    dead = SegmentRecord("seg-2")
    added = add_up([SegmentRecord("seg-1", steps=3, model_flops=9, device_seconds=1.0), dead])
    assert (added["spent_flops"], added["steps"], added["segments"]) == (9, 3, 2)
    assert add_up([dead])["spent_flops"] is None


def test_totals_are_not_trusted():
    odd = {"steps": True, "model_flops": "9", "device_seconds": float("inf"), "verdict": "fine"}
    assert SegmentRecord.from_totals("s", odd) == SegmentRecord("s")
    # Method 2 without its discount of 0.25, for want of a peak.
    by_share = {"gpu_time_flops": 100, "assumed_utilization": 0.25}
    assert SegmentRecord.from_totals("s", by_share).possible_flops == 400


def test_a_file_and_its_folder_are_one_source(tmp_path):
    path = write(tmp_path, header(), totals())
    (record,) = records([path, tmp_path, str(tmp_path)])
    assert (record.spent_flops, record.source) == (10**15, str(path))


def receipt(**changes):
    facts = {
        "run": "run-1",
        "segments": ("seg-1", "seg-2"),
        "status": "finished",
        "steps": 20,
        "run_flops": 11 * 10**15,
        "spent_flops": 15 * 10**15,
        "lineage_flops": None,
        "model_flops": 15 * 10**15,
        "gpu_time_flops": 45 * 10**15,
        "ratio": 3.0,
        "verdict": "alarm",
        "cause": "input_bound",
        "diagnosis": "",
        "device_hours": 0.5,
        "device_name": "H100",
        "device_count": 8,
        "peak_flops": 1e15,
        "assumed_utilization": 0.3,
        "precision": "bf16",
    }
    return ComputeReceipt(**{**facts, **changes})


def test_a_receipt_is_a_source(tmp_path):
    (record,) = records([write_receipt(tmp_path, receipt(name="mine", team="blue"))])
    assert (record.run_id, record.name, record.team) == ("run-1", "mine", "blue")
    assert (record.run_flops, record.spent_flops) == (11 * 10**15, 15 * 10**15)
    assert (record.gpu_time_flops, record.ratio) == (45 * 10**15, 3.0)
    assert (record.verdict, record.cause) == ("alarm", "input_bound")
    assert (record.segments, record.steps, record.device_seconds) == (2, 20, 1800.0)
    assert record.possible_flops == 150 * 10**15  # 45 / 0.3


def test_a_receipt_and_a_ledger_of_a_run_are_one_run(tmp_path):
    path = write_receipt(tmp_path / "out", receipt(run="other id"))
    write(tmp_path / "ledger", header("seg-1"), totals())
    write(tmp_path / "ledger", header("seg-2"), totals(), status="finished")
    for order in ([path, tmp_path / "ledger"], [tmp_path / "ledger", path]):
        (record,) = records(order)
        assert record.spent_flops == 2 * 10**15  # what the ledgers say of each segment


def test_what_is_no_source_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "agents.db").write_bytes(b"SQLite format 3\0 and so on")
    (tmp_path / "newer.jsonl").write_text(
        '{"kind":"header","schema":99,"segment":"s","run":"r","started":0}\n'
    )
    bad = {
        tmp_path / "missing": "there is no such file or folder",
        tmp_path / "notes.txt": "not a ledger",
        tmp_path / "broken.json": "cut short",
        tmp_path / "agents.db": "a database, to be given as sqlite:///",
        tmp_path / "empty": "neither a ledger",
        tmp_path / "newer.jsonl": "schema 99",
        "ftp://ann:s3cret@host/x": "no tracker that is known here",
        "~nobody-has-this-name/x": "",
    }
    for source, why in bad.items():
        with pytest.raises(SourceError, match=why) as refused:
            records([source])
        assert "\n" not in str(refused.value)
        assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["sqlite", "postgresql", "mysql+pymysql", "https", "HTTP"])
def test_uris_belong_to_mlflow_by_their_scheme(scheme):
    assert tracker_of(f"{scheme}://host/x") == "mlflow"


def test_uris_of_wandb_and_paths():
    assert tracker_of("wandb://entity/project") == "wandb"
    assert tracker_of("runs/compute_ledger") is None
    assert tracker_of("gopher://host") is None


@pytest.mark.parametrize(
    ("uri", "tracker"), [("sqlite:///x.db", "mlflow"), ("wandb://ann/digits", "wandb")]
)
def test_a_tracker_that_is_not_installed_is_named_with_its_command(monkeypatch, uri, tracker):
    for name in [name for name in sys.modules if name.partition(".")[0].endswith(tracker)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, tracker, None)  # as if it could not be imported
    with pytest.raises(SourceError) as refused:
        records([uri])
    command = f"pip install 'computemeter[{tracker}]'"
    assert str(refused.value) == f"{uri}: {tracker} is not installed: {command}"


def test_whatever_a_tracker_raises_is_one_line_without_credentials(monkeypatch):
    class Entry:
        def load(self):
            raise RuntimeError("bad\n  thing at http://ann:s3cret@host")

    monkeypatch.setattr(sources, "entry_points", lambda **_: [Entry()])
    with pytest.raises(SourceError) as refused:
        records(["https://ann:s3cret@host"])
    assert str(refused.value) == ("https://***@host: RuntimeError: bad thing at http://***@host")


def test_another_packages_tracker_is_known_by_its_scheme(tmp_path, monkeypatch):
    about = tmp_path / "other-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: other\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[computemeter.sources]\nother = their:records\n")
    (tmp_path / "their.py").write_text(
        "def records(source, request, *, warn):\n    warn(source)\n    return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    told = []
    assert records(["other://host/runs"], warn=told.append) == []
    assert told == ["other://host/runs"]
    with pytest.raises(SourceError, match=r"^no computemeter\.destinations is named 'other'$"):
        sources.ask_tracker(sources.DESTINATIONS, "other", "other://host", warn=told.append)
