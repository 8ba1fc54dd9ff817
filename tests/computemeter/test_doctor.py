"""What `computemeter doctor --devices` and `--measure` print; what they find is faked."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from computemeter.cli import app
from computemeter.commands import doctor as module
from computemeter.commands.detect import Answer
from computemeter.commands.measure import Product
from computemeter.cpu import cpu_device
from computemeter.devices import named_device
from computemeter.peak_files import config_file
from computemeter.records import Device

H100 = "NVIDIA H100 80GB HBM3"


def invoke(*arguments):
    return CliRunner().invoke(app, ("doctor", *arguments), prog_name="computemeter")


def lines_of(result):
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


@pytest.fixture(autouse=True)
def no_files_of_the_developers(monkeypatch, tmp_path):
    monkeypatch.delenv("COMPUTEMETER_PEAKS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])  # as it was, whatever is put into it


@pytest.fixture
def machine(monkeypatch):
    """A machine with two H100 and a GPU that nobody knows; TensorFlow is broken."""
    answers = [
        Answer("PyTorch", (*[named_device(H100, "cuda")] * 2, cpu_device())),
        Answer("JAX", (named_device("Mystery 1", "cuda"),)),
        Answer("TensorFlow", problem="could not be asked: ImportError: no"),
        Answer("NVML", ()),
    ]
    monkeypatch.setattr(module, "ask_all", lambda _say: answers)
    monkeypatch.setattr(module, "torch_device", lambda: named_device(H100, "cuda"))


def test_devices_are_listed_with_peaks_source_and_confidence(machine):
    lines = lines_of(invoke("--devices"))
    start = lines.index(f"PyTorch 2 x {H100} (cuda)")
    listed = lines[start : lines.index("JAX 1 x Mystery 1 (cuda)")]
    assert "bf16 989 TFLOP/s" in listed
    assert "fp64 67 TFLOP/s" in listed
    assert "confidence: high" in listed
    assert f"PyTorch 1 x {cpu_device().name} (cpu)" in listed
    assert "TensorFlow could not be asked: ImportError: no" in lines
    assert "NVML sees no device" in lines


def test_a_device_without_a_peak_says_why_and_what_to_do(machine):
    lines = lines_of(invoke("--devices"))
    at = lines.index("JAX 1 x Mystery 1 (cuda)")
    assert lines[at + 1] == "no peak is known: method 2 has no number"
    assert lines[at + 2].startswith('source: "Mystery 1" is not in the table of peaks')
    assert lines[at + 2].endswith(
        "pass peak_flops= (dense FLOP/s of one device) to ComputeMeter/Meter"
    )
    assert lines[at + 3] == (
        f"or give it a row in {config_file()}: see computemeter/data/peaks.toml"
    )


def test_devices_in_json(machine):
    report = json.loads(invoke("--devices", "--json").stdout)
    two, cpu, unknown = report["devices"]
    assert (two["framework"], two["count"], two["name"]) == ("PyTorch", 2, H100)
    assert (two["peaks"]["tf32"], two["confidence"]) == (494.7e12, "high")
    assert (cpu["count"], cpu["kind"]) == (1, "cpu")
    assert cpu["confidence"] == ("computed" if cpu_device().peaks else None)
    assert (unknown["peaks"], unknown["confidence"]) == ({}, None)
    assert report["not_asked"] == {"TensorFlow": "could not be asked: ImportError: no"}


def test_the_users_own_row_is_what_is_shown(machine, monkeypatch, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[device]]\nname = "mine"\naliases = ["Mystery 1"]\ntflops = { fp32 = 3 }')
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(path))
    monkeypatch.setattr(module, "torch_device", lambda: named_device("Mystery 1", "cuda"))
    lines = lines_of(invoke())
    at = lines.index("device Mystery 1 (cuda)")
    assert lines[at + 1 : at + 3] == ["fp32 3 TFLOP/s", "source: mine: mine.toml"]


@pytest.fixture
def measured(monkeypatch):
    device = Device("Mystery 1", "cuda", {"fp32": 1e12, "bf16": 8e12}, "made up")
    products = [
        Product("fp32", 1000, 0.001, 1e12),  # 2e9 FLOP in 1 ms: 2 TFLOP/s, twice the peak
        Product("bf16", 2000, 0.004, 8e12),  # 1.6e10 FLOP in 4 ms: 4 TFLOP/s, half of it
        Product("fp16", 1000, 0.001),
        Product("fp8", problem="not supported: no"),
    ]
    monkeypatch.setattr(module, "torch_device", lambda: device)
    monkeypatch.setattr(module, "measure_products", lambda _device, _say: products)


def test_products_are_shown_beside_the_peak(measured):
    lines = lines_of(invoke("--measure"))
    at = lines.index("measured matrix products on Mystery 1, the fastest of several")
    assert lines[at + 2 : at + 6] == [
        "fp32 1000 2 TFLOP/s 1 TFLOP/s 2.00 the peak is too low: set peak_flops=",
        "bf16 2000 4 TFLOP/s 8 TFLOP/s 0.50",
        "fp16 1000 2 TFLOP/s not known",
        "fp8 not supported: no",
    ]


def test_products_in_json(measured):
    first, *_, last = json.loads(invoke("--measure", "--json").stdout)["products"]
    assert first == {
        "precision": "fp32",
        "size": 1000,
        "seconds": 0.001,
        "peak": 1e12,
        "problem": "",
        "flops_per_second": pytest.approx(2e12),
        "share_of_peak": pytest.approx(2.0),
    }
    assert (last["problem"], last["flops_per_second"]) == ("not supported: no", None)


def without_torch(*arguments):
    code = f"""
