"""The table at the end of a run: readable at any size, and it believes nothing it is told."""

from dataclasses import replace

import pytest

from computemeter import Device, Summary
from computemeter.table import print_start, print_summary, render

# 1,000 steps of 117 GFLOP: 1.17e14 = 1.354e-6 pfs-days. 100 s on a device of 1e12 FLOP/s at 0.33:
# 3.3e13 = 3.819e-7 pfs-days, ratio 0.282.
SUMMARY = Summary(
    steps=1_000,
    model_flops=117 * 10**12,
    hardware_flops=120 * 10**12,
    flops_per_step=117 * 10**9,
    pfs_days=117e12 / 8.64e19,
    pfs_days_gpu_time=33e12 / 8.64e19,
    ratio=33 / 117,
    divergence=117 / 33,
    verdict="alarm",
    cause="peak_suspect",
    diagnosis="the work counted is 1.17x what the hardware can do",
    mfu=None,
    hfu=None,
    training_seconds=100.0,
    busy_seconds=80.0,
    compile_seconds=None,
    wall_seconds=100.0,
    host_seconds={},
    device_seconds=100.0,
    device_name="Test GPU 9000",
    device_count=1,
    peak_flops=1e12,
    precision="fp32",
    assumed_utilization=0.33,
    measured_utilization=None,
    utilization_source=None,
    pfs_days_gpu_time_measured=None,
    uncounted_ops={},
    flops_formula=None,
    by_op={"aten::mm": 100 * 10**12, "aten::addmm": 17 * 10**12},
    by_dtype={"float32": 117 * 10**12},
    causal_flops=0,
    counted_steps=11,
    predicted_steps=980,
    estimated_steps=9,
    flops_standard_error=None,
    samples=32_000,
    parameters=10,
    trainable_parameters=10,
    other_flops=None,
    run_flops=117 * 10**12,
    spent_flops=117 * 10**12,
    lineage_flops=117 * 10**12,
)

UNKNOWN = replace(
    SUMMARY,
    steps=0,
    model_flops=0,
    hardware_flops=0,
    run_flops=None,
    spent_flops=None,
    lineage_flops=None,
    flops_per_step=None,
    pfs_days=0.0,
    pfs_days_gpu_time=None,
    ratio=None,
    divergence=None,
    verdict="unknown",
    cause="short_run",
    diagnosis="no training step has run",
    training_seconds=0.0,
    busy_seconds=None,
    compile_seconds=None,
    wall_seconds=100.0,
    host_seconds={},
    device_seconds=0.0,
    device_name="unknown",
    peak_flops=None,
    precision=None,
    by_op={},
    by_dtype={},
    causal_flops=0,
    counted_steps=0,
    predicted_steps=0,
    estimated_steps=0,
    samples=None,
    parameters=None,
    trainable_parameters=None,
)


def rows(summary, width=1_000):
    """Return the table as {name: text}; wide enough, every row is one line."""
    found = {}
    for line in render(summary, width).splitlines():
        cells = [cell.strip() for cell in line.replace("┃", "│").split("│")]
        if len(cells) == 4:
            found[cells[1]] = cells[2]
    return found


def test_the_rows_of_a_run():
    assert rows(SUMMARY) == {
        "operations (method 1)": "117 TFLOP = 1.4e-6 pfs-days, 117 GFLOP a step",
        "GPU time (method 2)": (
            "3.8e-7 pfs-days = 1 x Test GPU 9000 x 1 TFLOP/s (fp32) x 1 min 40 s x 0.33"
        ),
        "verdict": "alarm (peak_suspect), ratio 0.282",
        "diagnosis": "the work counted is 1.17x what the hardware can do",
        "steps": "1,000: 11 counted, 980 predicted, 9 estimated",
        "time": "1 min 40 s of training, 1 min 20 s of it in steps",
        "mostly": "aten::mm 85%, aten::addmm 15%",  # 100 and 17 of 117
    }


def test_flops_come_first():
    assert render(SUMMARY).splitlines()[2].startswith("│ operations (method 1)")


def test_what_is_not_known_says_so_and_is_no_zero():
    shown = rows(UNKNOWN)
    assert shown["operations (method 1)"] == "unknown"
    assert shown["GPU time (method 2)"] == "unknown"
    assert shown["verdict"] == "unknown (short_run)"
    assert shown["mostly"] == "nothing was counted"
    assert "None" not in render(UNKNOWN)
    assert "0 FLOP" not in render(UNKNOWN)
    assert "pfs-days" not in render(UNKNOWN)


def test_a_utilisation_is_shown_where_there_is_one():
    agreed = replace(SUMMARY, verdict="agree", cause="none", mfu=0.2345, ratio=1.4)
    assert rows(agreed)["verdict"] == "agree, ratio 1.4, MFU 23.4 %"


def test_uncounted_operators_are_listed_with_their_calls():
    summary = replace(SUMMARY, uncounted_ops={"aten::_fft_r2c": 12_000, "mine::kernel": 1})
    assert rows(summary)["not counted (calls)"] == "aten::_fft_r2c (12,000), mine::kernel (1)"


