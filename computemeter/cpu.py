"""The CPU as one device: cores x clock x FLOP per core and cycle.

Flags and names in `/proc/cpuinfo` say which instruction set a processor has, family and model how
many units execute it. Where they do not decide, the CPU has no peak and the source says why. The
figure is for all cores this process may use together, so a CPU is always one device.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from computemeter.records import Device

_REMEDY = "pass peak_flops= (dense FLOP/s of the cores in use) to ComputeMeter/Meter"


@dataclass(frozen=True, slots=True)
class Rate:
    """What one core does in one cycle at best, in FLOP (a multiply-add is 2)."""

    label: str
    fp64: int
    fp32: int
    bf16: int | None = None
    int8: int | None = None


# From the optimisation manuals of Intel, AMD and Arm: units x lanes x 2 for a multiply-add. "2 FMA
# units" of 512 bits in fp32: 2 x 16 x 2 = 64.
SSE2 = Rate("SSE2", 4, 8)
AVX = Rate("AVX without FMA", 8, 16)
AVX2_NARROW = Rate("AVX2 on 128-bit units", 8, 16)
AVX2 = Rate("AVX2, 2 FMA units", 16, 32)
AVX512_ONE = Rate("AVX-512, 1 FMA unit", 16, 32)
AVX512_TWO = Rate("AVX-512, 2 FMA units", 32, 64)
AVX512_ZEN4 = Rate("AVX-512 on 256-bit units", 16, 32, bf16=64, int8=128)
NEON_TWO = Rate("NEON, 2 FMA units", 8, 16)
NEON_FOUR = Rate("NEON, 4 FMA units", 16, 32)
SVE512_TWO = Rate("SVE 512-bit, 2 FMA units", 32, 64)

# What flags add to two AVX-512 units, and to four NEON units, the widest last.
_WITH_TWO_UNITS: Mapping[str, Mapping[str, Any]] = {
    "avx512_vnni": {"int8": 256},
    "avx512_bf16": {"bf16": 128},
    "amx_bf16": {"bf16": 2048},
    "amx_int8": {"int8": 4096},
}
_WITH_FOUR_NEON: Mapping[str, Mapping[str, Any]] = {"bf16": {"bf16": 128}, "i8mm": {"int8": 256}}

_GRACEMONT_AND_LATER = frozenset({175, 182, 190})  # efficiency cores only: 128-bit units
_INTEL_TWO_UNITS = frozenset({106, 143, 173, 174, 207})  # Ice Lake-SP ... Granite Rapids
_INTEL_ONE_UNIT = frozenset({102, 125, 126, 140, 141, 167})  # client: Cannon ... Rocket Lake
_SKYLAKE_SERVER = 85  # also Cascade and Cooper Lake: the number of units depends on the name
_TWO_UNITS = re.compile(r"Platinum|Gold (6|53|5[12]22)|W-\d\d[1-9]|Core\(TM\)", re.IGNORECASE)
_ONE_UNIT = re.compile(r"Silver|Bronze|Gold 5|W-\d\d0", re.IGNORECASE)

# (implementer, part) of Arm's MIDR register.
_ARM: Mapping[tuple[str, int], tuple[str, Rate]] = {
    ("0x41", 0xD0B): ("Arm Cortex-A76", NEON_TWO),
    ("0x41", 0xD0C): ("Arm Neoverse N1", NEON_TWO),
    ("0x41", 0xD40): ("Arm Neoverse V1", NEON_FOUR),
    ("0x41", 0xD4F): ("Arm Neoverse V2", NEON_FOUR),
    ("0x46", 0x001): ("Fujitsu A64FX", SVE512_TWO),
}

# A virtual machine is told the base clock of its host and runs at the all-core turbo, often 1.5
# times that. GHz by vendor, family and model, as Amazon EC2 states it for its instances (C5, C6i,
# M7i, I7i, M8i; C5a, C6a, C7a, C8a) and, for Haswell and Broadwell, Google Compute Engine.
_ALL_CORE_TURBO: Mapping[tuple[str, int, int], float] = {
    ("GenuineIntel", 6, 63): 2.8,  # Haswell
    ("GenuineIntel", 6, 79): 2.8,  # Broadwell
    ("GenuineIntel", 6, 85): 3.6,  # Skylake, Cascade Lake
    ("GenuineIntel", 6, 106): 3.5,  # Ice Lake
    ("GenuineIntel", 6, 143): 3.2,  # Sapphire Rapids
    ("GenuineIntel", 6, 207): 3.2,  # Emerald Rapids
    ("GenuineIntel", 6, 173): 3.9,  # Granite Rapids
    ("AuthenticAMD", 23, 49): 3.3,  # Rome
    ("AuthenticAMD", 25, 1): 3.6,  # Milan
    ("AuthenticAMD", 25, 17): 3.7,  # Genoa
    ("AuthenticAMD", 26, 2): 4.5,  # Turin
}


class UnknownCPUError(Exception):
    """There is no peak; the message says why. It never leaves this module's `cpu_device`."""


