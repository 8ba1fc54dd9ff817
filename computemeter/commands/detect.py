"""Which devices each installed framework, and the driver, see on this machine.

JAX and TensorFlow are asked in a process of their own: they take memory on a GPU, and a broken
installation can take the process down.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from computemeter.devices import jax_device, named_device, tensorflow_device, torch_device
from computemeter.records import Device

SECONDS_TO_ANSWER = 120
"""How long a framework in a process of its own may take, in seconds."""

# Nothing but what is asked, and none of a GPU's memory.
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
_ASK = "import sys; from computemeter.commands.detect import answer; answer(sys.argv[1])"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a framework, or the driver, said.

    Attributes:
        framework: "PyTorch", "JAX", "TensorFlow" or "NVML".
        devices: the devices it sees; equal ones stand here as often as they are there.
        problem: why it said nothing, "" where it answered.
    """

    framework: str
    devices: tuple[Device, ...] = ()
    problem: str = ""


def ask_all(say: Callable[[str], object]) -> list[Answer]:
    """Ask each framework and the driver; none that fails keeps the others from answering.

    Args:
        say: told what is being done now.
    """
    answers = []
    for framework, (module, ask) in _ASKED.items():
        say(f"asking {framework} for its devices")
        answers.append(_ask_one(framework, module, ask))
    return answers


def _ask_one(framework: str, module: str, ask: Callable[[], list[Device]]) -> Answer:
    try:
        if importlib.util.find_spec(module) is None:
            return Answer(framework, problem="not installed")
        return Answer(framework, tuple(ask()))
    except Exception as error:  # noqa: BLE001 - one framework failing is one line
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return Answer(framework, problem=f"could not be asked: {first}")


def torch_devices() -> list[Device]:
    """Return every device of PyTorch: those of the accelerator it would use, and the CPU."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    kind = accelerator.type if accelerator else ""
    return [*(torch_device(f"{kind}:{number}") for number in range(count)), torch_device("cpu")]


def jax_devices() -> list[Device]:
    """Return every device of this process that JAX uses."""
    import jax

    return [jax_device(device) for device in jax.local_devices()]


def tensorflow_devices() -> list[Device]:
    """Return every GPU that TensorFlow sees, and the CPU."""
    import tensorflow as tf

    physical = tf.config.list_physical_devices
    return [tensorflow_device(device) for kind in ("GPU", "CPU") for device in physical(kind)]


def nvml_devices() -> list[Device]:
    """Return every GPU of NVIDIA's driver; of a partitioned one, its MIG slices."""
    pynvml: Any = importlib.import_module("pynvml")
    pynvml.nvmlInit()
    try:
        return [named_device(name, "cuda") for name in _nvml_names(pynvml)]
    finally:
        pynvml.nvmlShutdown()


def answer(module: str) -> None:
    """Print what a framework sees as JSON in the last line; run in a process of its own."""
    devices = {"jax": jax_devices, "tensorflow": tensorflow_devices}[module]()
    print(json.dumps([asdict(device) for device in devices]))  # noqa: T201 - to the parent process


def _ask_apart(module: str) -> list[Device]:
    try:
        done = _run_apart(module)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {SECONDS_TO_ANSWER} s") from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(last or f"its process ended with {done.returncode}")
    return [Device(**device) for device in json.loads(done.stdout.strip().rpartition("\n")[2])]


def _run_apart(module: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own interpreter and constants
        # -P: a folder `jax` where the command is run must not be taken for JAX.
        [sys.executable, "-P", "-c", _ASK, module],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=SECONDS_TO_ANSWER,
        env={**os.environ, **_QUIET},
    )


def _nvml_names(nvml: Any) -> Iterator[str]:
    for number in range(nvml.nvmlDeviceGetCount()):
        board = nvml.nvmlDeviceGetHandleByIndex(number)
        for handle in _mig_slices(nvml, board) or [board]:
            name = nvml.nvmlDeviceGetName(handle)
            # Before version 11.5 of nvidia-ml-py names were bytes.
            yield name.decode() if isinstance(name, bytes) else name


def _mig_slices(nvml: Any, board: Any) -> list[Any]:
    slices = []
    with suppress(nvml.NVMLError):  # a board that has no MIG, or too old a driver
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(board)):
            with suppress(nvml.NVMLError):  # no slice of this number: there are gaps
                slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, number))
    return slices


_ASKED: dict[str, tuple[str, Callable[[], list[Device]]]] = {
    "PyTorch": ("torch", torch_devices),
    "JAX": ("jax", lambda: _ask_apart("jax")),
    "TensorFlow": ("tensorflow", lambda: _ask_apart("tensorflow")),
    "NVML": ("pynvml", nvml_devices),
}
