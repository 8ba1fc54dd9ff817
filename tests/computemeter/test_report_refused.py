"""What `computemeter report` refuses: one line, and nothing else is printed."""

import pytest
from reports import invoke, receipt, refused, write_ledger

from computemeter.receipt import write_receipt

pytestmark = pytest.mark.usefixtures("own_cache")


def test_options_that_do_not_go_together(tmp_path):
    assert "name either a run or a --model" in refused()
    assert "name either a run or a --model" in refused("a", "--model", "b")
    assert "--source and --planned-steps are of a run" in refused("--model", "b", "--source", "c")
    for given in (("--card",), ("--card", "a", "--source", "b"), ("--format", "xml", "a")):
        assert invoke(*given).exit_code == 2


def test_a_run_that_is_not_there(tmp_path):
    write_ledger(tmp_path, "a")
    assert "no run has the id 'x'; 1 run, such as r" in refused("x", "--source", tmp_path)
    assert "no such file or folder" in refused("x", "--source", tmp_path / "none")


def test_a_run_that_claims_more_than_its_devices_can_do(tmp_path):
    # 3600 device-seconds at 1e12 FLOP/s are 3.6e15 FLOP.
    path = write_ledger(tmp_path, "a", model_flops=72 * 10**14)
    assert "small claims 2x what its devices can do" in refused(path)


def test_nothing_there(tmp_path):
    assert refused(tmp_path / "none").endswith("none: No such file or directory\n")
    assert "there is no compute_receipt.json with it, and no ledger is there" in refused(tmp_path)
    (tmp_path / "model.bin").touch()
    said = refused(tmp_path / "model.bin", "--json")
    assert "model.bin: there is no compute_receipt.json" in said


def test_a_damaged_receipt(tmp_path):
    path = write_receipt(tmp_path, receipt())
    path.write_text(path.read_text()[:-9])
    assert f"{path}: cut short" in refused(tmp_path)


def test_a_damaged_ledger(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    assert f"{path}: no header" in refused(path)
    path = write_ledger(tmp_path, "b", header={"device_count": "two"})
    assert f"{path}: device_count is 'two', where a whole number" in refused(path, "--card")


def test_ledgers_of_several_runs(tmp_path):
    write_ledger(tmp_path, "a")
    write_ledger(tmp_path, "b", run="other")
    assert (
        f"ledgers of 2 runs are there; name one of them, or give a run's id and --source {tmp_path}"
        in refused(tmp_path)
    )


def test_credentials_are_not_repeated():
    assert "s3cret" not in refused("http://ann:s3cret@host:5000")
