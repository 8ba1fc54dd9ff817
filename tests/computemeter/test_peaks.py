"""The table of peaks: every figure and every name, and the names that must not match."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from computemeter.peak_table import PRECISIONS, normalise
from computemeter.peaks import (
    PRECISION_OF_DTYPE,
    effective_peak,
    explain_unknown,
    load_table,
    lookup,
    main_precision,
    precision_peak,
)

# The collected figures the table was made from; they lie beside a developer's checkout.
CSV = Path(__file__).parents[2].parent / "shared/data/peaks.csv"
COLUMN_OF = {
    "fp64": "fp64",
    "fp64_tensor": "fp64_tensor",
    "fp32": "fp32",
    "tf32": "tf32",
    "fp16": "fp16_tensor",
    "fp16_vector": "fp16_vector",
    "bf16": "bf16_tensor",
    "fp8": "fp8_tensor",
    "fp4": "fp4_tensor",
    "int8": "int8_tensor",
}


def tera(name, precision):
    entry = lookup(name)
    assert entry is not None, f"{name} is not known"
    return entry.peaks[precision] / 1e12


def test_every_figure_and_alias_is_the_collected_one():
    if not CSV.exists():
        pytest.skip("the collected figures are not beside this checkout")
    with CSV.open(encoding="utf-8") as lines:
        rows = {row["name"]: row for row in csv.DictReader(lines)}
    entries = {entry.name: entry for entry in load_table()}
    assert list(entries) == list(rows)
    for name, row in rows.items():
        entry = entries[name]
        figures = {key: float(row[c]) for key, c in COLUMN_OF.items() if row[c]}
        assert (name, dict(entry.tflops)) == (name, figures)
        assert list(entry.aliases) == [alias for alias in row["aliases"].split(";") if alias]
        assert entry.devices_per_board == int(row["runtime_devices"])
        assert entry.memory_gb == float(row["memory_GB"])
        assert entry.bandwidth_gbs == (
            float(row["bandwidth_GBs"]) if row["bandwidth_GBs"] else None
        )
        assert (entry.vendor, entry.confidence) == (row["vendor"], row["confidence"])


@pytest.mark.parametrize("entry", load_table(), ids=lambda entry: entry.name)
def test_every_alias_finds_its_own_row(entry):
    for alias in entry.aliases:
        assert lookup(alias) is entry
        assert lookup(f"  {alias.upper()} ") is entry
        if entry.vendor == "NVIDIA":
            assert lookup(f"NVIDIA {alias.removeprefix('nvidia ')}") is entry


@pytest.mark.parametrize("entry", load_table(), ids=lambda entry: entry.name)
def test_marks_and_the_makers_name_do_not_hide_a_row(entry):
    for alias in entry.aliases:
        maker, _, model = alias.removeprefix("nvidia ").partition(" ")
        if entry.vendor == "NVIDIA":
            assert lookup(f"NVIDIA(R) {alias.removeprefix('nvidia ')}") is entry
        elif model and maker.removesuffix("(r)") in {"amd", "intel", "apple"}:
            bare = maker.removesuffix("(r)")
            for written in (bare, f"{bare}(R)", f"{bare}®", f"{bare}(TM)"):
                assert lookup(f"{written} {model}") is entry


@pytest.mark.parametrize("entry", load_table(), ids=lambda entry: entry.name)
def test_more_than_an_alias_is_another_card(entry):
    for alias in entry.aliases:
        for more in (" Laptop GPU", " with Max-Q Design", "-8Q", " (something)"):
            assert lookup(alias + more) is None


@pytest.mark.parametrize("entry", load_table(), ids=lambda entry: entry.name)
def test_every_card_has_the_mig_slices_that_it_can_be_cut_into(entry):
    for alias in entry.aliases:
        for slices in range(1, 10):
            part = lookup(f"NVIDIA {alias} MIG {slices}g.{5 * slices}gb")
            if entry.mig_slices is None or slices > entry.mig_slices:
                assert part is None
            else:
                share = slices / entry.mig_slices
                whole = {precision: peak * share for precision, peak in entry.peaks.items()}
                assert part.peaks == pytest.approx(whole)


@pytest.mark.parametrize("entry", load_table(), ids=lambda entry: entry.name)
def test_every_row_has_a_source_and_peaks_of_the_contract(entry):
    assert entry.source
    assert entry.confidence in {"high", "medium", "low"}
    assert entry.peaks
    assert set(entry.peaks) <= set(PRECISIONS)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA H100 80GB HBM3", 989.4),  # dense; 1979 is the sparse figure
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H20", 148),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA A40", 149.7),
        ("NVIDIA RTX A4000", 76.7),
        ("NVIDIA RTX 4000 Ada Generation", 106.9),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H100 80GB HBM2e", 756.5),  # an early name of the PCIe card
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 144G HBM3e", 989.4),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H20-3e", 148),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA GB300", 2500),
        ("NVIDIA A16", 71.6 / 4),  # four devices a board
        ("AMD Instinct MI300A", 980.6),
        ("AMD Instinct MI300X", 1307.4),
        ("AMD Instinct MI250", 362.1 / 2),
        ("NVIDIA Thor", 258.5),
        ("Intel(R) Data Center GPU Max 1100", 352),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v5e", 197),
        ("TPU v4", 275),
        ("TPU v4 lite", 138),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("TPU7x", 2307 / 2),  # two devices a chip
    ],
)
def test_a_name_inside_another_name_is_not_mistaken_for_it(name, tflops):
    assert tera(name, "bf16") == pytest.approx(tflops)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-SXM2-32GB", 125),
        ("Tesla V100-SXM3-32GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("Tesla V100-PCIE-32GB", 112),
        ("Tesla V100S-PCIE-32GB", 130),
        ("Tesla T4", 65.1),
        ("Quadro RTX 4000", 57),
        ("Apple M3 Max", 14.1),
    ],
)
def test_the_same_before_bf16(name, tflops):
    assert tera(name, "fp16") == pytest.approx(tflops)
    assert "bf16" not in lookup(name).peaks


def test_a_board_of_several_devices_gives_each_its_share():
    assert tera("Tesla K80", "fp32") == pytest.approx(8.736 / 2)
    assert tera("AMD Instinct MI250X", "bf16") == pytest.approx(383 / 2)
    assert tera("TPU v3", "bf16") == pytest.approx(123 / 2)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 312 * 1 / 7),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb+me", 312 * 1 / 7),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 989.4 * 3 / 7),
        ("NVIDIA H100 80GB HBM3 MIG 1c.2g.20gb", 989.4 * 1 / 7),  # 1 of the slice's 2
        ("NVIDIA A30 MIG 2g.12gb", 165 * 2 / 4),  # this card is cut into 4
    ],
)
def test_a_mig_slice_has_its_share_of_the_card(name, tflops):
    assert tera(name, "bf16") == pytest.approx(tflops)


def test_a_mig_slice_says_so_in_its_source():
    entry = lookup("NVIDIA A100-SXM4-40GB MIG 3g.20gb")
    assert entry.name == "A100 SXM4 40GB, MIG 3g.20gb"
    assert entry.source.startswith("3 of 7 compute slices of: ")
    assert entry.memory_gb is None  # 40 GB would be the whole card's


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100",
        "Orin",
        "NVIDIA GeForce RTX 3080 Laptop GPU",
        "NVIDIA L4 MIG 1g.6gb",  # cannot be partitioned
        "NVIDIA A100-SXM4-40GB MIG 8g.40gb",
        "NVIDIA H100 MIG 1g.10gb",
        "NVIDIA RTX A3000",
        "NVIDIA T400",
        "NVIDIA T4G",  # Amazon's, with an Arm host
        "NVIDIA A100",
        "NVIDIA GH200",
        "NVIDIA L40G",
        "NVIDIA A40-48Q",  # part of a card
        "NVIDIA RTX 4000 SFF Ada Generation",
        "NVIDIA RTX 4000",
        "NVIDIA Tegra Orin",
        "AMD Instinct MI300",
        "Apple M3 Pro Max",
        "TPU",
        "TPU v5 litepod",
        "NVIDIA",
        "",
    ],
)
def test_an_unknown_device_has_no_peak_and_the_user_is_told_what_to_do(name):
    assert lookup(name) is None
    assert "pass peak_flops= (dense FLOP/s of one device)" in explain_unknown(name)


def test_an_ambiguous_name_lists_what_it_could_be():
    assert "ambiguous: it could be H100 SXM5 80GB, H100 PCIe or H100 NVL" in explain_unknown(
        "NVIDIA H100"
    )
    assert "Jetson AGX Orin 64GB, Jetson Orin NX 16GB or Jetson Orin Nano 8GB" in explain_unknown(
        "Orin"
    )
    assert "or one of 26 more" in explain_unknown("GeForce RTX")  # 30 rows, 4 named


def test_an_unknown_name_lists_the_nearest():
    said = explain_unknown("NVIDIA GeForce RTX 3080 Laptop GPU")
    assert "not in the table of peaks (nearest: " in said
    assert "GeForce RTX 3080" in said
    assert "nearest" not in explain_unknown("zzzzzzzz")
    assert "nearest" not in explain_unknown("")


def test_the_nearest_of_a_short_name_is_a_part_of_an_alias():
    # "a101" is nearer to "a100" than to "a100-sxm4-80gb", and "rtx 4091" to "rtx 4090".
    assert "A100 SXM4 80GB" in explain_unknown("A101")
    assert "nearest: GeForce RTX 4090" in explain_unknown("RTX 4091")


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("NVIDIA  A40 ", "a40"),
        ("Intel(R) Xeon(TM) Max", "intel xeon max"),
        ("NVIDIA® TITAN Xp™", "titan xp"),
        ("NVIDIA NVIDIA A40", "nvidia a40"),  # one prefix, no more
        ("AMD Instinct MI300X", "amd instinct mi300x"),
    ],
)
def test_names_are_compared_without_case_marks_and_maker(name, normal):
    assert normalise(name) == normal


def test_fp64_runs_on_matrix_units_and_fp16_on_vector_units_where_there_are_no_others():
    assert tera("NVIDIA A100-SXM4-80GB", "fp64") == pytest.approx(19.5)  # vector: 9.746
    assert tera("Tesla V100-SXM2-16GB", "fp16") == pytest.approx(125)  # vector: 31.3
    assert tera("Tesla P100-SXM2-16GB", "fp16") == pytest.approx(21.22)


def test_a_precision_without_units_is_unknown():
    v100 = lookup("Tesla V100-SXM2-16GB").peaks
    assert precision_peak(v100, "bf16") is None
    assert precision_peak(v100, "fp8") is None
    assert precision_peak(v100, "float128") is None
    assert precision_peak(lookup("GeForce GTX 1080").peaks, "fp16") is None


def test_tf32_on_a_chip_that_has_neither_tf32_nor_bf16_is_fp32():
    assert precision_peak(lookup("Tesla V100-SXM2-16GB").peaks, "tf32") == pytest.approx(15.67e12)
    assert precision_peak(lookup("NVIDIA A100-SXM4-80GB").peaks, "tf32") == pytest.approx(156e12)
    # bf16 and no TF32 units: put together from bf16 products, at no stated rate.
    assert precision_peak(lookup("AMD Instinct MI355X").peaks, "tf32") is None


def test_the_effective_peak_weighs_by_time():
    peaks = {"fp32": 20e12, "bf16": 300e12}
    # 20e12 FLOP take 1 s in fp32, 300e12 take 1 s in bf16: 320e12 FLOP in 2 s.
    assert effective_peak({"float32": 20 * 10**12, "bfloat16": 300 * 10**12}, peaks) == 160e12
    assert effective_peak({"bfloat16": 7}, peaks) == pytest.approx(300e12)
    # complex64 is made of fp32 products.
    assert effective_peak({"complex64": 5, "float32": 5}, peaks) == pytest.approx(20e12)


def test_the_effective_peak_is_unknown_where_a_part_is():
    peaks = {"fp32": 20e12}
    assert effective_peak({"float32": 100, "float16": 1}, peaks) is None
    assert effective_peak({"float32": 100, "float16": 0}, peaks) == pytest.approx(20e12)
    assert effective_peak({"float32": 100, "posit8": 1}, peaks) is None
    assert effective_peak({}, peaks) is None
    assert effective_peak({"float32": 0}, peaks) is None


def test_the_main_precision_has_most_of_the_flops():
    assert main_precision({"float32": 5, "bfloat16": 6}) == "bf16"
    # 2 + 4 in fp32 against 5.
    assert main_precision({"float32": 2, "complex64": 4, "bfloat16": 5}) == "fp32"
    assert main_precision({"posit8": 3, "float32": 1}) == "posit8"
    assert main_precision({}) is None
    assert main_precision({"float32": 0}) is None


def test_every_data_type_has_a_precision_of_the_contract():
    assert set(PRECISION_OF_DTYPE.values()) == set(PRECISIONS)


def test_torch_names_its_float8_types_as_the_table_does():
    torch = pytest.importorskip("torch")
    names = {name for name in vars(torch) if name.startswith("float8_e") and "e8m0" not in name}
    assert names
    assert {PRECISION_OF_DTYPE.get(name) for name in names} == {"fp8"}


def test_importing_reads_no_table_and_no_framework():
    code = (
        "import sys, computemeter.peaks, computemeter.cpu, computemeter.devices\n"
        "assert not {'torch', 'jax', 'tensorflow', 'cpuinfo'} & sys.modules.keys()\n"
        "assert computemeter.peaks.load_table.cache_info().currsize == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
