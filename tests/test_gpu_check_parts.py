"""What benchmarks/gpu_check.py makes of checks that fail, of counts, times and counters."""

import os
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from benchmarks import gpu_check
from benchmarks.gpu_check_parts import gpt2, hardware, report, timing
from benchmarks.gpu_check_parts.results import (
    Expected,
    NotAvailableError,
    Result,
    Setting,
    check_count,
)
from computemeter.commands.measure import Product
from computemeter.records import Count

CPU = Setting(torch.device("cpu"), quick=True)
A, B = torch.ones(2, 3), torch.ones(3, 4)
PRODUCT = 2 * 2 * 3 * 4


def product():
    return A @ B


# Running the checks.


def test_a_check_that_raises_is_a_row_and_the_others_run():
    def broken(name, setting):
        raise ZeroDivisionError("oh")

    def absent(name, setting):
        raise NotAvailableError("no such kernel")

    def good(name, setting):
        return check_count(name, Expected(PRODUCT), product)

    results = gpu_check.run_all({"b": broken, "a": absent, "g": good}, CPU, budget=1e9)

    assert [(r.name, r.verdict, r.detail) for r in results] == [
        ("b", "unknown", "ZeroDivisionError: oh"),
        ("a", "not available", "no such kernel"),
        ("g", "ok", ""),
    ]


def test_no_check_begins_after_the_time_is_up():
    def must_not_run(name, setting):
        raise AssertionError

    (result,) = gpu_check.run_all({"late": must_not_run}, CPU, budget=0.0)

    assert (result.verdict, result.detail) == ("not available", "not begun within 0 s")


# Judging a count.


@pytest.mark.parametrize(
    ("count", "verdict"),
    [
        (Count(100, 120, by_dtype={"bfloat16": 100}), "ok"),
        (Count(99, 119, by_dtype={"bfloat16": 99}), "differs"),
        (Count(100, 100, by_dtype={"bfloat16": 100}), "differs"),  # recomputation is missing
        (Count(100, 120, by_dtype={"float32": 100}), "differs"),
        (None, "unknown"),
        # Too little, and it says so; too much is wrong whatever it says.
        (Count(60, 60, by_dtype={"bfloat16": 60}, uncounted_ops={"my::op": 1}), "unknown"),
        (Count(160, 180, by_dtype={"bfloat16": 160}, uncounted_ops={"my::op": 1}), "differs"),
    ],
)
def test_a_count_is_as_by_hand_or_unknown_or_differs(count, verdict):
    assert Expected(100, recomputed=20, dtype="bfloat16").judge(count) == verdict


def test_a_step_without_a_contraction_is_unknown():
    (result,) = check_count("replayed", Expected(PRODUCT), lambda: A + A)

    assert (result.verdict, result.got) == ("unknown", "unknown")


def test_of_several_counts_the_worst_decides():
    times = iter([1, 0, 2])

    def step():
        for _ in range(next(times)):
            product()

    (result,) = check_count("three", Expected(PRODUCT), step, times=3)

    assert result.verdict == "differs"
    assert result.got == f"{PRODUCT} FLOP; unknown; {2 * PRODUCT} FLOP"


def test_a_step_that_raises_leaves_no_counting_behind():
    with pytest.raises(ZeroDivisionError):
        check_count("broken", Expected(1), lambda: 1 / 0)

    assert _get_current_dispatch_mode() is None


# Judging times.


@pytest.mark.parametrize(
    ("busy", "verdict"), [(1.0, "ok"), (0.985, "ok"), (0.97, "differs"), (1.03, "differs")]
)
def test_events_agree_with_wall_time_within_two_percent(monkeypatch, busy, verdict):
    monkeypatch.setattr(timing, "_time_steps", lambda *_, **__: (busy, 1.0, 0.0))
    (result,) = timing.events_without_gaps("events", Setting(torch.device("cuda")))

    assert result.verdict == verdict


