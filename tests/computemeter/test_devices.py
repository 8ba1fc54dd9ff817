"""What torch reports, turned into a device with peaks; torch's answers are faked."""

import subprocess
from types import SimpleNamespace

import pytest

from computemeter.cpu import cpu_device
from computemeter.devices import named_device, torch_device, with_peak
from computemeter.peaks import PRECISIONS
from computemeter.records import Device

torch = pytest.importorskip("torch")


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
