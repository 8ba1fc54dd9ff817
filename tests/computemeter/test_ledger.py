"""The ledger: every record survives, and runs add up."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from computemeter import ledger
from computemeter.ledger import (
    SCHEMA,
    LedgerError,
    LedgerHeader,
    LedgerWriter,
    new_segment_id,
    read_ledger,
)
from computemeter.ledger_runs import records_from_ledgers


def header(segment="seg-1", run="run-1", **fields):
    return LedgerHeader(**{"segment": segment, "run": run, "started": 1000.0, **fields})


def totals(**changes):
    values = {
        "steps": 10,
        "model_flops": 10**15,
        "hardware_flops": 10**15,
        "gpu_time_flops": 2 * 10**15,
        "training_seconds": 5.0,
        "busy_seconds": None,
        "device_seconds": 10.0,
        "run_flops": 10**15,
        "spent_flops": 10**15,
        "lineage_flops": None,
        "verdict": "warn",
        "cause": "low_utilization",
        "mfu": None,
    }
    return {**values, **changes}


def write(folder, head, *progress, status=None):
    with LedgerWriter.open(folder, head) as writer:
        for step, values in enumerate(progress):
            writer.progress(step, head.started + step, values, {})
        if status:
            writer.end(status, head.started + 100, {})
    return writer.path


def refuse_constants(name):
    raise AssertionError(f"{name} is not JSON")


def test_what_is_written_is_read(tmp_path):
    head = header(
        name="näme \udc80 ✓", trackers={"mlflow": "abc"}, base_flops=2**100, peak_flops=1e15
    )
    writer = LedgerWriter.open(tmp_path / "new" / "folder", head)
    writer.progress(50, 1001.5, totals(model_flops=2**70 + 1), {"compute/pfs_days": 0.25})
    writer.event("warning", 1002.0, message="disk is slow", step=50)
    writer.end("finished", 1003.0, {"by_op": {"aten.mm": 2**70 + 1}, "warnings": ("a",)})
    writer.close()
    assert writer.path.name == "seg-1.jsonl"

    read = read_ledger(str(writer.path))
    assert read.header == head
    (progress,) = read.progress
    assert (progress.step, progress.time) == (50, 1001.5)
    # 2**70 + 1 is past what a float holds: the last bit would be lost.
    assert progress.totals["model_flops"] == 2**70 + 1
    assert progress.metrics == {"compute/pfs_days": 0.25}
    assert read.last_totals == progress.totals
    assert read.events == (
        ledger.Event("warning", 1002.0, {"message": "disk is slow", "step": 50}),
    )
    assert read.summary == {"by_op": {"aten.mm": 2**70 + 1}, "warnings": ["a"]}
    assert (read.status, read.torn, read.skipped) == ("finished", False, 0)


def test_a_ledger_can_be_read_while_it_is_written(tmp_path):
    writer = LedgerWriter.open(tmp_path, header())
    writer.progress(1, 1.0, totals(), {})
    read = read_ledger(writer.path)
    assert len(read.progress) == 1
    assert (read.status, read.summary, read.end) == ("unknown", None, None)
    writer.close()
    writer.close()


def test_a_segment_without_progress_has_no_totals(tmp_path):
    assert read_ledger(write(tmp_path, header())).last_totals == {}


def test_every_line_is_strict_json(tmp_path):
    writer = LedgerWriter.open(tmp_path, header(peak_flops=math.inf))
    metrics = {"compute/loss": math.nan, "compute/ratio": -math.inf, "compute/mfu": 0.5}
    writer.progress(1, 1.0, totals(mfu=math.nan), metrics)
    writer.event("odd", 2.0, path=tmp_path, kinds={"a"}, nested=[(math.nan, 1)])
    writer.close()
    lines = writer.path.read_text("ascii").splitlines()
    records = [json.loads(line, parse_constant=refuse_constants) for line in lines]
    assert records[1]["metrics"] == {
        "compute/loss": None,
        "compute/ratio": None,
        "compute/mfu": 0.5,
    }
    assert records[1]["totals"]["mfu"] is None
    assert records[2]["facts"] == {"path": str(tmp_path), "kinds": ["a"], "nested": [[None, 1]]}
    assert read_ledger(writer.path).header.peak_flops is None


def test_the_documented_examples_are_a_ledger(tmp_path):
    documented = Path(__file__).parents[2] / "docs" / "ledger.md"
    examples = re.findall(r"```json\n(.*?)```", documented.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "example.jsonl"
    path.write_text("".join(examples))
    read = read_ledger(path)
    assert (len(read.progress), len(read.events), read.status) == (1, 1, "finished")
    assert (read.torn, read.skipped) == (False, 0)
    # Every field is in the examples, and no other.
    assert set(json.loads(examples[0])) == {"kind", *(each.name for each in fields(LedgerHeader))}
    assert set(read.last_totals) == set(totals())


def test_two_processes_never_share_a_file(tmp_path):
    path = write(tmp_path, header(), totals())
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        LedgerWriter.open(tmp_path, header())
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        LedgerWriter.open(tmp_path / "file" / "folder", header())


def test_a_kill_loses_nothing_that_was_written(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from computemeter.ledger import LedgerHeader, LedgerWriter
writer = LedgerWriter.open(Path({str(tmp_path)!r}), LedgerHeader(segment="s", run="r", started=0.0))
for step in range(100):
    writer.progress(step, 0.0, {{"steps": step}}, {{}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    read = read_ledger(tmp_path / "s.jsonl")
    assert [record.step for record in read.progress] == list(range(100))
    assert not read.torn


def test_a_full_disk_costs_only_what_was_not_written(tmp_path):
    # A limit on the size of files fails in the middle of a line, just as a full disk does.
    script = f"""
