"""The device a run trains on, with its peaks: what a framework reports, looked up.

Nothing here raises: a device that is not known, or cannot be asked, has empty peaks and a `source`
that says why, and the meter goes on without method 2.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from computemeter.cpu import cpu_device
from computemeter.peaks import PRECISIONS, REMEDY, PeakEntry, explain_unknown, lookup
from computemeter.records import Device

if TYPE_CHECKING:
    import torch


def torch_device(device: torch.device | str | None = None) -> Device:
    """Return what torch reports for a device, with its peaks.

    AMD's GPUs are "cuda" in torch too. An accelerator is one device of a board, a CPU all the cores
    torch may use.

    Args:
        device: None: the accelerator torch would use, the CPU if there is none.
    """
    try:
        return _torch_device(device)
    except Exception as error:  # noqa: BLE001 - a meter without a peak still counts
        return _unasked("torch", device, error)


def jax_device(device: Any = None) -> Device:
    """Return what JAX reports for a device, with its peaks.

    Args:
        device: a `jax.Device`; None: the first one that JAX uses.
    """
    try:
        return _jax_device(device)
    except Exception as error:  # noqa: BLE001 - a meter without a peak still counts
        return _unasked("JAX", device, error)


def tensorflow_device() -> Device:
    """Return the device that TensorFlow trains on, with its peaks: a GPU where it sees one."""
    try:
        return _tensorflow_device()
    except Exception as error:  # noqa: BLE001 - a meter without a peak still counts
        return _unasked("TensorFlow", None, error)


def named_device(name: str, kind: str) -> Device:
    """Return the device that a framework reports as `name`, with its peaks from the table.

    Args:
        name: as the framework reports it ("NVIDIA H100 80GB HBM3").
        kind: "cuda", "mps", "xpu" or "tpu".
    """
    entry = lookup(name)
    if entry is None:
        return Device(name, kind, {}, explain_unknown(name))
    return Device(name, kind, entry.peaks, _source(entry))


def with_peak(device: Device, peak_flops: float) -> Device:
    """Return the device with the user's peak in FLOP/s, at every precision.

    Whoever passes one figure means it for the run at hand, whatever its mix of precisions.
    """
    source = f"peak_flops={peak_flops:.6g} given by the user"
    return replace(device, peaks=dict.fromkeys(PRECISIONS, float(peak_flops)), source=source)


def _torch_device(device: torch.device | str | None) -> Device:
    import torch

    chosen = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    target = torch.device(chosen)
    match target.type:
        case "cpu":
            return cpu_device(torch.get_num_threads())
        case "cuda":
            return named_device(torch.cuda.get_device_name(target), "cuda")
        case "xpu":
            return named_device(torch.xpu.get_device_name(target), "xpu")
        case "mps":
            return named_device(_apple_chip(), "mps")
    return Device(str(target), target.type, {}, f"{target.type} devices have no peak; {REMEDY}")


def _jax_device(device: Any) -> Device:
    import jax

    chosen = device or jax.local_devices()[0]
    if chosen.platform == "cpu":
        return cpu_device()
    kind = "cuda" if chosen.platform in {"gpu", "cuda", "rocm"} else chosen.platform
    return named_device(chosen.device_kind, kind)


def _tensorflow_device() -> Device:
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        return named_device(str(details.get("device_name", device.name)), "cuda")
    return cpu_device(tf.config.threading.get_intra_op_parallelism_threads() or None)


def _unasked(framework: str, device: Any, error: Exception) -> Device:
    name = str(device or "unknown")
    reason = f"{framework} could not be asked about {name} ({error!r}); {REMEDY}"
    return Device(name, name.partition(":")[0], {}, reason)


def _apple_chip() -> str:
    # Metal does not name its device; the GPU is part of the chip, which does have a name.
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)  # noqa: S603 - a constant
    return run.stdout.strip()


def _source(entry: PeakEntry) -> str:
    share = f", 1 of {entry.devices_per_board} devices" if entry.devices_per_board > 1 else ""
    return f"{entry.name}{share}: {entry.source} ({entry.confidence} confidence)"
