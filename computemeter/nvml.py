"""NVIDIA's management library (NVML) through nvidia-ml-py: its GPUs, and which PyTorch's are."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_INSTALL = "pip install nvidia-ml-py"


class UnavailableError(Exception):
    """What NVML cannot tell of this device; the message says why."""


def library(needed: str) -> Any:
    """Return NVML's Python module, initialised; each call wants its `nvmlShutdown`.

    Args:
        needed: a function that the module must have.

    Raises:
        UnavailableError: the module is missing or too old.
        Exception: whatever the module raises where there is no driver.
    """
    try:
        pynvml: Any = import_module("pynvml")
    except ImportError as error:
        raise UnavailableError(f"nvidia-ml-py is not installed: {_INSTALL}") from error
    if not hasattr(pynvml, needed):
        raise UnavailableError(f"this pynvml is too old, it has no {needed}: {_INSTALL}")
    pynvml.nvmlInit()
    return pynvml


def whole_gpu(nvml: Any, uuid: str) -> Any:
    """Return NVML's handle of a GPU of which no part is another's.

    Args:
        nvml: see `library`.
        uuid: see `uuid_of`.

    Raises:
        UnavailableError: it is cut into MIG slices: what is measured on the board is the
            neighbours' too.
        Exception: whatever NVML raises of a device that it does not know.
    """
    if uuid.startswith("MIG-"):
        raise UnavailableError("a MIG slice is not measured")
    device = nvml.nvmlDeviceGetHandleByUUID(uuid)
    if _has_mig(nvml, device):
        raise UnavailableError("the GPU is cut into MIG slices, which are not measured")
    return device


def uuid_of(device: int | str) -> str:
    """Return a device's UUID as NVML writes it ("GPU-...").

    Args:
        device: torch's CUDA index, which CUDA_VISIBLE_DEVICES reorders and is not NVML's; or the
            UUID itself.
    """
    if isinstance(device, str):
        return device
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def _has_mig(nvml: Any, device: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(device)
    except nvml.NVMLError:  # a GPU that knows no MIG
        return False
    return bool(current)
