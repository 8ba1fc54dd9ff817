"""What a killed launch leaves of how its steps were counted, and what a report makes of it.

A launch of three steps of one kind, of which the first multiplies 2 x 3 by 3 x 4, that is 2*2*3*4 =
48 FLOP, and the others do it twice, 96. The first is counted, and one of the other two again, so
the third is booked at the mean of 48 and 96: 3 * 72 = 216 FLOP in all. The variance of the two
counts is 24**2 + 24**2, and the error of a third one booked at their mean has 1 + 1/2 of that.
"""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from math import sqrt
from pathlib import Path

import pytest
from ledgers import header, totals, write
from typer.testing import CliRunner

from computemeter import Meter, run_meter
from computemeter.book import StepBook
from computemeter.cli import app
from computemeter.disclosure.budget import budget
from computemeter.disclosure.entries import Counting, Entry
from computemeter.disclosure.find import run_at
from computemeter.disclosure.totals import assemble
from computemeter.ledger import read_ledger
from computemeter.receipt import ComputeReceipt, write_receipt
from computemeter.records import SegmentTotals

torch = pytest.importorskip("torch")

ERROR = sqrt(1152 * 1.5)
COUNTED = {
    "counted_steps": 2,
    "predicted_steps": 0,
    "estimated_steps": 1,
    "recounts": 1,
    "flops_standard_error": ERROR,
    "causal_flops": 0,
    "samples": None,  # there is no batch to measure
    "uncounted_kinds": 0,
}


class OneRun:
    """A tracker that knows the run by its id and keeps nothing."""

    name, run_id = "scheduler", "run-1"

    def log(self, metrics, *, step, time):
        pass

    def tag(self, tags):
        pass

    def close(self, timeout=5.0):
        return 0


def train(folder, works=(1, 2, 2)):
    """Run a launch of the run, whose steps multiply so often; yield after each."""
    with Meter(ledger=folder, trackers=[OneRun()], verbose=0) as meter:
        for work in works:
            with meter.step():
                for _ in range(work):
                    torch.ones(2, 3) @ torch.ones(3, 4)
            yield meter


