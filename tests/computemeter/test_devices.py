"""What torch reports, turned into a device with peaks; torch's answers are faked."""

import csv
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from computemeter import peak_files
from computemeter.cpu import cpu_device
from computemeter.devices import (
    find_entry,
    jax_device,
    named_device,
    tensorflow_device,
    torch_device,
    with_peak,
)
from computemeter.peak_files import PeakFile
from computemeter.peak_table import PRECISIONS
from computemeter.peaks import load_table
from computemeter.records import Device

torch = pytest.importorskip("torch")

# The collected figures the table was made from; they lie beside a developer's checkout.
CSV = Path(__file__).parents[2].parent / "shared/data/peaks.csv"
# Where a chip has two rates for one precision, the first column is the one contractions run at.
COLUMNS = {
    "fp64": ("fp64_tensor", "fp64"),
    "fp32": ("fp32",),
    "tf32": ("tf32",),
    "fp16": ("fp16_tensor", "fp16_vector"),
    "bf16": ("bf16_tensor",),
    "fp8": ("fp8_tensor",),
    "fp4": ("fp4_tensor",),
    "int8": ("int8_tensor",),
}
OWN = """[[device]]
name = "My L4"
aliases = ["NVIDIA L4", "Mystery 1"]
tflops = { bf16 = 100, fp32 = 20 }
source = "measured by me"
confidence = "medium"
"""


@pytest.fixture(autouse=True)
def no_files_of_the_developers(monkeypatch, tmp_path):
    monkeypatch.delenv("COMPUTEMETER_PEAKS", raising=False)
    monkeypatch.setattr(peak_files, "config_file", lambda: tmp_path / "none.toml")
    peak_files._warn_once.cache_clear()


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "my_peaks.toml"
    path.write_text(OWN)
    return path


@pytest.fixture
def gpu_named(monkeypatch):
    """Make torch report a GPU under a name, remembering which device it was asked about."""
    asked = []

    def install(name, backend="cuda"):
        def get_device_name(device=None):
            asked.append(str(device))
            return name

        monkeypatch.setattr(getattr(torch, backend), "get_device_name", get_device_name)
        return asked

    return install


def test_a_gpu_is_looked_up_by_the_name_torch_reports(gpu_named):
    asked = gpu_named("NVIDIA A100-SXM4-80GB")
    device = torch_device("cuda:1")
    assert asked == ["cuda:1"]
    assert (device.name, device.kind) == ("NVIDIA A100-SXM4-80GB", "cuda")
    assert device.peaks["bf16"] == 312e12
    assert device.source.startswith("A100 SXM4 80GB: NVIDIA A100 datasheet")
    assert device.source.endswith("(high confidence)")


def test_a_die_of_an_amd_board_has_half_of_it(gpu_named):
    gpu_named("AMD Instinct MI250X")
    device = torch_device(torch.device("cuda"))
    assert device.kind == "cuda"
    assert device.peaks["bf16"] == pytest.approx(191.5e12)  # 383 / 2
    assert device.source.startswith("Instinct MI250X, 1 of 2 devices: ")


def test_a_mig_slice_says_what_part_it_is(gpu_named):
    gpu_named("NVIDIA A100-SXM4-40GB MIG 1g.5gb")
    device = torch_device("cuda")
    assert device.peaks["bf16"] == pytest.approx(312e12 / 7)
    assert "1 of 7 compute slices" in device.source


def test_an_intel_gpu_is_looked_up_too(gpu_named):
    gpu_named("Intel(R) Data Center GPU Max 1100", "xpu")
    device = torch_device("xpu")
    assert device.kind == "xpu"
    assert device.peaks["bf16"] == pytest.approx(352e12)


def test_an_unknown_gpu_has_no_peak_and_a_remedy(gpu_named):
    gpu_named("NVIDIA H100")
    device = torch_device("cuda")
    assert (device.name, device.peaks) == ("NVIDIA H100", {})
    assert "ambiguous" in device.source
    assert "pass peak_flops=" in device.source


