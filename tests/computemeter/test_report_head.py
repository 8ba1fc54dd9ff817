"""Who files a disclosure, and from when to when its runs ran."""

import json

import pytest
from ledgers import header, totals
from typer.testing import CliRunner

from computemeter.cli import app
from computemeter.disclosure.entries import Entry
from computemeter.disclosure.find import run_at
from computemeter.disclosure.runs import from_record
from computemeter.disclosure.text import markdown
from computemeter.disclosure.totals import assemble
from computemeter.ledger import read_ledger
from computemeter.ledger_runs import records_from_ledgers
from computemeter.ledger_writer import LedgerWriter, launch_time, new_segment_id
from computemeter.receipt import ComputeReceipt, write_receipt

MARCH_14 = 1773480413.59  # 09:26:53 UTC
DAY = 86_400
# Of a receipt, what it may not know.
UNKNOWN = dict.fromkeys(
    [
        *("steps", "run_flops", "spent_flops", "lineage_flops", "model_flops", "gpu_time_flops"),
        *("ratio", "device_hours", "device_name", "device_count", "peak_flops"),
        *("assumed_utilization", "precision"),
    ]
)


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)], prog_name="computemeter")


def receipt(folder, segments):
    """Write a receipt on 2026-03-14."""
    judged = {"status": "finished", "verdict": "agree", "cause": "none", "diagnosis": ""}
    facts = {**UNKNOWN, **judged, "run": "run-1", "segments": segments, "created": MARCH_14}
    return write_receipt(folder, ComputeReceipt(**facts))


def launch(folder, segment, started, *, last, ended=None, warned=None):
    """Write a launch with one record of its work."""
    with LedgerWriter.open(folder, header(segment, started=started)) as writer:
        writer.progress(1, last, totals(), {})
        if warned:
            writer.event("warning", warned, message="m")
        if ended:
            writer.end("finished", ended, {})
    return writer.path


def first_and_last(path):
    (entry,) = json.loads(invoke(path, "--json").output)["entries"]
    return entry["first_day"], entry["last_day"]


def test_the_days_of_a_run_are_from_its_first_launch_to_its_last_record(tmp_path):
    launch(tmp_path, "a", MARCH_14, last=MARCH_14 + DAY)
    path = launch(tmp_path, "b", MARCH_14 + 2 * DAY, last=MARCH_14 + 3 * DAY,
                  ended=MARCH_14 + 4 * DAY)  # fmt: skip
    assert first_and_last(path) == ("2026-03-14", "2026-03-18")
    assert "| 2 | 2026-03-14 to 2026-03-18 | finished |" in invoke(path).output


@pytest.mark.parametrize(("warned", "last_day"), [(None, "2026-03-15"), (2, "2026-03-16")])
def test_of_a_killed_run_the_last_record_is_the_end(tmp_path, warned, last_day):
    warned = warned and MARCH_14 + warned * DAY
    path = launch(tmp_path, "a", MARCH_14, last=MARCH_14 + DAY, warned=warned)
    assert read_ledger(path).last_time == (warned or MARCH_14 + DAY)
    assert first_and_last(path) == ("2026-03-14", last_day)


def test_a_launch_that_died_at_once_has_one_time(tmp_path):
    with LedgerWriter.open(tmp_path, header(started=MARCH_14)) as writer:
        pass
    assert read_ledger(writer.path).last_time == MARCH_14
    assert first_and_last(writer.path) == ("2026-03-14", "2026-03-14")


def test_a_run_of_one_day_says_it_once(tmp_path):
    path = launch(tmp_path, "a", MARCH_14, last=MARCH_14 + 1, ended=MARCH_14 + 2)
    assert "| 1 | 2026-03-14 | finished |" in invoke(path).output


@pytest.mark.parametrize(
    ("segments", "days"),
    [
        (("20260312T235959000000Z-1f0e9c4a", "20260313T000000000000Z-ab"), "2026-03-12 to"),
        (("20260312T235959000000Z-1f0e9c4a", "unknown"), "unknown to"),  # a launch of no known time
        ((), "unknown to"),
    ],
)
def test_a_receipt_knows_the_days_by_its_launches(tmp_path, segments, days):
    output = invoke(receipt(tmp_path, segments)).output
    assert f"| {days} 2026-03-14 | finished |" in output


def test_the_ledgers_beside_a_receipt_know_better(tmp_path):
    launch(tmp_path, "a", MARCH_14 - DAY, last=MARCH_14)
    path = receipt(tmp_path, ("a",))
    assert (run_at(path).started, run_at(path).ended) == (MARCH_14 - DAY, MARCH_14)


def test_the_id_of_a_launch_says_when_it_was():
    assert launch_time("20260314T092653590000Z-1f0e9c4a") == MARCH_14
    assert launch_time(new_segment_id()) > MARCH_14
    assert launch_time("a") is launch_time("") is None


def test_a_tracker_may_not_know_the_end(tmp_path):
    (record,) = records_from_ledgers([launch(tmp_path, "a", MARCH_14, last=MARCH_14)])
    text = markdown(assemble("m", [from_record(record)]))
    assert "| 2026-03-14 to unknown |" in text


def test_a_figure_given_by_hand_has_no_days():
    given = Entry(name="e", category="training", origin="manual", source="s", run_flops=1)
    assert "| none | unknown | given by hand |" in markdown(assemble("m", [given]))


def test_who_files_it_stands_in_the_head(tmp_path):
    path = launch(tmp_path, "a", MARCH_14, last=MARCH_14)
    head = invoke(path, "--filer", "Ann <b> http://u:s3cret@h").output.partition("## ")[0]
    assert head.endswith("Filed by: Ann &lt;b&gt; http:\\//\\*\\*\\*@h\n\n")
    made = json.loads(invoke(path, "--filer", "Ann", "--json").output)
    assert made["filer"] == "Ann"
    assert json.loads(invoke(path, "--json").output)["filer"] is None
    assert "\n\nFiled by: not named\n\n## Compute" in invoke(path).output
    assert "--filer is empty" in invoke(path, "--filer", " ").stderr
    assert invoke(path, "--filer", "Ann", "--card").exit_code == 2
