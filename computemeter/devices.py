"""The device a run trains on, with its peaks: what a framework reports, looked up.

Nothing here raises: a device that is not known, or cannot be asked, has empty peaks and a `source`
that says why, and the meter goes on without method 2. A row of the user's own file
(`computemeter.peak_files`) wins over the project's table, and over what a CPU says of itself.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from computemeter.cpu import cpu_device
from computemeter.peak_files import PeakFile, user_file
from computemeter.peak_table import PRECISIONS, PeakEntry
from computemeter.peaks import REMEDY, explain_unknown, lookup
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


def tensorflow_device(device: Any = None) -> Device:
    """Return what TensorFlow reports for a device, with its peaks.

    Args:
        device: a `tf.config.PhysicalDevice`; None: the one it trains on, a GPU where it sees one.
    """
    try:
        return _tensorflow_device(device)
    except Exception as error:  # noqa: BLE001 - a meter without a peak still counts
        return _unasked("TensorFlow", device, error)


def named_device(name: str, kind: str) -> Device:
    """Return the device that a framework reports as `name`, with its peaks from the tables.

    Args:
        name: as the framework reports it ("NVIDIA H100 80GB HBM3").
        kind: "cuda", "mps", "xpu" or "tpu".
    """
    entry = lookup(name)
    unknown = Device(name, kind, {}, explain_unknown(name) if entry is None else "")
    return _with_users_row(unknown if entry is None else _with_entry(unknown, entry))


def find_entry(name: str) -> PeakEntry | None:
    """Return the row that gives the device its peaks: the user's, else the project's, else None."""
    file, _ = user_file()
    return (file.find(name) if file else None) or lookup(name)


def with_peak(device: Device, peak_flops: float | str | Path | PeakFile) -> Device:
    """Return the device with the user's peak.

    Args:
        device: as it was found.
        peak_flops: FLOP/s, at every precision: whoever passes one figure means it for the run at
            hand, whatever its mix of precisions. Or a file of peaks: a device that it has no row
            for stays as it is, and `source` says so.

    Raises:
        OSError: the file cannot be read; never for a `PeakFile`.
        ValueError: the file is no table of peaks; never for a `PeakFile`.
    """
    if isinstance(peak_flops, str | Path):
        peak_flops = PeakFile.read(peak_flops)
    if isinstance(peak_flops, PeakFile):
        entry = peak_flops.find(device.name)
        return _with_entry(device, entry) if entry else _without_row(device, peak_flops)
    source = f"peak_flops={peak_flops:.6g} given by the user"
    return replace(device, peaks=dict.fromkeys(PRECISIONS, float(peak_flops)), source=source)


def _with_users_row(device: Device) -> Device:
    file, problem = user_file()
    if file and (entry := file.find(device.name)):
        return _with_entry(device, entry)
    return replace(device, source=f"{device.source}; {problem}") if problem else device


def _with_entry(device: Device, entry: PeakEntry) -> Device:
    return replace(
        device,
        peaks=entry.peaks,
        source=_source(entry),
        bandwidth=entry.bandwidth or device.bandwidth,
    )


def _without_row(device: Device, file: PeakFile) -> Device:
    return replace(device, source=f'{device.source}; {file.name} has no alias "{device.name}"')


def _torch_device(device: torch.device | str | None) -> Device:
    import torch

    chosen = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    target = torch.device(chosen)
    match target.type:
        case "cpu":
            cpu = replace(cpu_device(torch.get_num_threads()), idle_accelerator=_idle_accelerator())
            return _with_users_row(cpu)
        case "cuda":
            return named_device(torch.cuda.get_device_name(target), "cuda")
        case "xpu":
            return named_device(torch.xpu.get_device_name(target), "xpu")
        case "mps":
            return named_device(_apple_chip(), "mps")
    return Device(str(target), target.type, {}, f"{target.type} devices have no peak; {REMEDY}")


def _idle_accelerator() -> str | None:
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type == "cpu":
        return None
    with suppress(Exception):  # a name is worth no failure
        return torch.cuda.get_device_name(found)
    return str(found.type)


def _jax_device(device: Any) -> Device:
    import jax

    chosen = device or jax.local_devices()[0]
    if chosen.platform == "cpu":
        return _with_users_row(cpu_device())
    kind = "cuda" if chosen.platform in {"gpu", "cuda", "rocm"} else chosen.platform
    return named_device(chosen.device_kind, kind)


def _tensorflow_device(device: Any) -> Device:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU") if device is None else []
    chosen = device or next(iter(gpus), None)
    if chosen is not None and chosen.device_type != "CPU":
        details = tf.config.experimental.get_device_details(chosen)
        return named_device(str(details.get("device_name", chosen.name)), "cuda")
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return _with_users_row(cpu_device(threads or None))


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
    confidence = f" ({entry.confidence} confidence)" if entry.confidence else ""
    return f"{entry.name}{share}: {entry.source}{confidence}"
