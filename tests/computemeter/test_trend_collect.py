"""Collecting: filters, what cannot be right, sources that fail, and runs as a CSV file."""

import csv
import json
import time

import pytest
from ledgers import header, totals, write
from team_runs import JULY, run, segmented

from computemeter.csv_files import read_csv, write_csv
from computemeter.sources import SourceError
from computemeter.trend import collect as collecting
from computemeter.trend.collect import (
    ENDS_FIRST,
    NO_DATE,
    NO_TOTAL,
    OVERCLAIMS,
    collect,
    parse_since,
)
from computemeter.trend.estimated import (
    NO_DEVICE,
    NO_TIME,
    Hardware,
    assumed_hardware,
    estimate,
    peak_of,
)


def collected(tmp_path, *runs, **options):
    write_csv(runs, tmp_path / "runs.csv")
    return collect([tmp_path / "runs.csv"], **options)


def ids(collection):
    return [each.run_id for each in collection.records]


def reasons(skipped):
    return {each.reason: each.count for each in skipped}


# Filters.


def test_filters_leave_out_what_is_not_asked_for(tmp_path):
    runs = [
        run("old", started=JULY - 1, user="ann", project="lm", tags={"sweep": "1"}),
        run("bob", user="bob", project="lm", tags={"sweep": "1"}),
        run("cv", user="ann", project="cv", tags={"sweep": "1"}),
        run("two", user="ann", project="lm", tags={"sweep": "2"}),
        run("bare", user="ann", project="lm"),
        run("it", user="ann", project="lm", tags={"sweep": "1", "x": "y"}),
    ]
    wanted = {"since": JULY, "user": "ann", "project": "lm", "tags": ["sweep=1", "x"]}
    found = collected(tmp_path, *runs, **wanted)
    assert (ids(found), found.filtered) == (["it"], 5)
    assert ids(collected(tmp_path, *runs, tags=["sweep"])) == ["old", "bob", "cv", "it", "two"]


def test_since_is_a_day_a_moment_or_an_age():
    # 2025-07-01 is 20,270 days after the epoch.
    assert parse_since("2025-07-01") == JULY == 20_270 * 86_400
    assert parse_since("2025-07-01T02:00:00+02:00") == JULY
    assert parse_since("2d") == pytest.approx(time.time() - 172_800, abs=60)
    for wrong in ("yesterday", "", "d", "-3d"):
        with pytest.raises(ValueError, match="accepted is a day"):
            parse_since(wrong)


# What cannot be right.


def test_dates_of_clocks_that_were_never_set_are_skipped_and_counted(tmp_path):
    tomorrow = time.time() + 2 * 86_400
    runs = [run("unset", started=5.0), run("future", started=tomorrow), run("none", started=None)]
    found = collected(tmp_path, *runs, run("fine"))
    assert ids(found) == ["fine"]
    assert reasons(found.skipped) == {NO_DATE: 3}


def test_a_run_that_ended_before_it_began_is_marked(tmp_path):
    found = collected(tmp_path, run("a", ended=JULY - 10), run("b", ended=JULY + 10))
    assert [each.ended for each in found.records] == [None, JULY + 10]
    assert reasons(found.marked) == {ENDS_FIRST: 1}


def test_a_run_of_which_only_the_end_is_known_is_dated_by_it(tmp_path):
    found = collected(tmp_path, run(started=None, ended=JULY))
    assert [each.started for each in found.records] == [JULY]


@pytest.mark.parametrize("total", [-1, float("nan"), float("inf"), 10**41, "many", True])
def test_totals_that_no_run_has_are_not_taken(tmp_path, total):
    odd = totals(model_flops=total, run_flops=total, gpu_time_flops=total)
    write(tmp_path, header("a", run="odd", started=JULY), odd)
    write(tmp_path, header("b", run="fine", started=JULY), totals())
    found = collect([tmp_path])
    assert ids(found) == ["fine"]
    assert reasons(found.skipped) == {NO_TOTAL: 1}