@pytest.mark.parametrize(("busy", "verdict"), [(0.39, "ok"), (1.0, "differs"), (0.3, "differs")])
def test_time_between_steps_is_idle(monkeypatch, busy, verdict):
    monkeypatch.setattr(timing, "_time_steps", lambda *_, **__: (busy, 1.0, 0.6))  # 0.4 +- 0.02
    (result,) = timing.events_with_gaps("events", Setting(torch.device("cuda")))

    assert result.verdict == verdict


@pytest.mark.parametrize(
    ("seconds", "peak", "verdict"),
    [
        (2e-3, 1.5e12, "ok"),  # 2 * 1000^3 FLOP in 2 ms are 1 TFLOP/s, 67 % of it
        (2e-3, 0.9e12, "differs"),  # above the peak
        (2e-3, 2.5e12, "differs"),  # 40 % of it
        (2e-3, None, "unknown"),
        (None, 1e12, "not available"),
    ],
)
def test_products_stay_below_the_peak_and_near_it(monkeypatch, seconds, peak, verdict):
    found = Product("bf16", 1000, seconds, peak, problem="" if seconds else "no bf16")
    monkeypatch.setattr(timing, "measure_products", lambda device, say: [found])
    (result,) = timing.products("product", Setting(torch.device("cuda")))

    assert (result.name, result.verdict) == ("product, bf16", verdict)


QUIET = [1.0] * 16


@pytest.mark.parametrize(
    ("meter", "again", "verdict"),
    [
        ([1.004] * 16, QUIET, "ok"),
        ([1.006] * 16, QUIET, "differs"),
        # Half of the turns above the target, half below: the interval has both.
        ([1.004, 1.006] * 8, QUIET, "unknown"),
        # Nothing is 1 % from itself: a target of 0.5 % cannot be told.
        ([1.004] * 16, [0.99, 1.01] * 8, "unknown"),
        ([1.5] * 16, [0.99, 1.01] * 8, "unknown"),
    ],
)
def test_the_meters_cost_is_judged_only_where_the_machine_can_tell(meter, again, verdict):
    times = {"nothing": QUIET, "again": again, "meter": meter}

    assert gpt2._judge_overhead("cost", times, counting=2.0).verdict == verdict


def test_without_a_turn_that_was_not_counted_there_is_no_cost():
    with pytest.raises(NotAvailableError):
        gpt2._judge_overhead("cost", {"nothing": [], "again": [], "meter": []}, 1.0)


# The hardware's counters, from what ncu prints.

LISTING = """\
Device NVIDIA H100 80GB HBM3 (GH100)
-------------------------------------- ------- ----- ---------------------------------------
Metric Name                            Type    Unit  Metric Description
sm__ops_path_tensor_src_bf16_dst_fp32  Counter ops   # of math ops executed in Tensor path
sm__ops_path_tensor_src_bf16_dst_fp32_sparsity_off Counter ops # of math ops, split once more
sm__ops_path_tensor_src_fp64           Counter ops   # of math ops executed in Tensor path
sm__ops_path_tensor_src_int8           Counter ops   # of math ops executed in Tensor path
sm__cycles_active                      Counter cycle # of cycles with at least one warp
"""
TENSOR = "sm__ops_path_tensor_src_bf16_dst_fp32.sum"
FMA = "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum"
ADD = "smsp__sass_thread_inst_executed_op_fadd_pred_on.sum"
CSV = f"""\
==PROF== Connected to process 12 (/usr/bin/python)
==PROF== Profiling "gemm" - 0: 0%....50%....100% - 3 passes
==PROF== Disconnected from process 12
"ID","Kernel Name","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"
"0","gemm<128, 256>","0","9.0","Command line profiler metrics","{TENSOR}","ops","1,000,000"
"0","gemm<128, 256>","0","9.0","Command line profiler metrics","{FMA}","inst","1,000"
"1","add","0","9.0","Command line profiler metrics","{TENSOR}","ops","0"
"1","add","0","9.0","Command line profiler metrics","{FMA}","inst","500"
"1","add","0","9.0","Command line profiler metrics","{ADD}","inst","7"
"""


