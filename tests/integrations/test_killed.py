"""A run that is killed again and again: what it spent is known, and what is in the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import BATCH, FLOPS_PER_EXAMPLE

from computemeter.ledger import read_ledger
from computemeter.ledger_runs import records_from_ledgers
from computemeter.receipt import read_receipt

SCRIPT = Path(__file__).parents[1] / "killed_fits.py"
STEP = BATCH * FLOPS_PER_EXAMPLE


@pytest.mark.parametrize(
    ("kills", "log_every"), [(4, 1), pytest.param(30, 7, marks=pytest.mark.slow)]
)
def test_killed_at_random_instants_and_resumed_each_time(tmp_path, kills, log_every):
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(kills), str(log_every)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["run_flops"] == told["in_the_weights"] * STEP
    # A kill may fall after a step's record and before the step was noted, or it may take the steps
    # since the last record along.
    spent, remainder = divmod(told["spent_flops"], STEP)
    assert remainder == 0
    assert told["ran"] - kills * log_every <= spent <= told["ran"] + kills
    assert told["ran"] > told["in_the_weights"]  # or no kill cost anything
    assert told["warnings"] == []
    ledgers = [read_ledger(path) for path in (tmp_path / "ledger").glob("*.jsonl")]
    assert 1 < len(ledgers) <= kills + 1
    (record,) = records_from_ledgers([tmp_path / "ledger"])
    assert (record.run_id, record.segments) == ("the-job", len(ledgers))
    assert (record.run_flops, record.spent_flops) == (told["run_flops"], told["spent_flops"])
    receipt = read_receipt(tmp_path / "saved" / "compute_receipt.json")
    assert (receipt.run_flops, receipt.spent_flops) == (told["run_flops"], told["spent_flops"])
    assert (receipt.steps, len(receipt.segments)) == (spent, len(told_of(ledgers)))


def told_of(ledgers):
    """Leave out launches that were killed before their first record."""
    return [ledger for ledger in ledgers if ledger.progress]