def test_only_the_largest_operators_are_shown():
    # 60, 30, 5, 4.2 and 0.8 % of 1,000: the last is below 1 %
    by_op = {"e": 8, "a": 600, "b": 300, "c": 50, "d": 42}
    shown = rows(replace(SUMMARY, model_flops=1_000, by_op=by_op))
    assert shown["mostly"] == "a 60%, b 30%, c 5%, d 4%"
    shown = rows(replace(SUMMARY, model_flops=1_000, by_op={"a": 992, "e": 8}))
    assert shown["mostly"] == "a 99%"
    # five of 20 %: the first four
    shown = rows(replace(SUMMARY, model_flops=1_000, by_op=dict.fromkeys("abcde", 200)))
    assert shown["mostly"] == "a 20%, b 20%, c 20%, d 20%"


def test_every_warning_has_a_line_that_can_be_copied():
    push = f"this sends them: computemeter push {'long/' * 40}x.jsonl --to http://host"
    text = render(replace(SUMMARY, warnings=("the disk is full", push)), 80)
    assert text.splitlines()[-2:] == ["warning: the disk is full", f"warning: {push}"]
    assert "warning" not in render(SUMMARY)


def test_a_resumed_run_shows_what_all_its_launches_did():
    resumed = replace(SUMMARY, run_flops=5 * 10**15, spent_flops=7 * 10**15, lineage_flops=10**18)
    shown = rows(resumed)
    assert shown["the run, all launches"].startswith("5 PFLOP = ")
    assert shown["spent, with what was lost"].startswith("7 PFLOP = ")
    assert shown["lineage, with the base"].startswith("1 EFLOP = ")
    assert "the run, all launches" not in rows(SUMMARY)
    assert rows(replace(resumed, spent_flops=None))["spent, with what was lost"] == "unknown"


@pytest.mark.parametrize("untrusted", ["[red]x[/red]", "[/]", "[link=http://e.vil]a[/link]", ":x:"])
def test_untrusted_names_are_shown_literally(untrusted, capsys):
    summary = replace(
        SUMMARY,
        device_name=untrusted,
        precision=untrusted,
        diagnosis=untrusted,
        by_op={untrusted: SUMMARY.model_flops},
        uncounted_ops={untrusted: 5},
        warnings=(untrusted,),
    )
    # device, precision, diagnosis, operator, uncounted operator, warning
    assert render(summary, 1_000).count(untrusted) == 6
    print_start(Device(untrusted, "cuda", {}, untrusted), 2)
    assert capsys.readouterr().out.count(untrusted) == 2
    print_start(Device(untrusted, "cuda", {"fp32": 1e12}, untrusted), 2)
    assert capsys.readouterr().out == f"computemeter: metering on 2 x {untrusted}\n"


@pytest.mark.parametrize("sequence", ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m"])
def test_untrusted_names_cannot_drive_the_terminal(sequence, capsys):
    summary = replace(SUMMARY, device_name=f"GPU{sequence}", warnings=(f"bad{sequence}",))
    assert not {"\x1b", "\x9b", "\x07"} & set(render(summary))
    print_start(Device(f"GPU{sequence}", "cuda", {"fp32": 1.0}), 1)
    assert not {"\x1b", "\x9b", "\x07"} & set(capsys.readouterr().out)


@pytest.mark.parametrize("flops", [1, 999, 10**6, 10**15, 2**63 + 1, 864 * 10**17, 10**25, 10**40])
def test_any_size_reads_well(flops):
    summary = replace(
        SUMMARY,
        model_flops=flops,
        flops_per_step=flops,
        pfs_days_gpu_time=flops / 8.64e19,
        peak_flops=float(flops),
        by_op={"aten::mm": flops},
    )
    shown = rows(summary)
    assert shown["mostly"] == "aten::mm 100%"
    operations = shown["operations (method 1)"]
    assert operations.endswith("FLOP a step")
    # three digits and a prefix, not a row of zeros
    assert max(map(len, operations.replace(",", " ").split())) <= 12


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.5, 59.99, 3_600, 1e9])
def test_any_duration_reads_well(seconds):
    summary = replace(SUMMARY, training_seconds=seconds, busy_seconds=seconds)
    assert rows(summary)["time"].count(" of ") == 2


@pytest.mark.parametrize("width", [20, 40, 100, 500])
def test_any_width_renders(width):
    lines = render(SUMMARY, width).splitlines()
    assert len(lines) > 8
    assert max(map(len, lines)) <= width


def test_a_summary_prints_as_its_table(capsys):
    assert str(SUMMARY) == render(SUMMARY)
    print_summary(SUMMARY)
    printed = capsys.readouterr().out
    assert "117 TFLOP" in printed
    assert "Compute of this run" in printed


def test_the_start_says_why_there_will_be_no_gpu_time(capsys):
    print_start(Device("Odd GPU", "cuda", {}, '"Odd GPU" is not in the table; pass peak_flops='), 8)
    assert capsys.readouterr().out == (
        "computemeter: metering on 8 x Odd GPU; GPU time will be unknown: "
        '"Odd GPU" is not in the table; pass peak_flops=\n'
    )


def test_a_measured_utilisation_stands_beside_the_assumed_one():
    summary = replace(
        SUMMARY,
        measured_utilization=0.41,
        utilization_source="NVML GPM",
        pfs_days_gpu_time_measured=2.5e-5,
    )
    assert "the same, measured use" in str(summary)
    assert "2.5e-5 pfs-days at 41 % (NVML GPM)" in str(summary)
    assert "measured use" not in str(SUMMARY)