def fake_ncu(monkeypatch, folder, listing=LISTING, output=CSV, status=0):
    (folder / "listing").write_text(listing)
    (folder / "output").write_text(output)
    script = folder / "ncu"
    script.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        "here = pathlib.Path(__file__).parent\n"
        "(here / 'arguments').write_text(' '.join(sys.argv))\n"
        "name = 'listing' if sys.argv[1:] == ['--query-metrics'] else 'output'\n"
        "print((here / name).read_text())\n"
        f"sys.exit({status} if name == 'output' else 0)\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_counters_are_added_up_over_kernels(monkeypatch, tmp_path):
    fake_ncu(monkeypatch, tmp_path)
    tensor, other = hardware._measure("net")

    assert tensor == 1_000_000
    assert other == 2 * (1_000 + 500) + 7  # a fused multiply-add is two
    asked = (tmp_path / "arguments").read_text()
    assert TENSOR in asked
    assert "sparsity" not in asked
    assert "int8" not in asked
    assert asked.endswith("-m benchmarks.gpu_check_parts.hardware net")


def test_tensor_counters_are_taken_once_each():
    assert hardware.tensor_metrics(LISTING) == [
        "sm__ops_path_tensor_src_bf16_dst_fp32",
        "sm__ops_path_tensor_src_fp64",
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"output": "==ERROR== ERR_NVGPUCTRPERM - no permission", "status": 1}, "may not read"),
        ({"output": "==ERROR== The application returned an error"}, "returned an error"),
        ({"output": "", "status": 9}, "ended with 9"),
        ({"output": "==PROF== nothing"}, "saw no kernel"),
        ({"listing": "sm__cycles_active Counter"}, "no counter"),
    ],
)
def test_where_ncu_cannot_the_counters_are_not_available(monkeypatch, tmp_path, change, why):
    fake_ncu(monkeypatch, tmp_path, **change)

    with pytest.raises(NotAvailableError, match=why):
        hardware._measure("net")


def test_without_ncu_the_counters_are_not_available(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NotAvailableError, match="not installed"):
        hardware._measure("net")


@pytest.mark.parametrize(
    ("measured", "verdict"), [(1.04, "ok"), (0.96, "ok"), (1.06, "differs"), (0.5, "differs")]
)
def test_counts_and_counters_agree_within_five_percent(monkeypatch, measured, verdict):
    monkeypatch.setattr(hardware, "STEPS", {"mine": lambda: product})
    monkeypatch.setattr(hardware, "_measure", lambda what: (measured * PRODUCT, 0.0))
    setting = Setting(torch.device("cuda"))
    (result,) = hardware.against_counters("mine", PRODUCT, "counters", setting)

    assert result.verdict == verdict


def test_the_small_net_is_counted_as_by_hand(monkeypatch):
    monkeypatch.setattr(nn.Module, "to", lambda self, *_: self.bfloat16())
    monkeypatch.setattr(
        hardware, "_random", lambda *sizes: torch.zeros(2, sizes[1], dtype=torch.bfloat16)
    )
    # 2 rows instead of 2,048: two products forward, three backward.
    (result,) = check_count("net", Expected(5 * (2 * 2 * 1024 * 4096)), hardware._small_net())

    assert result.verdict == "ok"
    assert hardware._STEPS_OF_NET == 1024 * 5 * (2 * 2 * 1024 * 4096)


# The page.


def test_text_from_a_device_does_not_break_the_table():
    result = Result("a|b", "1", "2", "unknown", "RuntimeError: first\nsecond | third")
    page = report.as_markdown({"device": "X"}, [result])

    assert page.splitlines()[-1] == (
        "| a\\|b | 1 | 2 | unknown | RuntimeError: first second \\| third |"
    )


def test_the_page_names_the_device_and_the_versions():
    facts = report.environment(CPU)
    page = report.as_markdown(facts, [])

    assert f"device {facts['device']}; " in page
    assert f"torch {torch.__version__}" in page
    assert "Not measured" not in page
