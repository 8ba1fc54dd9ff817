"""`doctor --devices`: each framework is asked, and one that fails is one line."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from computemeter.commands import detect
from computemeter.commands.detect import Answer, ask_all, nvml_devices, torch_devices
from computemeter.cpu import cpu_device
from computemeter.devices import named_device

torch = pytest.importorskip("torch")


class NVMLError(Exception):
    """What nvidia-ml-py raises."""


def driver(boards, slices=None, error=None):
    """Return a driver with boards of these names, the first cut into slices by number."""
    calls = []

    def start():
        calls.append("init")
        if error:
            raise error

    def most_slices(board):
        if board != boards[0] or not slices:
            raise NVMLError("Not Supported")
        return 7

    def slice_at(_board, number):
        if number not in slices:
            raise NVMLError("Not Found")
        return slices[number]

    return SimpleNamespace(
        NVMLError=NVMLError,
        calls=calls,
        nvmlInit=start,
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: len(boards),
        nvmlDeviceGetHandleByIndex=boards.__getitem__,
        nvmlDeviceGetName=lambda handle: handle,
        nvmlDeviceGetMaxMigDeviceCount=most_slices,
        nvmlDeviceGetMigDeviceHandleByIndex=slice_at,
    )


def test_the_driver_names_boards_and_slices(monkeypatch):
    mig = "NVIDIA A100-SXM4-40GB MIG {}".format
    # Slices 0 and 5: numbers have gaps. The second board is whole, its name bytes as in old
    # versions of nvidia-ml-py.
    fake = driver(
        ["NVIDIA A100-SXM4-40GB", b"NVIDIA L4"], slices={0: mig("3g.20gb"), 5: mig("1g.5gb")}
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    three, one, whole = nvml_devices()
    assert three == named_device("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "cuda")
    assert three.peaks["bf16"] == pytest.approx(312e12 * 3 / 7)
    assert one.peaks["bf16"] == pytest.approx(312e12 / 7)
    assert (whole.name, whole.peaks["bf16"]) == ("NVIDIA L4", 121e12)
    assert fake.calls == ["init", "shutdown"]


def test_torch_lists_every_accelerator_and_the_cpu(monkeypatch):
    names = ["NVIDIA L4", "NVIDIA A10G"]
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda")
    )
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    assert [device.name for device in torch_devices()] == [*names, cpu_device().name]


def test_jax_is_asked_in_a_process_of_its_own():
    pytest.importorskip("jax")
    (device, *_) = detect._ask_apart("jax")
    assert device.kind != "cpu" or device.name == cpu_device().name
    assert device.source


@pytest.mark.slow
def test_tensorflow_is_asked_in_a_process_of_its_own():
    pytest.importorskip("tensorflow")
    assert cpu_device().name in {device.name for device in detect._ask_apart("tensorflow")}


@pytest.fixture
def broken_jax(tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise ImportError('libtpu is too old')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_frameworks_that_fail_are_a_line_each(monkeypatch, broken_jax):
    asked = {
        "PyTorch": ("torch", lambda: [cpu_device()]),
        "JAX": ("sys", lambda: detect._ask_apart("jax")),
        "TensorFlow": ("no_such_framework", list),
        "NVML": ("sys", nvml_devices),
    }
    monkeypatch.setattr(detect, "_ASKED", asked)
    fake = driver([], error=NVMLError("Driver Not Loaded\nsecond line"))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    said = []
    assert ask_all(said.append) == [
        Answer("PyTorch", (cpu_device(),)),
        Answer("JAX", problem="could not be asked: ImportError: libtpu is too old"),
        Answer("TensorFlow", problem="not installed"),
        Answer("NVML", problem="could not be asked: Driver Not Loaded"),
    ]
    assert said == [f"asking {name} for its devices" for name in asked]


def test_a_framework_that_hangs_is_given_up(monkeypatch):
    def hang(*_, **options):
        raise subprocess.TimeoutExpired("python", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(RuntimeError, match="no answer within 120 s"):
        detect._ask_apart("jax")


def test_a_process_that_dies_without_a_word_is_told_by_its_code(monkeypatch):
    dead = SimpleNamespace(returncode=-11, stderr="", stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: dead)
    with pytest.raises(RuntimeError, match="its process ended with -11"):
        detect._ask_apart("jax")