import resource
from pathlib import Path
from computemeter.ledger import LedgerHeader, LedgerWriter
folder = Path({str(tmp_path)!r})
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
writer = LedgerWriter.open(folder, LedgerHeader(segment="s", run="r", started=0.0))
writer.progress(1, 0.0, {{}}, {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (writer.path.stat().st_size + 20, hard))
for step in 2, 3:
    try:
        writer.progress(step, 0.0, {{}}, {{}})
    except OSError:
        continue
    raise AssertionError
try:
    LedgerWriter.open(folder, LedgerHeader(segment="t", run="r" * 4096, started=0.0))
except OSError:
    assert not (folder / "t.jsonl").exists()
else:
    raise AssertionError
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.progress(4, 0.0, {{}}, {{}})
writer.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    read = read_ledger(tmp_path / "s.jsonl")
    assert [record.step for record in read.progress] == [1, 4]
    # 20 bytes of step 2 got through; step 3 found no room at all.
    assert (read.skipped, read.torn) == (1, False)


def test_a_torn_last_line_is_noticed_and_left_out(tmp_path):
    path = write(tmp_path, header(), totals(steps=1), totals(steps=2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    read = read_ledger(path)
    assert (len(read.progress), read.torn, read.skipped) == (1, True, 0)
    assert read.last_totals["steps"] == 1
    # Cut anywhere after its first line, a ledger can be read.
    start = whole.index(b"\n") + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert len(read_ledger(path).progress) <= 2


def test_lines_that_cannot_be_read_are_counted(tmp_path):
    path = write(tmp_path, header(), totals())
    with path.open("ab") as file:
        file.write(b'\x00\x00\n"text"\n[1]\n{"kind":"progress"}\n\n{"kind":"later","x":1}\n')
    path = path.rename(tmp_path / "other.jsonl")
    read = read_ledger(path)
    # Zeros, a text, a list, a progress without fields; an empty line and a later kind are fine.
    assert (len(read.progress), read.skipped, read.torn) == (1, 4, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header, the file is empty"),
        (b'{"kind":"header","sch', "no header, its line was cut short"),
        (b'{"kind":"progress"}\n', "no header in the first line"),
        (b"[" * 100_000, "not a ledger"),
        (b"\x89PNG\r\n\xff\xfe\n", "not a ledger"),
        (b"[1, 2]\n", "not a ledger"),
        (b'{"kind":"header","schema":1,"segment":"s","run":5,"started":0}\n', "no valid 'run'"),
        (
            b'{"kind":"header","schema":99,"segment":"s","run":"r","started":0,"version":"9"}\n',
            f"schema 99 by computemeter 9, this version reads up to {SCHEMA}: upgrade",
        ),
    ],
)
def test_what_is_no_ledger_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=message) as refused:
        read_ledger(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, ValueError)


def test_fields_of_a_later_version_are_ignored(tmp_path):
    path = write(tmp_path, header(), totals())
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace('"run":', '"mood":"good","run":'), *lines[1:]]))
    assert read_ledger(path).header == header()


