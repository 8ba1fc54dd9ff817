"""The command line: what it prints, in which form, and how it fails."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from computemeter import __version__
from computemeter.cli import app
from computemeter.commands import doctor as module
from computemeter.records import Device


def invoke(*arguments):
    return CliRunner().invoke(app, arguments, prog_name="computemeter")


def run(*command):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def h100(monkeypatch):
    device = Device("NVIDIA H100 80GB HBM3", "cuda", {"bf16": 989.4e12, "fp32": 66.9e12}, "a table")
    monkeypatch.setattr(module, "torch_device", lambda: device)


def test_the_doctor_prints_versions_the_device_and_the_coverage(h100):
    result = invoke("doctor")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert f"computemeter {__version__}" in lines
    assert f"torch {torch.__version__}" in lines
    assert "device NVIDIA H100 80GB HBM3 (cuda)" in lines
    assert "bf16 989 TFLOP/s" in lines
    assert "source: a table" in lines
    assert any(line.endswith("have a formula") for line in lines)
    assert "aten::mm" not in result.output


def test_the_doctor_of_an_unknown_device_says_what_to_do(monkeypatch):
    device = Device("Mystery 1", "cuda", {}, "no entry for Mystery 1; pass peak_flops=")
    monkeypatch.setattr(module, "torch_device", lambda: device)
    output = invoke("doctor").output
    assert "no peak is known: method 2 has no number" in output
    assert "pass peak_flops=" in output


def test_the_doctor_lists_every_operator():
    lines = invoke("doctor", "--ops").output.splitlines()
    for line in (
        "aten::mm  formula",
        "aten::addmm_  formula",
        "aten::add  zero",
        "aten::_linalg_svd  uncounted",
        "aten::einsum  parts",
    ):
        assert line in lines


def test_the_doctor_in_json(h100):
    report = json.loads(invoke("doctor", "--json").output)
    assert set(report) == {"versions", "device", "operators", "misnamed_formulas"}
    assert report["versions"]["computemeter"] == __version__
    assert report["device"]["peaks"] == {"bf16": 989.4e12, "fp32": 66.9e12}
    assert set(report["operators"]) == {"formula", "parts", "zero", "uncounted"}

    full = json.loads(invoke("doctor", "--json", "--ops").output)
    assert full["ops"]["aten::mm"] == "formula"
    assert len(full["ops"]) == sum(full["operators"].values())
    assert full["operators"] == report["operators"]


def test_help_shows_an_example():
    output = invoke("doctor", "--help").output
    assert "Example: computemeter doctor --devices --measure" in output
    assert "--json" in output


def test_without_a_command_it_says_which_there_are():
    assert "doctor" in invoke().output
    assert "doctor" in invoke("--help").output
    assert invoke("--version").output == f"computemeter {__version__}\n"


@pytest.mark.parametrize("arguments", [("doctor", "--bad"), ("doctor", "extra"), ("diagnose",)])
def test_wrong_arguments_are_refused(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert arguments[-1] in result.output


def test_as_a_program():
    done = run("-m", "computemeter", "doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["versions"]["torch"] == torch.__version__


def test_without_torch_it_says_what_to_install():
    code = """
import sys
sys.modules["torch"] = None
sys.argv = ["computemeter", "doctor"]
from computemeter.cli import main
main()
"""
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "computemeter: doctor needs PyTorch, which is not installed (--devices alone does not): "
        "pip install 'computemeter[torch]'\n"
    )


def test_only_the_command_line_needs_typer():
    code = """
import sys
sys.modules["typer"] = None
import computemeter
from computemeter import Meter, register_formula
import computemeter.commands.doctor
"""
    assert run("-c", code).returncode == 0