def test_a_run_that_claims_more_than_its_devices_could_do_is_there_and_marked(tmp_path):
    found = collected(tmp_path, run(possible_flops=10**18 - 1), run("b", possible_flops=10**18))
    assert [each.overclaims for each in found.records] == [True, False]
    assert reasons(found.marked) == {OVERCLAIMS: 1}


def test_a_text_without_end_is_cut_and_markup_is_a_text(tmp_path):
    found = collected(tmp_path, run(name="é" * 10_000, user="<script>alert(1)</script>"))
    (record,) = found.records
    assert record.name == "é" * 249 + "…"
    assert record.user == "<script>alert(1)</script>"


def test_one_source_that_fails_costs_the_others_nothing(tmp_path):
    write(tmp_path, header(started=JULY), totals())
    found = collect([tmp_path, "http://ann:s3cret@127.0.0.1:9"], cache=False)
    (left_out,) = found.skipped
    assert len(found.records) == 1
    assert "127.0.0.1:9 does not answer" in left_out.reason
    assert "s3cret" not in left_out.reason
    with pytest.raises(SourceError, match="no such file"):
        collect([tmp_path / "missing"])


def test_several_sources_count_a_run_once(tmp_path):
    path = write(tmp_path / "ledgers", header("s1", started=JULY), totals())
    write_csv(collect([path]).records, tmp_path / "runs.csv")
    (record,) = collect([tmp_path / "runs.csv", path, tmp_path / "ledgers"]).records
    assert (record.spent_flops, record.segments) == (10**15, 1)


def test_a_category_comes_from_the_ledger(tmp_path):
    write(tmp_path, header(started=JULY, category="synthetic_data"), totals())
    assert collect([tmp_path]).records[0].category == "synthetic_data"


def test_a_clock_that_is_ahead_by_minutes_is_a_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(collecting.time, "time", lambda: JULY - 600)
    assert ids(collected(tmp_path, run())) == ["a"]


# Estimates.


def test_method_two_of_a_run_that_no_meter_watched():
    found = estimate(Hardware("NVIDIA A100-SXM4-80GB", 4), None, 1000.0)
    # 4 devices x 312e12 FLOP/s at bf16 x 1000 s = 1.248e18, and 33 % of it 4.1184e17.
    assert found["possible_flops"] == 1_248_000_000_000_000_000
    assert found["gpu_time_flops"] == 411_840_000_000_000_000
    assert (found["run_flops"], found["spent_flops"], found["ratio"]) == (None, None, None)
    assert (found["device_seconds"], found["estimated"]) == (4000.0, True)


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", None, 312),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.49),
        ("Tesla V100-SXM2-16GB", None, 125),  # no bf16: fp16
        ("Tesla K80", None, 4.368),  # neither: fp32, half of a board's 8.736
    ],
)
def test_the_peak_is_at_the_precision_that_is_known_or_usual(name, precision, tera):
    hardware = Hardware(name, 1, precision)
    assert estimate(hardware, None, 1.0)["possible_flops"] == round(tera * 1e12)
    usual = "bf16" if "A100" in name else "fp16" if "V100" in name else "fp32"
    assert peak_of(hardware) == (tera * 1e12, precision or usual)


def test_what_the_tracker_says_comes_before_what_is_assumed():
    assumed = assumed_hardware("8xA100")
    own = estimate(Hardware("Tesla V100-SXM2-16GB", 2), assumed, 1.0)
    assert (own["device_name"], own["device_count"]) == ("Tesla V100-SXM2-16GB", 2)
    counted = estimate(Hardware(None, 2), assumed, 1.0)
    assert (counted["device_name"], counted["device_count"]) == ("A100", 2)
    assert estimate(Hardware(), assumed, 1.0)["device_count"] == 8


def test_without_a_device_or_a_time_there_is_no_estimate():
    a100 = Hardware("NVIDIA A100-SXM4-80GB", 1)
    assert estimate(Hardware(), None, 1.0) == NO_DEVICE
    assert "RTX 99999" in estimate(Hardware("RTX 99999", 1), None, 1.0)
    for seconds in (None, 0.0, -5.0, 1e12, float("nan")):
        assert estimate(a100, None, seconds) == NO_TIME


