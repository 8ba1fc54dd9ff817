"""The ledger: every record survives."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import pytest
from ledgers import header, totals, write

from computemeter import ledger, ledger_writer
from computemeter.ledger import SCHEMA, LedgerError, LedgerHeader, read_ledger
from computemeter.ledger_writer import LedgerWriter, new_segment_id
from computemeter.records import SegmentTotals


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
    assert set(read.last_totals) == {each.name for each in fields(SegmentTotals)}


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
from computemeter.ledger import LedgerHeader
from computemeter.ledger_writer import LedgerWriter
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


def test_what_a_full_disk_does_not_take_is_written_when_it_has_room(tmp_path):
    # A limit on the size of files fails in the middle of a line, just as a full disk does.
    script = f"""
import resource
from pathlib import Path
from computemeter.ledger import LedgerHeader
from computemeter.ledger_writer import LedgerWriter
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
    assert [record.step for record in read.progress] == [1, 2, 3, 4]
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


def test_the_disk_gets_everything_every_thirty_seconds_behind_the_training(tmp_path, monkeypatch):
    now, synced = [0.0], []
    monkeypatch.setattr(ledger_writer.clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fsync", lambda _file: synced.append(threading.current_thread()))
    writer = LedgerWriter.open(tmp_path, header())
    for seconds in (10, 29, 31, 45, 60, 62):  # synced at 31 and at 62
        now[0] = float(seconds)
        writer.progress(seconds, now[0], totals(), {})
        if writer._syncing:
            writer._syncing.join()
    assert len(synced) == 2
    assert threading.main_thread() not in synced
    writer.sync()
    assert len(synced) == 3
    writer.close()
    assert synced[2:] == 2 * [threading.main_thread()]


def test_a_disk_that_hangs_holds_up_no_step(tmp_path, monkeypatch):
    now, back = [0.0], threading.Event()
    monkeypatch.setattr(ledger_writer.clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fsync", lambda _file: back.wait(60))
    writer = LedgerWriter.open(tmp_path, header())
    for step in range(5):  # all of them while the first sync hangs, in one thread
        now[0] = 40.0 * (step + 1)
        writer.progress(step, now[0], totals(), {})
    assert len(read_ledger(writer.path).progress) == 5
    back.set()
    writer.close()


def test_ids_sort_by_time_and_leave_the_random_state_alone():
    before = random.getstate()
    ids = [new_segment_id() for _ in range(100)]
    assert random.getstate() == before
    assert len(set(ids)) == 100
    times = [each.partition("-")[0] for each in ids]
    assert times == sorted(times)
    assert not any("." in each for each in ids)
