"""Peaks of CPUs, from fake `/proc` and `/sys` trees; every product worked out in a comment."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from computemeter import cpu
from computemeter.cpu import cpu_device, cpu_quota, linux_cpu, parse_cpuinfo, physical_cores

CSV = Path(__file__).parents[2].parent / "shared/data/cpu_flop_per_cycle.csv"

AVX2_FLAGS = "fpu sse2 avx fma avx2"
AVX512_FLAGS = f"{AVX2_FLAGS} avx512f avx512bw"
SAPPHIRE_FLAGS = f"{AVX512_FLAGS} avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8"


def x86(name, model, flags, *, vendor="GenuineIntel", family=6, mhz=2100.0):
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: {name}\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n\nprocessor\t: 1\n"
    )


def amd(name, family, model, flags):
    return x86(name, model, flags, vendor="AuthenticAMD", family=family)


def arm(implementer, part, features):
    return (
        f"processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU part\t: {part}\n"
    )


HASWELL = x86("Intel(R) Xeon(R) CPU E5-2680 v3 @ 2.50GHz", 63, AVX2_FLAGS)
EMERALD = x86("Intel(R) Xeon(R) Processor", 207, f"{SAPPHIRE_FLAGS} hypervisor")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(root, cpuinfo, *, siblings=("0", "1"), max_khz=None):
    """Lay out a machine whose logical CPU i shares a core with `siblings[i]`."""
    write(root / "proc/cpuinfo", cpuinfo)
    cpus = root / "sys/devices/system/cpu"
    for number, shared in enumerate(siblings):
        write(cpus / f"cpu{number}/topology/thread_siblings_list", f"{shared}\n")
    if max_khz:
        write(cpus / "cpu0/cpufreq/cpuinfo_max_freq", f"{max_khz}\n")
    return root


def measure(root, cpuinfo, **layout):
    """Return the peaks of a machine of 2 cores in GFLOP/s."""
    device = linux_cpu(machine(root, cpuinfo, **layout), {0, 1})
    return {precision: pytest.approx(peak / 1e9) for precision, peak in device.peaks.items()}


@pytest.mark.parametrize(
    ("cpuinfo", "max_khz", "gflops"),
    [
        # Nehalem: 2 x 3.0 x (4 lanes x 1 mul and 1 add = 8), half in fp64
        (x86("Xeon X5570", 26, "sse2"), 3_000_000, {"fp64": 24, "fp32": 48}),
        # Sandy Bridge: 2 x 3.0 x 16
        (x86("Xeon E5-2670", 45, "sse2 avx"), 3_000_000, {"fp64": 48, "fp32": 96}),
        # Haswell: 2 cores x 3.3 GHz x (2 units x 8 lanes x 2 = 32)
        (HASWELL, 3_300_000, {"fp64": 105.6, "fp32": 211.2}),
        # Alder Lake-N, efficiency cores only: 2 x 3.4 x 16
        (x86("Intel(R) N100", 190, AVX2_FLAGS), 3_400_000, {"fp64": 54.4, "fp32": 108.8}),
        # Skylake-SP: 2 x 3.7 x (2 units x 16 lanes x 2 = 64)
        (x86("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", 85, AVX512_FLAGS), 3_700_000,
         {"fp64": 236.8, "fp32": 473.6}),
        # Silver of that generation, 1 unit: 2 x 3.0 x 32
        (x86("Intel(R) Xeon(R) Silver 4110 CPU @ 2.10GHz", 85, AVX512_FLAGS), 3_000_000,
         {"fp64": 96, "fp32": 192}),
        # Gold 5xxx have 1 unit, but the 5122 2: 2 x 3.0 x 32, 2 x 3.0 x 64
        (x86("Intel(R) Xeon(R) Gold 5120 CPU @ 2.20GHz", 85, AVX512_FLAGS), 3_000_000,
         {"fp64": 96, "fp32": 192}),
        (x86("Intel(R) Xeon(R) Gold 5122 CPU @ 3.60GHz", 85, AVX512_FLAGS), 3_000_000,
         {"fp64": 192, "fp32": 384}),
        # Cascade Lake adds VNNI: 2 x 3.0 x 64, int8 2 x 3.0 x 256
        (x86("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", 85, f"{AVX512_FLAGS} avx512_vnni"),
         3_000_000, {"fp64": 192, "fp32": 384, "int8": 1536}),
        # Ice Lake-SP: Silver too has 2 units
        (x86("Intel(R) Xeon(R) Silver 4310 CPU @ 2.10GHz", 106, AVX512_FLAGS), 3_000_000,
         {"fp64": 192, "fp32": 384}),
        # Tiger Lake, client: 2 x 3.0 x 32
        (x86("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", 140, AVX512_FLAGS), 3_000_000,
         {"fp64": 96, "fp32": 192}),
        # Sapphire Rapids: AMX 2 x 3.0 x 2048, int8 2 x 3.0 x 4096
        (x86("Intel(R) Xeon(R) Platinum 8480+", 143, SAPPHIRE_FLAGS), 3_000_000,
         {"fp64": 192, "fp32": 384, "bf16": 12288, "int8": 24576}),
        # the same with AMX hidden: bf16 2 x 3.0 x 128, int8 2 x 3.0 x 256
        (x86("Sapphire", 143, f"{AVX512_FLAGS} avx512_vnni avx512_bf16"), 3_000_000,
         {"fp64": 192, "fp32": 384, "bf16": 768, "int8": 1536}),
        # Zen: 128-bit units, 2 x 3.0 x 16
        (amd("AMD EPYC 7601", 23, 1, AVX2_FLAGS), 3_000_000, {"fp64": 48, "fp32": 96}),
        # Zen 2 and Zen 3: 2 x 3.0 x 32
        (amd("AMD EPYC 7742", 23, 49, AVX2_FLAGS), 3_000_000, {"fp64": 96, "fp32": 192}),
        (amd("AMD EPYC 7763", 25, 1, AVX2_FLAGS), 3_000_000, {"fp64": 96, "fp32": 192}),
        # Zen 4: AVX-512 in two halves, 2 x 3.0 x 32; bf16 2 x 3.0 x 64, int8 2 x 3.0 x 128
        (amd("AMD EPYC 9654", 25, 17, f"{AVX512_FLAGS} avx512_bf16 avx512_vnni"), 3_000_000,
         {"fp64": 96, "fp32": 192, "bf16": 384, "int8": 768}),
        # Zen 5 server: 2 x 3.0 x 64; bf16 2 x 3.0 x 128, int8 2 x 3.0 x 256
        (amd("AMD EPYC 9755", 26, 2, f"{AVX512_FLAGS} avx512_bf16 avx512_vnni"), 3_000_000,
         {"fp64": 192, "fp32": 384, "bf16": 768, "int8": 1536}),
        # Neoverse N1: 2 x 3.0 x (2 units x 4 lanes x 2 = 16)
        (arm("0x41", "0xd0c", "fp asimd"), 3_000_000, {"fp64": 48, "fp32": 96}),
        # Neoverse V2: 2 x 3.0 x 32; bf16 2 x 3.0 x 128, int8 2 x 3.0 x 256
        (arm("0x41", "0xd4f", "fp asimd sve2 bf16 i8mm"), 3_000_000,
         {"fp64": 96, "fp32": 192, "bf16": 768, "int8": 1536}),
    ],
)  # fmt: skip
def test_peak_is_cores_times_clock_times_flop_per_cycle(tmp_path, cpuinfo, max_khz, gflops):
    assert measure(tmp_path, cpuinfo, max_khz=max_khz) == gflops


def test_a_virtual_machine_is_taken_to_run_at_its_generations_turbo(tmp_path):
    # No cpufreq. Haswell states 2.5 GHz and holds 2.8: 2 x 2.8 x 32
    assert measure(tmp_path / "a", HASWELL) == {"fp64": 89.6, "fp32": 179.2}
    # Emerald Rapids states 2.1 GHz and holds 3.2: 2 x 3.2 x 64, bf16 2 x 3.2 x 2048, int8 x 4096
    assert measure(tmp_path / "b", EMERALD) == {
        "fp64": 204.8,
        "fp32": 409.6,
        "bf16": 13107.2,
        "int8": 26214.4,
    }


def test_a_stated_clock_above_the_generations_turbo_stands(tmp_path):
    fast = x86("Intel(R) Xeon(R) Platinum 8252C CPU @ 3.80GHz", 85, AVX512_FLAGS)
    assert measure(tmp_path, fast) == {"fp64": 243.2, "fp32": 486.4}  # 2 x 3.8 x 64


def test_without_a_published_turbo_the_nominal_clock_is_used_and_said(tmp_path):
    laptop = x86("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", 142, AVX2_FLAGS, mhz=2112.0)
    device = linux_cpu(machine(tmp_path, laptop), {0, 1})
    assert device.peaks["fp32"] == pytest.approx(121.6e9)  # 2 x 1.9 x 32
    assert device.source == (
        "2 cores x 1.90 GHz x 32 FLOP/cycle (AVX2, 2 FMA units); "
        "nominal clock, turbo can be above it"
    )


def test_the_source_shows_the_product(tmp_path):
    gold = x86("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", 85, AVX512_FLAGS)
    device = linux_cpu(machine(tmp_path, gold, max_khz=3_700_000), {0, 1})
    assert (device.name, device.kind) == ("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", "cpu")
    assert device.source == "2 cores x 3.70 GHz x 64 FLOP/cycle (AVX-512, 2 FMA units)"


def test_the_source_says_that_cores_and_clock_are_a_virtual_machines(tmp_path):
    assert linux_cpu(machine(tmp_path, EMERALD), {0, 1}).source == (
        "2 cores x 3.20 GHz x 64 FLOP/cycle (AVX-512, 2 FMA units); bf16 2048 FLOP/cycle; "
        "all-core turbo of this generation, 2.10 GHz nominal; "
        "cores as the virtual machine shows them"
    )


@pytest.mark.parametrize(
    ("cpuinfo", "reason"),
    [
        # A cloud's Skylake or Cascade Lake without a name: Silver or Platinum?
        (x86("Intel(R) Xeon(R) CPU @ 2.00GHz", 85, AVX512_FLAGS), "one or two AVX-512 units"),
        (x86("Xeon Phi 7250", 87, AVX512_FLAGS), "one or two AVX-512 units"),
        (amd("AMD Ryzen AI 9 HX 370", 26, 36, AVX512_FLAGS), "256 or 512 bits wide"),
        (amd("AMD EPYC", 25, 1, "sse2"), "AVX2 is hidden"),
        (amd("AMD FX-8350", 21, 2, "sse2 avx fma"), "not known"),
        (x86("VIA Nano", 15, "sse2", vendor="CentaurHauls"), "not known"),
        (arm("0x41", "0xd03", "asimd"), "not known"),  # Cortex-A53
        (arm("0x41", "0xd40", "asimd sve"), "clock cannot be read"),  # Neoverse V1, no cpufreq
        ("processor\t: 0\ncpu\t\t: POWER9\nmodel\t\t: 8335-GTH\n", "not known"),
    ],
)
def test_what_cannot_be_decided_has_no_peak_and_a_reason(tmp_path, cpuinfo, reason):
    device = linux_cpu(machine(tmp_path, cpuinfo), {0, 1})
    assert device.peaks == {}
    assert reason in device.source
    assert "pass peak_flops=" in device.source


def test_a_processor_of_two_kinds_of_core_has_no_peak(tmp_path):
    laptop = x86("12th Gen Intel(R) Core(TM) i7-1260P", 154, AVX2_FLAGS)
    machine(tmp_path, laptop, max_khz=4_700_000)
    (tmp_path / "sys/devices/cpu_atom").mkdir()
    device = linux_cpu(tmp_path, {0, 1})
    assert device.peaks == {}
    assert "performance and efficiency cores" in device.source


def test_an_arm_core_is_named_by_its_part():
    assert parse_cpuinfo(arm("0x41", "0xd4f", "asimd")).name == "Arm Neoverse V2"
    assert parse_cpuinfo(arm("0x41", "0xd03", "asimd")).name == (
        "Arm CPU, implementer 0x41, part 0xd03"
    )


def test_two_hyperthreads_are_one_core(tmp_path):
    machine(tmp_path, EMERALD, siblings=("0,2", "1,3", "0,2", "1,3"))
    cpus = tmp_path / "sys/devices/system/cpu"
    assert physical_cores(cpus, {0, 1, 2, 3}) == 2
    assert physical_cores(cpus, {0, 2}) == 1
    assert physical_cores(cpus, {0, 3}) == 2
    assert physical_cores(cpus, {0, 2, 8, 9}) == 3  # 8 and 9 show no topology


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/job", {"job/cpu.max": "150000 100000"}, 1.5),
        ("0::/job", {"job/cpu.max": "max 100000"}, None),
        # the tightest on the way up; the container's own group may be the mount itself
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/host/path", {"cpu.max": "200000 100000"}, 2.0),
        (
            "3:memory:/m\n2:cpu,cpuacct:/job",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "75000",
                "cpu,cpuacct/job/cpu.cfs_period_us": "50000",
            },
            1.5,
        ),
        (
            "1:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("4:cpuset:/x", {"cpuset/x/cpu.max": "100000 100000"}, None),
        ("", {}, None),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, groups, files, cpus):
    for path, text in files.items():
        write(tmp_path / path, f"{text}\n")
    assert cpu_quota(groups, tmp_path) == cpus


def test_a_quota_of_one_and_a_half_cpus_is_one_and_a_half_cores(tmp_path):
    machine(tmp_path, HASWELL, max_khz=3_000_000)
    write(tmp_path / "proc/self/cgroup", "0::/job\n")
    write(tmp_path / "sys/fs/cgroup/job/cpu.max", "150000 100000\n")
    device = linux_cpu(tmp_path, {0, 1}, threads=2)
    assert device.peaks["fp32"] == pytest.approx(144e9)  # 1.5 x 3.0 x 32
    assert device.source.startswith("1.5 cores x 3.00 GHz")


def test_the_fewest_of_cores_affinity_and_threads_count(tmp_path):
    machine(tmp_path, HASWELL, siblings=("0", "1", "2", "3"), max_khz=3_000_000)
    # 1 core: 3.0 x 32 = 96
    assert linux_cpu(tmp_path, {0, 1, 2, 3}, threads=1).peaks["fp32"] == pytest.approx(96e9)
    assert linux_cpu(tmp_path, {2}, threads=4).peaks["fp32"] == pytest.approx(96e9)
    assert linux_cpu(tmp_path, {0, 1, 2, 3}, threads=8).peaks["fp32"] == pytest.approx(384e9)
    assert linux_cpu(tmp_path, {2}).source.startswith("1 core x ")


def test_flop_per_cycle_are_the_collected_ones():
    if not CSV.exists():
        pytest.skip("the collected figures are not beside this checkout")
    ours = {
        "SSE2/NEON": cpu.SSE2,
        "AVX 256-bit, no FMA": cpu.AVX,
        "AVX2+FMA": cpu.AVX2,
        "AVX-512 x1": cpu.AVX512_ONE,
        "AVX-512 x2": cpu.AVX512_TWO,
        "NEON 128-bit FMA x2": cpu.NEON_TWO,
        "NEON 128-bit FMA x4": cpu.NEON_FOUR,
        "SVE 512-bit x2": cpu.SVE512_TWO,
    }
    with CSV.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    for start, rate in ours.items():
        (row,) = [row for row in rows if row["isa"].startswith(start)]
        assert rate.fp64 == int(row["fp64_flop_per_core_cycle"]), start
        assert rate.fp32 == int(row["fp32_flop_per_core_cycle"]), start


def test_this_machine_can_be_described():
    device = cpu_device()
    assert device.kind == "cpu"
    assert device.name
    # Known or not, it says how: a product, or what to pass.
    assert (" GHz x " in device.source) == bool(device.peaks)
    assert ("pass peak_flops=" in device.source) != bool(device.peaks)


def test_more_threads_than_cores_change_nothing():
    assert cpu_device(10_000) == cpu_device()


def test_an_unreadable_machine_does_not_raise(monkeypatch):
    def broken(*_):
        raise PermissionError("no /proc here")

    monkeypatch.setattr(cpu, "linux_cpu", broken)
    monkeypatch.setattr(cpu.platform, "system", lambda: "Linux")
    device = cpu_device()
    assert (device.kind, device.peaks) == ("cpu", {})
    assert "no /proc here" in device.source


@pytest.fixture
def on_a_mac(monkeypatch):
    cpu._brand.cache_clear()
    monkeypatch.setattr(cpu.platform, "system", lambda: "Darwin")
    yield monkeypatch
    cpu._brand.cache_clear()


def test_elsewhere_the_processor_is_named_and_has_no_peak(on_a_mac):
    fake = SimpleNamespace(get_cpu_info=lambda: {"brand_raw": "Apple M2"})
    on_a_mac.setitem(sys.modules, "cpuinfo", fake)
    device = cpu_device()
    assert (device.name, device.peaks) == ("Apple M2", {})
    assert "Linux only" in device.source


def test_elsewhere_without_a_name_nothing_raises(on_a_mac):
    on_a_mac.setitem(sys.modules, "cpuinfo", None)  # importing it now fails
    assert cpu_device().peaks == {}