def test_an_assumed_device_is_one_that_has_one_peak():
    assert assumed_hardware("4xA100") == Hardware("A100", 4, None)  # every A100 does 312 TFLOP/s
    assert assumed_hardware("8 x NVIDIA H100 80GB HBM3@fp8").precision == "fp8"
    assert assumed_hardware("Tesla T4").count == 1
    for wrong, why in {
        "4xH100": '"4xH100"|ambiguous',  # SXM5, PCIe or NVL: 989, 756 or 835
        "4xABC123": "not in the table",
        "0xA100": "accepted is COUNTxDEVICE",
        "A100@fp12": "accepted is COUNTxDEVICE",
        "": "accepted is COUNTxDEVICE",
    }.items():
        with pytest.raises(ValueError, match=why):
            assumed_hardware(wrong)
    with pytest.raises(ValueError, match="ambiguous"):
        collect([], assume_device="4xH100")


# CSV.


def test_a_csv_file_gives_back_what_was_written(tmp_path):
    runs = [
        run(run_flops=12_345_678_901_234_567_890_123_457, ratio=0.1 + 0.2, started=None, mfu=1e-9),
        segmented(),
        run("c", name='"; <b>,\r\n', user="", project="=1+1", team="'quoted'", status="\tx"),
        run("d", name="caf\udce9 日本語 🦆", url="http://h/#/a,b", estimated=True, steps=0),
    ]
    write_csv(runs, tmp_path / "runs.csv")
    assert read_csv(tmp_path / "runs.csv", warn=pytest.fail) == runs


@pytest.mark.parametrize(
    "text", ["=cmd()", "+1", "-1", "@a", "\t=a", "  =a", "\r=1", "\uff1d1", "'=a"]
)
def test_no_cell_is_a_formula(tmp_path, text):
    written = run(text, name=text, user=text, tags={text: text}, url=text)
    write_csv([written], tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(encoding="utf-8-sig", newline="") as file:
        _, cells = csv.reader(file)
    assert not [
        cell
        for cell in cells
        if cell.lstrip()[:1] in set("=+-@\uff1d") or (cell[:1] in "\t\r" and cell)
    ]
    assert read_csv(tmp_path / "runs.csv") == [written]


def test_a_table_made_by_hand_needs_few_columns(tmp_path):
    path = tmp_path / "hand.csv"
    path.write_text("run_id,started,run_flops\nx,1751328000,1.5E+23\n", encoding="utf-8")
    (record,) = read_csv(path, warn=pytest.fail)
    assert (record.run_id, record.started, record.run_flops) == ("x", JULY, 15 * 10**22)
    assert (record.segments, record.verdict, record.user) == (1, "unknown", None)


def test_a_row_that_cannot_be_read_costs_itself_alone(tmp_path):
    path = tmp_path / "odd.csv"
    cells = ["-3", "1e999999999", "nan", "12 apples"]
    rows = "".join(f"r{n},{cell}\n" for n, cell in enumerate(cells))
    path.write_text(f"run_id,run_flops\n{rows},7\nfine,7\n", encoding="utf-8")
    warnings = []
    assert [each.run_id for each in read_csv(path, warn=warnings.append)] == ["fine"]
    assert len(warnings) == 5
    assert "line 2: left out: run_flops cannot be '-3'" in warnings[0]
    parts = json.dumps([{"id": "s", "verdict": "agree", "cause": "none", "steps": "9"}])
    write_csv([segmented()], path)
    rows = list(csv.DictReader(path.open(encoding="utf-8-sig", newline="")))
    rows[0]["parts"] = parts
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    assert read_csv(path, warn=warnings.append) == []
    assert "a segment's steps cannot be '9'" in warnings[-1]


def test_what_is_no_table_of_runs_is_one_line(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(SourceError, match="no column run_id"):
        collect([path])