def test_the_disk_is_waited_for_every_thirty_seconds(tmp_path, monkeypatch):
    now, synced = [0.0], []
    monkeypatch.setattr(ledger.clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fsync", synced.append)
    writer = LedgerWriter.open(tmp_path, header())
    for seconds in (10, 29, 31, 45, 60, 62):  # synced at 31 and at 62
        now[0] = float(seconds)
        writer.progress(seconds, now[0], totals(), {})
    assert len(synced) == 2
    writer.sync()
    assert len(synced) == 3
    writer.close()
    assert len(synced) == 4


def test_ids_sort_by_time_and_leave_the_random_state_alone():
    before = random.getstate()
    ids = [new_segment_id() for _ in range(100)]
    assert random.getstate() == before
    assert len(set(ids)) == 100
    times = [each.partition("-")[0] for each in ids]
    assert times == sorted(times)
    assert not any("." in each for each in ids)


def test_segments_add_up_to_a_run(tmp_path):
    # A crash: 10 PF in 100 device-seconds, of which the checkpoint kept 6; then 5 PF in 50 s.
    first = header("seg-1", name="old", assumed_utilization=0.33)
    second = header(
        "seg-2",
        parent="seg-1",
        started=2000.0,
        name="new",
        user="ann",
        device_name="H100",
        device_count=8,
        assumed_utilization=0.33,
    )
    write(
        tmp_path,
        first,
        totals(model_flops=4 * 10**15, run_flops=4 * 10**15),
        totals(
            model_flops=10 * 10**15,
            run_flops=10 * 10**15,
            gpu_time_flops=33 * 10**15,
            device_seconds=100.0,
        ),
    )
    write(
        tmp_path,
        second,
        totals(
            model_flops=5 * 10**15,
            run_flops=11 * 10**15,
            lineage_flops=20 * 10**15,
            gpu_time_flops=12 * 10**15,
            device_seconds=50.0,
            verdict="alarm",
            cause="input_bound",
        ),
        status="finished",
    )
    (record,) = records_from_ledgers([tmp_path])
    assert record.run_flops == 11 * 10**15  # 6 + 5
    assert record.spent_flops == 15 * 10**15  # 10 + 5
    assert record.gpu_time_flops == 45 * 10**15  # 33 + 12
    assert record.ratio == pytest.approx(3.0)  # 45 / 15
    # 15 PF of 45 / 0.33 = 136.4 PF that the devices could have done
    assert record.mfu == pytest.approx(0.11)
    assert record.device_seconds == 150.0
    assert record.lineage_flops == 20 * 10**15
    assert (record.verdict, record.cause) == ("alarm", "input_bound")
    assert (record.started, record.ended, record.status) == (1000.0, 2100.0, "finished")
    assert (record.name, record.user, record.device_count) == ("new", "ann", 8)
    assert (record.run_id, record.segments, record.estimated) == ("run-1", 2, False)


def test_a_relaunch_that_died_at_once_does_not_hide_the_run(tmp_path):
    write(tmp_path, header("seg-1"), totals(), status="finished")
    write(tmp_path, header("seg-2", started=2000.0))
    (record,) = records_from_ledgers([tmp_path])
    assert (record.run_flops, record.spent_flops, record.verdict) == (10**15, 10**15, "warn")
    assert (record.segments, record.status, record.ended) == (2, "unknown", None)


def test_what_was_not_measured_is_not_zero(tmp_path):
    write(tmp_path, header("seg-1"), totals())
    write(tmp_path, header("seg-2", started=2000.0), totals(gpu_time_flops=None, verdict="odd"))
    write(tmp_path, header("seg-3", run="run-2", started=3000.0))
    known, unknown = records_from_ledgers([tmp_path])
    assert (known.spent_flops, known.gpu_time_flops) == (2 * 10**15, None)
    assert (known.ratio, known.mfu, known.verdict) == (None, None, "unknown")
    assert (unknown.run_flops, unknown.spent_flops, unknown.device_seconds) == (None, None, None)


def test_a_utilisation_above_one_is_not_shown(tmp_path):
    write(tmp_path, header(assumed_utilization=0.33), totals(gpu_time_flops=10**14))
    (record,) = records_from_ledgers([tmp_path])
    # 1 PF where 0.1 / 0.33 = 0.3 PF was possible
    assert (record.mfu, record.ratio) == (None, pytest.approx(0.1))


def test_copies_of_a_segment_count_once(tmp_path):
    longer = write(tmp_path / "a", header(), totals(model_flops=1), totals(model_flops=3))
    write(tmp_path / "b", header(), totals(model_flops=1))
    for paths in ([tmp_path / "a", tmp_path / "b", longer], [tmp_path / "b", tmp_path / "a"]):
        (record,) = records_from_ledgers(paths)
        assert (record.segments, record.spent_flops) == (1, 3)


def test_runs_come_in_the_order_they_started(tmp_path):
    write(tmp_path / "deep" / "er", header("seg-1", run="late", started=9.0), totals())
    write(tmp_path, header("seg-2", run="early", started=3.0), totals())
    assert [record.run_id for record in records_from_ledgers([tmp_path])] == ["early", "late"]


def test_other_files_in_a_folder_are_warned_of_and_left_out(tmp_path):
    write(tmp_path, header(), totals())
    odd = tmp_path / "data.jsonl"
    odd.write_text('{"prompt": "hello"}\n')
    warnings = []
    assert len(records_from_ledgers([tmp_path], warn=warnings.append)) == 1
    assert len(warnings) == 1
    assert str(odd) in warnings[0]
    with pytest.raises(LedgerError, match="not a ledger"):
        records_from_ledgers([odd])
    with pytest.raises(FileNotFoundError):
        records_from_ledgers([tmp_path / "missing.jsonl"])
