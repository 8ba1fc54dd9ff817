"""Runs from ledgers: segments add up, copies count once, and what is no ledger is left out."""

import os
import time

import pytest
from ledgers import header, totals, write

from computemeter.ledger import SCHEMA, LedgerError
from computemeter.ledger_runs import records_from_ledgers
from computemeter.records import SegmentTotals


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
    assert record.steps == 20  # 10 + 10
    assert record.possible_flops == pytest.approx(45 * 10**15 / 0.33)
    assert not record.overclaims


def test_a_relaunch_that_died_at_once_does_not_hide_the_run(tmp_path):
    write(tmp_path, header("seg-1"), totals(), status="finished")
    write(tmp_path, header("seg-2", started=2000.0))
    (record,) = records_from_ledgers([tmp_path])
    assert (record.run_flops, record.spent_flops, record.verdict) == (10**15, 10**15, "warn")
    assert (record.segments, record.steps, record.ended) == (2, 10, None)


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


def test_a_run_that_writes_is_running_and_one_that_fell_silent_is_not_known(tmp_path):
    path = write(tmp_path, header(), totals())
    assert records_from_ledgers([tmp_path])[0].status == "running"
    quiet_since = time.time() - 130  # the limit is two minutes
    os.utime(path, (quiet_since, quiet_since))
    assert records_from_ledgers([tmp_path])[0].status == "unknown"


def test_what_was_possible_is_the_peak_where_it_is_recorded(tmp_path):
    # 10 device-seconds at 5e14 FLOP/s are 5 PF; what method 2 says counts only without a peak.
    write(tmp_path, header(assumed_utilization=0.33), totals(peak_flops=5e14, device_seconds=10.0))
    (record,) = records_from_ledgers([tmp_path])
    assert (record.possible_flops, record.mfu) == (5 * 10**15, pytest.approx(0.2))


def test_a_run_that_claims_more_than_its_devices_could_do_is_marked(tmp_path):
    write(tmp_path, header("a", run="too much"), totals(model_flops=6 * 10**15, peak_flops=5e14))
    write(tmp_path, header("seg-2", run="just so"), totals(model_flops=5 * 10**15, peak_flops=5e14))
    write(tmp_path, header("seg-3", run="no peak"), totals(model_flops=6 * 10**15))
    records = records_from_ledgers([tmp_path])
    assert {each.run_id: each.overclaims for each in records} == {
        "too much": True,
        "just so": False,
        "no peak": False,
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b'{"kind":"header","sch', "its line was cut short"),
        (b"\x89PNG\r\n", "not a ledger"),
        (
            b'{"kind":"header","schema":99,"segment":"s","run":"r","started":0}\n',
            f"reads up to {SCHEMA}",
        ),
    ],
)
def test_a_bad_file_costs_one_line_and_no_run(tmp_path, content, why):
    write(tmp_path, header(), totals())
    (tmp_path / "bad.jsonl").write_bytes(content)
    warnings = []
    assert len(records_from_ledgers([tmp_path], warn=warnings.append)) == 1
    (warning,) = warnings
    assert "bad.jsonl" in warning
    assert why in warning
    assert "\n" not in warning


def test_a_ledger_cut_off_in_its_last_line_is_read_up_to_there(tmp_path):
    path = write(tmp_path, header(), totals(model_flops=3), totals(model_flops=5))
    path.write_bytes(path.read_bytes()[:-10])
    assert records_from_ledgers([tmp_path])[0].spent_flops == 3


def test_totals_of_another_version_are_read_for_what_is_known():
    totals = SegmentTotals.from_mapping({"model_flops": 12, "of_a_later_version": 1})
    assert totals == SegmentTotals(model_flops=12)
    with pytest.raises(TypeError, match="a segment's steps cannot be '3'"):
        SegmentTotals.from_mapping({"steps": "3"})