import sys
sys.modules["torch"] = sys.modules["jax"] = sys.modules["tensorflow"] = None
sys.argv = ["computemeter", "doctor", *{arguments!r}]
from computemeter.cli import main
main()
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


def test_devices_can_be_asked_for_without_torch():
    done = without_torch("--devices", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (
        report["not_asked"].items()
        >= dict.fromkeys(["PyTorch", "JAX", "TensorFlow"], "not installed").items()
    )
    assert "device" not in report


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """The working directory, with a module that registers a formula under a wrong name."""
    from computemeter.counters.torch_formulas import FORMULAS

    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernels_of_mine.py").write_text("""
import torch, computemeter
torch.library.define("kernels_of_mine::blend", "(Tensor x) -> Tensor")
computemeter.register_formula("kernels_of_mine::blent", lambda x, *, out: 1)
""")
    before = dict(FORMULAS)
    yield
    FORMULAS.clear()
    FORMULAS.update(before)
    sys.modules.pop("kernels_of_mine", None)


def test_a_formula_for_no_operator_is_listed(in_folder):
    lines = lines_of(invoke("--import", "kernels_of_mine", "--ops"))
    assert "kernels_of_mine::blent (kernels_of_mine::blend)" in lines
    assert "kernels_of_mine::blend uncounted" in lines
    report = json.loads(invoke("--json").stdout)
    assert report["misnamed_formulas"] == {"kernels_of_mine::blent": ["kernels_of_mine::blend"]}


def test_without_formulas_of_ones_own_nothing_is_said_of_them(machine):
    assert not any(line.startswith("formulas") for line in lines_of(invoke()))
    assert json.loads(invoke("--json").stdout)["misnamed_formulas"] == {}


def test_a_module_that_cannot_be_imported_is_told_in_one_line():
    done = invoke("--import", "no_such_module")
    assert done.exit_code == 1
    assert done.stderr == (
        "computemeter: --import no_such_module: ModuleNotFoundError: No module named "
        "'no_such_module'\n"
    )


@pytest.mark.parametrize("option", ["--measure", "--ops"])
def test_what_needs_torch_says_what_to_install(option):
    done = without_torch("--devices", option)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("pip install 'computemeter[torch]'\n")
    assert len(done.stderr.splitlines()) == 1
