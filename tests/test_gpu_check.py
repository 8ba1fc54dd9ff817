"""benchmarks/gpu_check.py on a machine without a GPU: what it says, and a rehearsal."""

import json

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check_parts import report
from benchmarks.gpu_check_parts.results import Result


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def run(folder, *arguments):
    status = gpu_check.main([*arguments, "--out", str(folder)])
    record = json.loads((folder / "gpu_check.json").read_text())
    return status, {row["name"]: row for row in record["results"]}


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_the_page_says_not_measured_and_the_script_succeeds(tmp_path, capsys):
    status, rows = run(tmp_path)

    assert status == 0
    assert capsys.readouterr().out == "no CUDA device: nothing was measured\n"
    assert set(rows) == set(gpu_check.all_checks())
    assert {row["verdict"] for row in rows.values()} == {"not measured"}
    page = (tmp_path / "gpu_check.md").read_text()
    assert "Not measured: there was no CUDA device." in page
    assert page.count("| not measured |") == len(rows)


@pytest.mark.usefixtures("no_gpu")
def test_a_part_writes_no_results_unless_told_where(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
    assert gpu_check.main(["--only", "lstm"]) == 0
    assert gpu_check.main(["--quick"]) == 0
    assert list(tmp_path.iterdir()) == []

    assert gpu_check.main([]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"gpu_check.json", "gpu_check.md"}


@pytest.mark.usefixtures("no_gpu")
def test_what_a_gpu_has_shown_is_not_overwritten_without_one(tmp_path):
    report.write(tmp_path, {"device": "NVIDIA H100"}, [Result("it", "1", "1", "ok")])
    status, rows = run(tmp_path)

    assert status == 0
    assert set(rows) == {"it"}


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"environment": 3}'])
def test_results_that_cannot_be_read_are_written_anew(tmp_path, broken):
    (tmp_path / "gpu_check.json").write_text(broken)

    assert set(run(tmp_path)[1]) == set(gpu_check.all_checks())


@pytest.mark.parametrize("only", ["attention", "lstm", "convolution", "autocast", "fp8 product"])
def test_a_rehearsal_on_the_cpu_counts_what_a_cpu_can_do_as_by_hand(tmp_path, only):
    status, rows = run(tmp_path, "--device", "cpu", "--only", only)

    # What exists on a GPU alone is said to be not available; nothing else is left over.
    assert status == 0
    assert rows
    assert {row["verdict"] for row in rows.values()} <= {"ok", "not available"}
    counted = {row["name"]: row for row in rows.values() if row["verdict"] == "ok"}
    assert counted
    for row in counted.values():
        assert row["expected"] == row["got"]


def test_gpt2_is_counted_as_by_hand(tmp_path):
    _, rows = run(tmp_path, "--device", "cpu", "--only", "GPT-2 small, count")

    # On a CPU a toy: 2 layers, width 32, 101 words, 8 x 16 tokens. Forward, layers: weights
    # 12 * 32^2, attention 2 * 16 * 32, head 32 * 101 multiply-adds a token.
    forward = 2 * 8 * 16 * (2 * (12 * 32**2 + 2 * 16 * 32) + 32 * 101)
    scores = 2 * 2 * 8 * 16 * 16 * 32
    (row,) = rows.values()
    assert row["expected"] == f"{3 * forward:,} + {scores:,} recomputed FLOP in bfloat16"
    assert row["verdict"] == "ok"


@pytest.mark.slow
def test_a_whole_rehearsal_has_no_check_that_breaks(tmp_path):
    _, rows = run(tmp_path, "--device", "cpu", "--quick")

    assert len(rows) >= len(gpu_check.all_checks())
    # An exception in a check is "unknown" with the exception's name first.
    assert not [row for row in rows.values() if "Error: " in row["detail"]]


def test_a_name_that_no_check_has_is_refused(capsys):
    assert gpu_check.main(["--only", "nonsense", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "'nonsense'" in said
    assert "cudnn lstm" in said


@pytest.mark.parametrize(("verdict", "status"), [("ok", 0), ("unknown", 0), ("differs", 1)])
def test_the_exit_status_says_whether_a_check_differs(monkeypatch, tmp_path, verdict, status):
    checks = {"it": lambda name, setting: [Result(name, "1", "2", verdict)]}
    monkeypatch.setattr(gpu_check, "all_checks", lambda: checks)

    assert run(tmp_path, "--device", "cpu")[0] == status