def train_and_be_killed(folder):
    """Run a launch that is killed after its third step, long before a logging step."""
    run_meter._SECONDS_BETWEEN_RECORDS = 0.0
    for meter in train(folder):
        if meter.steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run whose first launch was killed."""
    folder = tmp_path_factory.mktemp("killed")
    code = "import sys, test_killed_counting as t; t.train_and_be_killed(sys.argv[1])"
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *paths])},
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    return folder


def told(ledger):
    return {name: ledger.last_totals[name] for name in COUNTED}


def line(entry, cause):
    return next(each for each in budget(assemble("m", [entry])).lines if each.cause == cause)


def causes(entry):
    return {each.cause for each in budget(assemble("m", [entry])).lines}


def test_a_killed_launch_leaves_how_its_steps_were_counted(killed):
    (path,) = killed.glob("*.jsonl")
    ledger = read_ledger(path)
    assert (ledger.end, ledger.last_totals["model_flops"]) == (None, 216)
    assert told(ledger) == {**COUNTED, "flops_standard_error": pytest.approx(ERROR)}


def test_the_report_of_a_run_with_a_crash_states_the_drift_it_knows(killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "ledger")
    list(train(folder))
    found = run_at(folder)
    counting = found.counting
    assert (counting.killed, found.operations) == (1, 432)
    assert (counting.counted_steps, counting.estimated_steps, counting.recounts) == (4, 2, 2)
    # Two launches of the same error, which are independent.
    assert counting.standard_error == pytest.approx(ERROR * sqrt(2))
    share = line(found, "recount drift").share
    assert share == pytest.approx(1.96 * ERROR * sqrt(2) / 432)
    assert "recount drift and estimated steps" not in causes(found)
    text = CliRunner().invoke(app, ["report", str(folder)], prog_name="computemeter").output
    # 1.96 * sqrt(3456) / 432 = 0.2667
    assert "| recount drift | 27 % | 95 % interval of 58.8 FLOP standard error |" in text
    assert "4 steps counted, 0 like them, 2 at a mean" in text


def test_every_record_says_it_and_so_does_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(run_meter, "_SECONDS_BETWEEN_RECORDS", 0.0)
    *_, meter = train(tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    ledger = read_ledger(path)
    seen = [record.totals for record in ledger.progress]
    steps = ("counted_steps", "predicted_steps", "estimated_steps")
    assert [sum(each[name] for name in steps) for each in seen] == [2, 3, 3]
    (carried,) = meter.state_dict()["segments"].values()
    assert {name: carried[name] for name in COUNTED} == told(ledger)
    assert ledger.summary["flops_standard_error"] == told(ledger)["flops_standard_error"]


def test_steps_that_are_all_the_same_have_no_drift(tmp_path):
    list(train(tmp_path, works=[1] * 3))
    (path,) = tmp_path.glob("*.jsonl")
    same = {"predicted_steps": 1, "estimated_steps": 0, "flops_standard_error": 0.0}
    assert told(read_ledger(path)) == {**COUNTED, **same}
    drift = line(run_at(tmp_path), "recount drift")
    assert (drift.share, drift.text) == (0.0, "1 recount, none differed")


def test_where_no_step_was_counted_the_drift_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(StepBook, "wants_count", lambda _book, _key: False)
    list(train(tmp_path))
    (path,) = tmp_path.glob("*.jsonl")
    none = {"counted_steps": 0, "estimated_steps": 3, "recounts": 0}
    ledger = read_ledger(path)
    assert told(ledger) == {**dict.fromkeys(COUNTED), "predicted_steps": 0, **none}
    # The summary has null also where counts never differed.
    assert (ledger.status, run_at(path).counting.standard_error) == ("finished", None)


def test_where_the_meter_may_have_missed_steps_nothing_is_said(tmp_path):
    for meter in train(tmp_path):
        meter.metering = False
    (path,) = tmp_path.glob("*.jsonl")
    assert told(read_ledger(path)) == dict.fromkeys(COUNTED)


def test_a_ledger_of_before_says_none_and_never_zero(tmp_path):
    assert {getattr(SegmentTotals.from_mapping(totals()), name) for name in COUNTED} == {None}
    with pytest.raises(TypeError, match="recounts cannot be 'x'"):
        SegmentTotals.from_mapping({"recounts": "x"})
    write(tmp_path, header("seg-1"), totals())
    write(tmp_path, header("seg-2"), totals(**COUNTED))
    known = run_at(tmp_path).counting
    assert (known.counted_steps, known.predicted_steps, known.estimated_steps) == (None,) * 3
    assert (known.recounts, known.standard_error, known.causal_flops) == (None,) * 3
    open_line = line(run_at(tmp_path), "recount drift and estimated steps")
    assert open_line.text == "2 launches without an end did not say how steps were counted"


@pytest.mark.parametrize(
    ("recounts", "text"),
    [
        (None, "counts never differed"),  # the summary of a ledger of before
        (0, "none was counted twice"),
        (1200, "1,200 recounts, none differed"),
    ],
)
def test_what_stands_beside_no_drift(recounts, text):
    counting = Counting(standard_error=0.0, recounts=recounts)
    entry = Entry(name="e", category="training", origin="ledger", source="s", run="r",
                  operations=10, run_flops=10, counting=counting)  # fmt: skip
    assert line(entry, "recount drift").text == text


def write_receipt_of(folder, segments, ops):
    """Write a receipt, which has the operators of its last launch."""
    facts = {each.name: None for each in fields(ComputeReceipt) if each.init}
    kept = ("schema", "kind", "version", "created", "parents", "extra", "name")
    known = {"run": "run-1", "segments": segments, "status": "finished", "uncounted_ops": ops}
    judged = {"verdict": "agree", "cause": "none", "diagnosis": ""}
    facts = {name: value for name, value in facts.items() if name not in kept}
    return write_receipt(folder, ComputeReceipt(**{**facts, **known, **judged}))


@pytest.mark.parametrize(("kinds", "ops"), [(0, {}), (2, None), (None, None)])
def test_a_killed_launch_says_whether_all_operators_have_a_formula(tmp_path, kinds, ops):
    # It was killed before its first logging step: no record has metrics.
    path = write(tmp_path, header("seg-1"), totals(uncounted_kinds=kinds))
    assert run_at(path).counting.uncounted_ops == ops
    # The last launch called none without one, which says nothing of the first.
    write(tmp_path, header("seg-2"), totals(uncounted_kinds=0), status="finished")
    receipt = write_receipt_of(tmp_path, ("seg-1", "seg-2"), {})
    assert run_at(receipt).counting.uncounted_ops == ops


@pytest.mark.parametrize(
    ("segments", "told", "ops"),
    [
        (("a",), {}, {}),
        (("a", "b"), {}, None),
        (("a", "b"), {"aten::mv": 2}, {"aten::mv": 2}),  # which makes a lower bound in any case
    ],
)
def test_a_receipt_alone_has_the_operators_of_its_last_launch(tmp_path, segments, told, ops):
    receipt = write_receipt_of(tmp_path, segments, told)
    assert run_at(receipt).counting.uncounted_ops == ops
