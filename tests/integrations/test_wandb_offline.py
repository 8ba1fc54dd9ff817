"""The reader of `.wandb` files against W&B's own, whole, torn, damaged and foreign."""

import time
from pathlib import Path

import pytest

wandb = pytest.importorskip("wandb")

from wandb_server import finish, logged  # noqa: E402 - after the check for wandb

from computemeter_wandb._offline import OfflineError, read_offline_run  # noqa: E402

BLOCK = 32 * 1024
ROWS = 400


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """Make a run of several blocks, one row longer than a block; return its file and the moment."""
    folder = tmp_path_factory.mktemp("long")
    settings = wandb.Settings(silent=True, x_disable_stats=True, x_disable_meta=True)
    run = wandb.init(
        project="digits",
        entity="ann",
        name="long",
        mode="offline",
        dir=folder,
        config={"optimizer": {"lr": 0.1}},
        settings=settings,
    )
    began = time.time()
    run.config.update({"epochs": 3})
    run.define_metric("loss", step_metric="epoch")
    for row in range(ROWS):
        run.log({"loss": row / 2, "epoch": 1, "deep": {"er": row}, "text": "x" * 200})
    run.log({"text": "y" * 3 * BLOCK})
    run.summary["computemeter"] = {"verdict": "agree", "segment": {"s": "{}"}}
    run.summary["gone"] = 1
    del run.summary["gone"]
    found = finish(run)
    wandb.teardown()
    return found, began


@pytest.fixture
def data(long_run):
    return long_run[0].path.read_bytes()


def read(tmp_path, data):
    path = tmp_path / "run-x.wandb"
    path.write_bytes(data)
    return read_offline_run(path)


def test_a_run_is_read_as_it_was_logged(long_run):
    found, began = long_run
    rows = logged(found)
    assert len(rows) == ROWS + 1
    assert rows[7] == {"_step": 7, "loss": 3.5, "epoch": 1, "deep.er": 7, "text": "x" * 200}
    assert rows[-1] == {"_step": ROWS, "text": "y" * 3 * BLOCK}
    assert found.summary["computemeter"] == {"verdict": "agree", "segment": {"s": "{}"}}
    assert found.summary["loss"] == (ROWS - 1) / 2
    assert "gone" not in found.summary
    assert found.config["optimizer"] == {"lr": 0.1}
    assert found.config["epochs"] == 3
    assert found.metrics == {"loss": "epoch"}
    assert (found.name, found.entity, found.project) == ("long", "ann", "digits")
    assert found.path.name == f"run-{found.run_id}.wandb"
    assert (found.exit_code, found.damaged, found.alerts) == (0, 0, ())
    assert abs(found.started - began) < 60
    assert found.started <= found.ended < found.started + 60


def test_without_history_the_rest_is_the_same(long_run):
    found, _ = long_run
    short = read_offline_run(found.path, history=False)
    assert short.history == ()
    assert (short.summary, short.exit_code) == (found.summary, 0)


def test_a_torn_end_costs_the_record_that_it_is_in(tmp_path, data, long_run):
    whole = len(long_run[0].history)
    lengths = set()
    for cut in range(2 * BLOCK - 40, 2 * BLOCK + 40, 3):  # header, content, end of a block
        found = read(tmp_path, data[:cut])
        assert (found.damaged, found.exit_code, found.ended) == (0, None, None)
        assert list(found.history) == list(long_run[0].history[: len(found.history)])
        lengths.add(len(found.history))
    assert max(lengths) < whole
    assert max(lengths) - min(lengths) <= 1


def test_damage_costs_its_block_and_no_more(tmp_path, data, long_run):
    broken = bytearray(data)
    broken[BLOCK + 5000] ^= 0xFF
    found = read(tmp_path, bytes(broken))
    assert found.damaged == 1
    assert found.exit_code == 0
    kept = {row["_step"] for row in found.history}
    missing = sorted(set(range(ROWS + 1)) - kept)
    # One stretch, within the second block: a row is more than 200 bytes.
    assert missing == list(range(missing[0], missing[-1] + 1))
    assert 1 <= len(missing) <= BLOCK / 200


def test_a_stretch_of_zeros_as_a_power_cut_leaves_it(tmp_path, data):
    zeros = bytes(3 * BLOCK)
    found = read(tmp_path, data[: BLOCK + 5000] + zeros)
    assert found.history
    assert found.damaged > 0


@pytest.mark.parametrize("length", [0, 3, 7, 20])
def test_a_file_cut_before_it_says_which_run(tmp_path, data, length):
    with pytest.raises(OfflineError, match=r"run-x\.wandb: (not a W&B run|a W&B run cut short)"):
        read(tmp_path, data[:length])


@pytest.mark.parametrize("content", [b'{"kind":"header"}\n', b":W&B\x00\x00\x01", b"\x00" * 100])
def test_a_foreign_file(tmp_path, content):
    with pytest.raises(OfflineError, match="not a W&B run"):
        read(tmp_path, content)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        read_offline_run(Path(tmp_path, "run-x.wandb"))
