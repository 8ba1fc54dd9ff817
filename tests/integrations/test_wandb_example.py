"""The example trains, and W&B's own file has its compute, counted as by hand.

One image through the net, forward (a multiply-add is 2):
    64 -> 512     2 * 64*512       65,536
    512 -> 512    2 * 512*512     524,288
    512 -> 10     2 * 512*10       10,240
Backward: the weights' gradients cost the same again, and so do the inputs', but for the first
layer, whose input is the image.
"""

import runpy
from pathlib import Path

import pytest

wandb = pytest.importorskip("wandb")

from wandb_server import read_back  # noqa: E402 - after the check for wandb

from computemeter_wandb._source import records  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "wandb_digits.py"
FLOPS_PER_IMAGE = 2 * 65_536 + 3 * (524_288 + 10_240)  # 1,734,656
IMAGES = 1797


def test_the_example_leaves_its_compute_in_an_offline_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    runpy.run_path(str(EXAMPLE))["main"](epochs=2)
    wandb.teardown()
    printed = capsys.readouterr().out
    place = printed.rpartition("The run is at  ")[2].strip()
    found = read_back(Path(place))
    total = 2 * IMAGES * FLOPS_PER_IMAGE
    assert found.summary["compute/flops"] == total
    # 57 batches an epoch, 114 in all: rows after 10, 20, ..., 110 of them, and at the end.
    steps = [row["trainer/global_step"] for row in found.history if "compute/loss" in row]
    assert steps[:11] == list(range(9, 110, 10))
    assert found.metrics["compute/loss"] == "compute/pfs_days"
    assert "6.23 GFLOP" in printed  # 2 * 1797 * 1,734,656 = 6,234,353,664
    (record,) = records(str(tmp_path), warn=pytest.fail)
    assert (record.spent_flops, record.steps, record.status) == (total, 114, "finished")