def test_without_a_device_it_is_the_accelerator_torch_would_use(gpu_named, monkeypatch):
    gpu_named("NVIDIA L4")
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda")
    )
    assert torch_device().peaks["bf16"] == pytest.approx(121e12)


def test_without_an_accelerator_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)
    assert torch_device() == cpu_device(torch.get_num_threads())


def test_the_cpu_counts_the_threads_torch_uses(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert torch_device("cpu") == cpu_device(1)


def test_apples_gpu_goes_by_the_name_of_its_chip(monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="Apple M2 Pro\n")
    )
    device = torch_device("mps")
    assert (device.name, device.kind) == ("Apple M2 Pro", "mps")
    assert device.peaks == {"fp32": pytest.approx(6.8e12), "fp16": pytest.approx(6.8e12)}


def test_a_mac_that_does_not_answer_has_no_peak(monkeypatch):
    def silent(*_, **__):
        raise subprocess.TimeoutExpired("sysctl", 2)

    monkeypatch.setattr(subprocess, "run", silent)
    device = torch_device("mps")
    assert (device.name, device.kind, device.peaks) == ("mps", "mps", {})
    assert "could not be asked" in device.source


def test_a_broken_driver_does_not_raise(monkeypatch):
    def broken(_device):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch.cuda, "get_device_name", broken)
    device = torch_device("cuda:0")
    assert (device.name, device.kind, device.peaks) == ("cuda:0", "cuda", {})
    assert "CUDA error" in device.source
    assert "pass peak_flops=" in device.source


@pytest.mark.parametrize(
    ("asked", "kind"), [("meta", "meta"), ("no such device", "no such device")]
)
def test_any_other_device_has_no_peak(asked, kind):
    device = torch_device(asked)
    assert (device.kind, device.peaks) == (kind, {})
    assert "pass peak_flops=" in device.source


def test_a_name_from_another_framework_is_looked_up_the_same_way():
    device = named_device("TPU v5 lite", "tpu")
    assert device.kind == "tpu"
    assert device.peaks["bf16"] == pytest.approx(197e12)


def test_the_users_peak_holds_at_every_precision():
    known = Device("NVIDIA L4", "cuda", {"bf16": 121e12}, "the table")
    device = with_peak(known, 60e12)
    assert (device.name, device.kind) == ("NVIDIA L4", "cuda")
    assert device.peaks == dict.fromkeys(PRECISIONS, 60e12)
    assert device.source == "peak_flops=6e+13 given by the user"


@pytest.fixture
def frameworks_report(gpu_named, monkeypatch):
    """Make torch, JAX and TensorFlow report a name; return the devices they are taken for."""

    def report(name, kind):
        gpu_named(name)
        chip = SimpleNamespace(platform=kind, device_kind=name)
        monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(local_devices=lambda: [chip]))
        config = SimpleNamespace(
            list_physical_devices=lambda kind: [SimpleNamespace(name="/gpu:0", device_type=kind)],
            experimental=SimpleNamespace(get_device_details=lambda _: {"device_name": name}),
        )
        monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(config=config))
        return [torch_device("cuda"), jax_device(), tensorflow_device()]

    return report


@pytest.mark.parametrize("entry", load_table(), ids=lambda entry: entry.name)
def test_every_alias_has_the_collected_peaks_in_every_framework(entry, frameworks_report):
    if not CSV.exists():
        pytest.skip("the collected figures are not beside this checkout")
    with CSV.open(encoding="utf-8") as lines:
        (row,) = (row for row in csv.DictReader(lines) if row["name"] == entry.name)
    board = {
        precision: next((float(row[column]) for column in columns if row[column]), None)
        for precision, columns in COLUMNS.items()
    }
    each = {
        precision: pytest.approx(tflops * 1e12 / int(row["runtime_devices"]))
        for precision, tflops in board.items()
        if tflops
    }
    for alias in filter(None, row["aliases"].split(";")):
        for device in frameworks_report(alias, "gpu"):
            assert (device.name, device.kind, device.peaks) == (alias, "cuda", each)
            assert device.source.endswith(f"({row['confidence']} confidence)")


