"""The device a run trains on, with its peaks: what a framework reports, looked up.

Nothing here raises: a device that is not known, or cannot be asked, has empty peaks and a `source`
that says why, and the meter goes on without method 2.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

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
        name = str(device or "unknown")
        reason = f"torch could not be asked about {name} ({error!r}); {REMEDY}"
        return Device(name, name.partition(":")[0], {}, reason)


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


def _apple_chip() -> str:
    # Metal does not name its device; the GPU is part of the chip, which does have a name.
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True)  # noqa: S603 - a constant
    return run.stdout.strip()


def _source(entry: PeakEntry) -> str:
    share = f", 1 of {entry.devices_per_board} devices" if entry.devices_per_board > 1 else ""
    return f"{entry.name}{share}: {entry.source} ({entry.confidence} confidence)"
