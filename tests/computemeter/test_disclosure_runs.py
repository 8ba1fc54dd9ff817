"""What a disclosure reads of ledgers and receipts."""

import json

import pytest
from disclosures import ENDED, PF, segment
from ledgers import totals

from computemeter import Meter
from computemeter.commands.report import model_card
from computemeter.disclosure import DisclosureError
from computemeter.disclosure.budget import budget
from computemeter.disclosure.digits import cells
from computemeter.disclosure.find import run_at
from computemeter.disclosure.text import markdown
from computemeter.disclosure.totals import Amount, assemble
from computemeter.ledger import LedgerHeader, read_ledger
from computemeter.ledger_writer import LedgerWriter
from computemeter.receipt import read_receipt


def test_the_launches_of_a_run_are_periods_of_constant_devices(tmp_path):
    segment(tmp_path, "a", status="failed")
    segment(tmp_path, "b")
    segment(tmp_path, "c", device_count=4, run_flops=25 * PF, hardware_flops=12 * PF)
    found = run_at(tmp_path)
    two, four = found.periods
    assert (two.launches, two.devices, two.training_seconds) == (2, 2, 600.0)
    assert (four.launches, four.devices, four.training_seconds) == (1, 4, 300.0)
    # 30 PF were burned in 3 x 600 device-seconds at 1e14 FLOP/s; 25 are in the weights.
    assert (found.operations, found.thrown_away) == (30 * PF, 5 * PF)
    assert found.implied_utilization == pytest.approx(30 / 180)
    text = markdown(assemble("m", [found]))
    assert "| 2 | 600 seconds (600 s) | 100 TFLOP/s | 0.333 assumed |" in text


def test_a_killed_launch_says_what_it_did_not_count_and_not_how(tmp_path):
    segment(tmp_path, "a", status=None)
    segment(tmp_path, "b")
    counting = run_at(tmp_path).counting
    assert (counting.uncounted_ops, counting.estimated_steps, counting.killed) == ({}, None, 1)


def test_what_a_killed_launch_last_said_of_its_verdict_is_old(tmp_path):
    writer = LedgerWriter.open(tmp_path, LedgerHeader(segment="a", run="r", started=1.0))
    with writer:
        writer.event("verdict", 2.0, verdict="unknown", cause="short_run", diagnosis="50 steps")
        writer.progress(900, 9.0, totals(), {})
    assert run_at(tmp_path).diagnosis == "as last said: 50 steps"


@pytest.mark.parametrize(("complete", "shown"), [(True, "0"), (False, "unknown")])
def test_a_zero_that_is_not_all_known_is_unknown(complete, shown):
    missing = () if complete else ("pretrain",)
    assert cells(Amount(0, missing))[1] == shown


def test_a_receipt_alone_knows_less_than_with_its_ledger(tmp_path):
    torch = pytest.importorskip("torch")
    with Meter(ledger=tmp_path, trackers=None, verbose=0) as meter:
        for _ in range(3):
            with meter.step():
                torch.ones(2, 3) @ torch.ones(3, 4)
    path = tmp_path / "compute_receipt.json"
    full = budget(assemble("m", [run_at(path)]))
    for ledger in tmp_path.glob("*.jsonl"):
        ledger.unlink()
    bare = budget(assemble("m", [run_at(path)]))
    assert (full.own.within, bare.own.within) == (True, None)


def test_lightnings_checkpoints_lie_three_folders_below_the_ledgers(tmp_path, monkeypatch):
    ledger = segment(tmp_path / "run/compute_ledger", "a")
    segment(tmp_path / "compute_ledger", "other")
    place = tmp_path / "run/lightning_logs/version_0/checkpoints"
    place.mkdir(parents=True)
    made = json.loads(model_card(str(ledger), as_json=True))  # the receipt of this launch
    (place / "compute_receipt.json").write_text(json.dumps(made))
    monkeypatch.chdir(tmp_path)
    found = run_at("run/lightning_logs/version_0/checkpoints")
    assert (found.origin, found.counting.counted_steps) == ("receipt", ENDED["counted_steps"])
    # As it was asked for, not as the machine has it.
    assert found.source == "run/lightning_logs/version_0/checkpoints/compute_receipt.json"


def test_a_forward_only_loop_is_synthetic_data(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(8, 4)
    options = {"trackers": None, "verbose": 0, "settle_steps": 2, "settle_seconds": 0}
    with Meter(ledger=tmp_path, category="synthetic_data", **options) as meter, torch.no_grad():
        for _ in range(5):
            with meter.step(batch := torch.ones(16, 8)):
                net(batch)
    summary = meter.summary()
    assert summary.model_flops == 5 * 2 * 16 * 8 * 4
    assert summary.cause not in {"count_suspect", "peak_suspect"}
    assert summary.warnings == ()
    (ledger,) = tmp_path.glob("*.jsonl")
    assert read_ledger(ledger).header.category == "synthetic_data"
    assert read_receipt(tmp_path / "compute_receipt.json").category == "synthetic_data"
    found = assemble("m", [run_at(ledger)])
    assert (found.synthetic_data.flops, found.training.flops) == (5 * 2 * 16 * 8 * 4, 0)
    assert found.thrown_away.flops == 0


def test_a_category_that_does_not_exist_is_refused_at_once():
    with pytest.raises(ValueError, match=r"category='data': accepted are training and synthetic"):
        Meter(category="data")


def test_launches_of_two_categories_are_no_run(tmp_path):
    segment(tmp_path, "a", head={"category": "training"})
    segment(tmp_path, "b", head={"category": "synthetic_data"})
    with pytest.raises(DisclosureError, match="launches of several categories: synthetic_data and"):
        run_at(tmp_path)