def test_frameworks_with_a_gpu_under_an_ambiguous_name_have_no_peak(frameworks_report):
    for device in frameworks_report("NVIDIA H100", "cuda"):
        assert device.peaks == {}
        assert "ambiguous" in device.source


def test_a_tpu_is_what_jax_calls_it(frameworks_report):
    _, tpu, _ = frameworks_report("TPU v6 lite", "tpu")
    assert (tpu.kind, tpu.peaks["bf16"]) == ("tpu", 918e12)


# A file of the user's own.


def test_a_row_of_the_users_file_wins(own_file, monkeypatch, gpu_named):
    gpu_named("NVIDIA L4")
    assert torch_device("cuda").peaks["bf16"] == 121e12
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(own_file))
    device = torch_device("cuda")
    assert device.peaks == {"bf16": 100e12, "fp32": 20e12}
    assert device.source == "My L4: my_peaks.toml, measured by me (medium confidence)"
    assert find_entry("NVIDIA L4").name == "My L4"


def test_a_users_file_knows_devices_that_the_table_does_not(own_file, monkeypatch):
    assert named_device("Mystery 1", "cuda").peaks == {}
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(own_file))
    assert named_device("Mystery 1", "cuda").peaks["fp32"] == 20e12
    assert named_device("NVIDIA L40S", "cuda").peaks["bf16"] == 362.05e12
    assert find_entry("NVIDIA L40S").name == "L40S"
    assert find_entry("Mystery 2") is None


def test_a_users_file_can_name_the_cpu(tmp_path, monkeypatch):
    path = tmp_path / "cpu.toml"
    name = cpu_device().name
    path.write_text(f'[[device]]\nname = "mine"\naliases = ["{name}"]\ntflops = {{ fp32 = 2 }}\n')
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(path))
    assert torch_device("cpu") == Device(name, "cpu", {"fp32": 2e12}, "mine: cpu.toml")


def test_a_damaged_file_of_the_users_leaves_the_table_and_says_so(tmp_path, monkeypatch, caplog):
    path = tmp_path / "damaged.toml"
    path.write_text("[[device]\n")
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(path))
    devices = [named_device("NVIDIA L4", "cuda") for _ in range(2)]
    assert [device.peaks["bf16"] for device in devices] == [121e12] * 2
    for device in devices:
        assert "; COMPUTEMETER_PEAKS: damaged.toml is not used: Expected" in device.source
    (warning,) = caplog.messages  # once, not once a device
    assert "damaged.toml is not used" in warning


def test_peak_flops_may_be_a_file(own_file, monkeypatch):
    # What the environment names gives way to it.
    other = own_file.with_name("other.toml")
    other.write_text(OWN.replace("bf16 = 100", "bf16 = 7"))
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(other))
    found = named_device("NVIDIA L4", "cuda")
    assert found.peaks["bf16"] == 7e12
    for peak_flops in (str(own_file), own_file, PeakFile.read(own_file)):
        device = with_peak(found, peak_flops)
        assert (device.name, device.kind, device.peaks["bf16"]) == ("NVIDIA L4", "cuda", 100e12)
        assert device.source.startswith("My L4: my_peaks.toml")


def test_a_device_that_the_file_lacks_stays_as_it_is(own_file):
    known = Device("NVIDIA A40", "cuda", {"bf16": 149.7e12}, "the table")
    device = with_peak(known, own_file)
    assert device.peaks == known.peaks
    assert device.source == 'the table; my_peaks.toml has no alias "NVIDIA A40"'
