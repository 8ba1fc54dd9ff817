"""The example trains, and MLflow has its compute; it is `lightning_digits.py`'s, counted alike.

One image through the net, forward (a multiply-add is 2):
    convolution 1 -> 32 on 8x8      2 * 64 * 9*1*32      36,864
    convolution 32 -> 64            2 * 64 * 9*32*64  2,359,296
    convolution 64 -> 64            2 * 64 * 9*64*64  4,718,592
    dense 4,096 -> 10               2 * 4,096*10         81,920
Backward: the weights' gradients cost the same again, and so do the inputs', but for the first
convolution, whose input is the image.
"""

import runpy
from pathlib import Path

import mlflow
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "keras_digits.py"
FIRST, REST = 36_864, 2_359_296 + 4_718_592 + 81_920
FLOPS_PER_IMAGE = 2 * FIRST + 3 * REST  # 21,553,152
IMAGES, STEPS_PER_EPOCH = 1500, 47  # 46 batches of 32 and one of 28
PFS_DAY = 10**15 * 86_400


def test_the_example_logs_every_epoch_and_counts_as_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    try:
        runpy.run_path(str(EXAMPLE))["main"](epochs=2)
    finally:
        mlflow.set_tracking_uri(before)

    store = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = store.search_experiments(filter_string="name = 'digits'")
    (run,) = store.search_runs([experiment.experiment_id])
    epoch = IMAGES * FLOPS_PER_IMAGE
    history = store.get_metric_history(run.info.run_id, "compute/pfs_days")
    assert [point.step for point in history] == [0, 1]
    assert [point.value * PFS_DAY for point in history] == pytest.approx([epoch, 2 * epoch])
    assert run.data.metrics["compute/flops"] == 2 * epoch
    # 687,866,553: the "688 MFLOP a step" of the Lightning example in README.md
    assert run.data.metrics["compute/flops_per_step"] == pytest.approx(epoch / STEPS_PER_EPOCH)
    assert run.data.metrics["compute/uncounted_ops"] == 0
    assert run.info.status == "FINISHED"
    printed = capsys.readouterr().out
    assert "688 MFLOP a step" in printed
    assert "ui --backend-store-uri sqlite:///mlflow.db" in printed