@dataclass(frozen=True, slots=True)
class Processor:
    """What an operating system says of a processor.

    Attributes:
        vendor: "GenuineIntel", "AuthenticAMD", ... or the implementer of an Arm core ("0x41").
        family: x86 family; 0 on Arm.
        model: x86 model, or the part of an Arm core.
        name: as it calls itself.
        flags: instruction sets and the like ("avx512f").
        clock_ghz: the clock it states: nominal on a virtual machine, else that of the moment.
    """

    vendor: str = ""
    family: int = 0
    model: int = 0
    name: str = ""
    flags: frozenset[str] = frozenset()
    clock_ghz: float | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock in GHz, and a note where it is not simply what the machine states."""

    ghz: float
    note: str = ""


def cpu_device(threads: int | None = None) -> Device:
    """Return the CPU, as much of it as this process may use.

    The clock is the highest that can be read: a peak is what cannot be exceeded, and at the nominal
    clock a matrix product in turbo would come out above it.

    Args:
        threads: threads the framework computes with; None: as many as there are cores.

    Returns:
        A device of kind "cpu" with peaks for "fp64" and "fp32", and for "bf16" and "int8" where the
        instruction set has them. `source` shows the product, or why there are no peaks: nothing is
        raised.
    """
    name = platform.machine() or "cpu"
    try:
        if platform.system() != "Linux":
            return _without_peak(_brand() or name, "its physical cores are read on Linux only")
        return linux_cpu(Path("/"), os.sched_getaffinity(0), threads)
    except Exception as error:  # noqa: BLE001 - a meter without a peak still counts
        return _without_peak(name, f"the processor could not be read ({error!r})")


def linux_cpu(root: Path, affinity: Collection[int], threads: int | None = None) -> Device:
    """Return the CPU that `proc` and `sys` under `root` describe.

    Args:
        root: where the two are mounted; "/" but in tests.
        affinity: logical CPUs the process may run on.
        threads: threads the framework computes with; None: no limit.

    Raises:
        OSError: there is no `proc/cpuinfo`.
    """
    processor = parse_cpuinfo((root / "proc/cpuinfo").read_text("utf-8"))
    devices = root / "sys/devices"
    try:
        rate = _flop_per_cycle_of_all(processor, devices)
        clock = best_clock(processor, _read(devices / "system/cpu/cpu0/cpufreq/cpuinfo_max_freq"))
    except UnknownCPUError as reason:
        return _without_peak(processor.name, str(reason))
    physical = physical_cores(devices / "system/cpu", affinity)
    quota = cpu_quota(_read(root / "proc/self/cgroup") or "", root / "sys/fs/cgroup")
    cores = min(limit for limit in (physical, quota, threads) if limit)
    return _device(processor, cores, clock, rate)


def parse_cpuinfo(text: str) -> Processor:
    """Read the first processor of a `/proc/cpuinfo`."""
    # Keys end in tabs; a processor ends at an empty line.
    pairs = (line.partition(":") for line in text.strip().partition("\n\n")[0].splitlines())
    info = {key.strip(): value.strip() for key, _, value in pairs}
    if "CPU implementer" in info:
        return _arm(info)
    mhz = info.get("cpu MHz")
    return Processor(
        vendor=info.get("vendor_id", ""),
        family=_number(info.get("cpu family")),
        model=_number(info.get("model")),
        name=info.get("model name") or platform.machine(),
        flags=frozenset(info.get("flags", "").split()),
        clock_ghz=float(mhz) / 1000 if mhz else None,
    )


def flop_per_cycle(processor: Processor) -> Rate:
    """Return what one core of this processor does in a cycle.

    Raises:
        UnknownCPUError: flags, family, model and name do not decide it.
    """
    match processor.vendor, processor.family:
        case "GenuineIntel", 6:
            return _intel(processor)
        case "AuthenticAMD", 23 | 25 | 26:
            return _amd(processor)
        case vendor, 0 if (vendor, processor.model) in _ARM:
            return _extended(_ARM[vendor, processor.model][1], processor)
    raise UnknownCPUError("its FLOP per cycle are not known")


def best_clock(processor: Processor, cpuinfo_max_freq: str | None) -> Clock:
    """Return the highest clock the processor can hold, as far as it can be known.

    That is the kernel's `cpuinfo_max_freq` (in kHz; one core's turbo, so a little above what all
    cores hold with wide vectors). A virtual machine has none: there, the published all-core turbo
    of the generation, if that is above the clock it states.

    Raises:
        UnknownCPUError: no clock is stated anywhere.
    """
    if cpuinfo_max_freq:
        return Clock(int(cpuinfo_max_freq) / 1e6)
    nominal = _nominal_ghz(processor)
    if nominal is None:
        raise UnknownCPUError("its clock cannot be read")
    turbo = _ALL_CORE_TURBO.get((processor.vendor, processor.family, processor.model), 0.0)
    if turbo > nominal:
        return Clock(turbo, f"all-core turbo of this generation, {nominal:.2f} GHz nominal")
    return Clock(nominal, "nominal clock, turbo can be above it")


def physical_cores(cpus: Path, affinity: Collection[int]) -> int:
    """Return how many cores these logical CPUs are on.

    Two hyperthreads of a core share its units and count once. A CPU without a topology counts as a
    core of its own.

    Args:
        cpus: `/sys/devices/system/cpu`.
        affinity: numbers of logical CPUs.
    """
    siblings = (_read(cpus / f"cpu{cpu}/topology/thread_siblings_list") for cpu in affinity)
    return len({shared or f"cpu{cpu}" for cpu, shared in zip(affinity, siblings, strict=True)})


def cpu_quota(proc_self_cgroup: str, cgroups: Path) -> float | None:
    """Return the CPUs that control groups grant this process, None where there is no limit.

    The tightest of its own group and those above it, version 1 or 2.

    Args:
        proc_self_cgroup: text of `/proc/self/cgroup`.
        cgroups: `/sys/fs/cgroup`.
    """
    quotas = []
    for line in proc_self_cgroup.splitlines():
        number, controllers, group = line.split(":", 2)
        if number == "0" or "cpu" in controllers.split(","):
            # In a container the path may be the host's and the mount the container's own group:
            # what does not exist is skipped, and the walk ends at the mount.
            mount = cgroups / controllers
            groups = [PurePosixPath(group.lstrip("/")), *PurePosixPath(group.lstrip("/")).parents]
            quotas += [quota for path in groups if (quota := _quota_of(mount / path))]
    return min(quotas, default=None)


def _quota_of(group: Path) -> float | None:
    v2 = _read(group / "cpu.max")
    v1 = (_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))
    quota, period = v2.split() if v2 else v1
    # Unlimited is "max" in version 2, -1 in version 1.
    if not quota or not period or quota in {"max", "-1"}:
        return None
    return int(quota) / int(period)


def _number(text: str | None) -> int:
    # POWER and others put a name where x86 has a number.
    return int(text) if text and text.isdigit() else 0


def _flop_per_cycle_of_all(processor: Processor, devices: Path) -> Rate:
    # The kernel shows efficiency cores as a second kind of CPU.
    if (devices / "cpu_atom").exists():
        raise UnknownCPUError("its performance and efficiency cores differ in clock and width")
    return flop_per_cycle(processor)


def _arm(info: Mapping[str, str]) -> Processor:
    vendor, part = info["CPU implementer"], int(info.get("CPU part", "0"), 16)
    name, _ = _ARM.get((vendor, part), (f"Arm CPU, implementer {vendor}, part {part:#x}", None))
    return Processor(vendor, 0, part, name, frozenset(info.get("Features", "").split()))


def _intel(processor: Processor) -> Rate:
    flags = processor.flags
    if "avx512f" in flags:
        two = _has_two_units(processor)
        return _extended(AVX512_TWO, processor) if two else AVX512_ONE
    if {"avx2", "fma"} <= flags:
        return AVX2_NARROW if processor.model in _GRACEMONT_AND_LATER else AVX2
    return AVX if "avx" in flags else SSE2


def _has_two_units(processor: Processor) -> bool:
    """Say whether an Intel processor has two AVX-512 FMA units; no flag does.

    After the "# of AVX-512 FMA Units" that Intel lists per processor.
    """
    by_name = processor.model == _SKYLAKE_SERVER
    if processor.model in _INTEL_TWO_UNITS or (by_name and _TWO_UNITS.search(processor.name)):
        return True
    if processor.model in _INTEL_ONE_UNIT or (by_name and _ONE_UNIT.search(processor.name)):
        return False
    raise UnknownCPUError("it may have one or two AVX-512 units")


def _amd(processor: Processor) -> Rate:
    if not {"avx2", "fma"} <= processor.flags:
        raise UnknownCPUError("AVX2 is hidden from this machine")
    if processor.family == 23 and processor.model < 0x30:  # Zen and Zen+
        return AVX2_NARROW
    if "avx512f" not in processor.flags:
        return AVX2
    return AVX512_ZEN4 if processor.family == 25 else _zen5(processor)


def _zen5(processor: Processor) -> Rate:
    # Servers (models 0x00-0x1f) and desktops (0x40-0x4f) have 512-bit units, some laptops 256.
    if processor.model >> 4 in {0x0, 0x1, 0x4}:
        return _extended(AVX512_TWO, processor)
    raise UnknownCPUError("its AVX-512 units may be 256 or 512 bits wide")


def _extended(rate: Rate, processor: Processor) -> Rate:
    added = {AVX512_TWO: _WITH_TWO_UNITS, NEON_FOUR: _WITH_FOUR_NEON}.get(rate, {})
    for flag, figures in added.items():
        if flag in processor.flags:
            rate = replace(rate, **figures)
    return rate


def _nominal_ghz(processor: Processor) -> float | None:
    stated = re.search(r"@ (\d+\.\d+)GHz", processor.name)
    return float(stated[1]) if stated else processor.clock_ghz


def _device(processor: Processor, cores: float, clock: Clock, rate: Rate) -> Device:
    per_cycle = {"fp64": rate.fp64, "fp32": rate.fp32, "bf16": rate.bf16, "int8": rate.int8}
    peaks = {
        precision: cores * clock.ghz * 1e9 * flop for precision, flop in per_cycle.items() if flop
    }
    return Device(processor.name, "cpu", peaks, _source(processor, cores, clock, rate))


def _source(processor: Processor, cores: float, clock: Clock, rate: Rate) -> str:
    plural = "core" if cores == 1 else "cores"
    product = f"{cores:g} {plural} x {clock.ghz:.2f} GHz x {rate.fp32} FLOP/cycle ({rate.label})"
    # A hypervisor need not say that two of its CPUs are one core.
    virtual = "cores as the virtual machine shows them" if "hypervisor" in processor.flags else ""
    wide = f"bf16 {rate.bf16} FLOP/cycle" if rate.bf16 else ""
    return "; ".join(filter(None, (product, wide, clock.note, virtual)))


def _without_peak(name: str, reason: str) -> Device:
    return Device(name, "cpu", {}, f"no peak for {name}: {reason}; {_REMEDY}")


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return None


@cache
def _brand() -> str | None:
    """Return the processor's name where there is no `/proc/cpuinfo`; about a second."""
    import cpuinfo

    brand = cpuinfo.get_cpu_info().get("brand_raw")
    return str(brand) if brand else None
