"""Every verdict and cause by hand-made numbers.

The base case is one device with a peak of 1 TFLOP/s and 100 s of training: it could do 1e14 FLOP,
method 2 assumes 33 % of them = 3.3e13, and a model of 3.3e13 FLOP makes both methods equal. So a
run that counts f FLOP uses f / 1e14 of peak and has ratio 3.3e13 / f.
"""

import dataclasses
import doctest

import pytest

from computemeter import reconcile
from computemeter.appendix import load_appendix
from computemeter.evidence import Evidence
from computemeter.reconcile import is_loud, judge, mfu
from computemeter.records import Judgement
from computemeter.units import PFS_DAY

BASE = Evidence(
    model_flops=33 * 10**12,
    gpu_time_flops=33 * 10**12,
    hardware_flops=33 * 10**12,
    device_seconds=100.0,
    training_seconds=100.0,
    busy_seconds=95.0,
    steps=1_000,
    peak_flops=1e12,
    assumed_utilization=0.33,
    uncounted_ops={},
    settled=True,
    settle_steps=50,
    settle_seconds=30.0,
    no_peak_reason="",
    warn_at=2.0,
    alarm_at=3.0,
    device_kind="cuda",
)


def judged(**changes):
    # Recomputation is the exception: hardware FLOPs follow the model's where a test says nothing.
    if "model_flops" in changes:
        changes.setdefault("hardware_flops", changes["model_flops"])
    return judge(dataclasses.replace(BASE, **changes))


# Ratio, divergence, verdict


def test_equal_methods_agree_quietly_with_both_numbers():
    assert judged() == Judgement(
        ratio=1.0,
        divergence=1.0,
        verdict="agree",
        cause="none",
        diagnosis="the methods agree within 1.00x: 33 TFLOP = 3.8e-7 pfs-days by operations, "
        "33 TFLOP = 3.8e-7 pfs-days by device time",
    )


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("AlexNet", 1.07),  # 0.0058 / 0.0054
        ("Seq2Seq", 1.09),  # 0.093 / 0.085
        ("VGG", 1.22),  # 0.12 / 0.098
        ("DeepSpeech2", 0.83),  # 0.25 / 0.3
        ("Neural Architecture Search", 1.41),  # 31 / 22
    ],
)
def test_the_printed_pairs_of_the_appendix_agree(name, ratio):
    entry = next(entry for entry in load_appendix() if entry.name == name)
    seconds = entry.gpu_time.days * 86_400
    operations = round(entry.printed_operations.pfs_days * PFS_DAY)
    judgement = judged(
        model_flops=operations,
        gpu_time_flops=round(entry.printed_gpu_time.pfs_days * PFS_DAY),
        device_seconds=seconds * entry.gpu_time.devices,
        training_seconds=seconds,
        busy_seconds=None,
        peak_flops=entry.gpu_time.peak_flops,
        assumed_utilization=entry.gpu_time.utilization,
    )
    assert judgement.ratio == pytest.approx(ratio, abs=0.005)
    assert (judgement.verdict, judgement.cause) == ("agree", "none")


@pytest.mark.parametrize(
    ("one", "two", "divergence", "verdict"),
    [
        (100, 199, 1.99, "agree"),
        (100, 200, 2.0, "warn"),
        (100, 299, 2.99, "warn"),
        (100, 300, 3.0, "alarm"),
        (199, 100, 1.99, "agree"),
        (200, 100, 2.0, "warn"),
        (299, 100, 2.99, "warn"),
        (300, 100, 3.0, "alarm"),
    ],
)
def test_thresholds_are_inclusive_on_both_sides(one, two, divergence, verdict):
    judgement = judged(model_flops=one, gpu_time_flops=two, peak_flops=1e3)
    assert judgement.ratio == two / one
    assert judgement.divergence == divergence
    assert judgement.verdict == verdict


@pytest.mark.parametrize(("one", "two"), [(5, 9), (9, 5)])
def test_a_threshold_is_met_whichever_method_is_higher(one, two):
    # 9 / 5 is 1.8, but 1 / (5 / 9) is 1.7999999999999998 in floats
    judgement = judged(model_flops=one, gpu_time_flops=two, peak_flops=1e3, warn_at=1.8)
    assert (judgement.divergence, judgement.verdict) == (1.8, "warn")


def test_thresholds_are_options():
    # 3.3e13 / 1.1e13 = 3x
    lenient = judged(model_flops=11 * 10**12, warn_at=3.5, alarm_at=5.0)
    strict = judged(model_flops=30 * 10**12, warn_at=1.05, alarm_at=1.1)  # 1.1x
    assert (lenient.verdict, lenient.cause) == ("agree", "none")
    assert (strict.verdict, strict.cause) == ("alarm", "low_utilization")


def test_totals_past_float_are_compared_exactly():
    huge = 10**40 + 1
    judgement = judged(model_flops=huge, gpu_time_flops=2 * huge, peak_flops=1e40)
    assert judgement.divergence == 2.0


# Faults: the count or the peak


def test_work_above_the_peak_is_a_suspect_and_never_a_utilization():
    # 1.43e14 / 1e14 of peak; ratio 33 / 143 = 0.23, divergence 4.33
    judgement = judged(model_flops=143 * 10**12)
    assert (judgement.verdict, judgement.cause) == ("alarm", "peak_suspect")
    assert judgement.diagnosis == (
        "the work counted is 1.43x what the hardware can do at a peak of 1 TFLOP/s a device, so "
        "the peak is too low or the count too high: check device, precision, number of devices, "
        "masked attention (counted dense) and work counted twice"
    )
    assert "%" not in judgement.diagnosis
    assert is_loud(judgement)


def test_recomputation_above_the_peak_counts_too():
    # Model 0.8 of peak, with recomputation 1.06
    judgement = judged(model_flops=80 * 10**12, hardware_flops=106 * 10**12)
    assert (judgement.verdict, judgement.cause) == ("warn", "peak_suspect")
    assert "counted with recomputation is 1.06x" in judgement.diagnosis


def test_work_above_the_peak_is_a_fault_even_where_the_methods_agree():
    # Someone assumes 0.9: 1.1e14 against 0.9e14 is 1.22x apart, and yet more than the peak
    judgement = judged(model_flops=11 * 10**13, gpu_time_flops=9 * 10**13, assumed_utilization=0.9)
    assert (judgement.verdict, judgement.cause) == ("agree", "peak_suspect")
    assert is_loud(judgement)


def test_exactly_the_peak_is_not_above_it():
    assert "this would be 100 % of peak" in judged(model_flops=10**14).diagnosis


def test_uncounted_operations_do_not_hide_work_above_the_peak():
    judgement = judged(model_flops=143 * 10**12, uncounted_ops={"aten::mv": 5})
    assert judgement.cause == "peak_suspect"


def test_high_utilization_is_worded_with_care():
    # 0.72 of peak; ratio 33 / 72, divergence 2.18
    judgement = judged(model_flops=72 * 10**12)
    assert (judgement.verdict, judgement.cause) == ("warn", "peak_suspect")
    assert judgement.diagnosis.startswith(
        "this would be 72 % of peak where 33 % is assumed: possible where large matrix products "
        "fill the device, else a peak of 1 TFLOP/s a device is too low for what ran; check device"
    )


def test_on_a_processor_the_advice_is_about_the_processor():
    judgement = judged(model_flops=95 * 10**12, device_kind="cpu")
    assert judgement.cause == "peak_suspect"
    assert judgement.diagnosis.endswith("check cores, clock, vector width and work counted twice")


def test_a_processor_that_works_well_is_no_fault():
    # A CPU's matrix library reaches most of the peak: 40 % of it is 0.40 / 0.17 = 2.35x the
    # assumption, and nothing to warn of.
    judgement = judged(
        model_flops=40 * 10**12,
        gpu_time_flops=17 * 10**12,
        assumed_utilization=0.17,
        device_kind="cpu",
    )
    assert (judgement.verdict, judgement.cause) == ("warn", "none")
    assert not is_loud(judgement)
    assert judgement.diagnosis == (
        "the methods differ 2.35x because this run uses 40 % of peak where 17 % is assumed, as "
        "large products and convolutions do"
    )


def test_uncounted_operations_make_the_count_suspect():
    # 1.1e13 of 3.3e13: 3x, and 11 % of peak
    ops = {"aten::mv": 20, "aten::_cudnn_rnn": 1_000, "custom::scan": 20, "aten::dot": 1, "no": 0}
    judgement = judged(model_flops=11 * 10**12, uncounted_ops=ops)
    assert (judgement.verdict, judgement.cause) == ("alarm", "count_suspect")
    assert judgement.diagnosis == (
        "the methods differ 3.00x and the count is incomplete: aten::_cudnn_rnn (1,000 calls), "
        "aten::mv (20 calls), custom::scan (20 calls) and 1 more without a formula"
    )
    assert is_loud(judgement)


def test_uncounted_operations_come_before_waiting():
    judgement = judged(model_flops=11 * 10**12, busy_seconds=10.0, uncounted_ops={"aten::mv": 20})
    assert judgement.cause == "count_suspect"


def test_uncounted_operations_are_mentioned_where_the_methods_agree():
    judgement = judged(uncounted_ops={"aten::mv": 1})
    assert (judgement.verdict, judgement.cause) == ("agree", "none")
    assert judgement.diagnosis.endswith("; the count leaves out aten::mv (1 call)")
    assert not is_loud(judgement)


# Facts: waiting, low utilisation


def test_a_device_that_waits_is_input_bound():
    # 1e13 of 1e14 = 10 % of peak; in the 39 s of steps 10 / 39 = 26 %
    judgement = judged(model_flops=10**13, busy_seconds=39.0)
    assert (judgement.verdict, judgement.cause) == ("alarm", "input_bound")
    assert judgement.diagnosis == (
        "the methods differ 3.30x: every operator has a formula, 61 % of the training time was "
        "spent outside the steps (data loading, logging, callbacks); within them it uses 26 % "
        "of peak"
    )
    assert not is_loud(judgement)


def test_busy_time_that_cannot_be_is_not_shown_as_evidence():
    # 1e13 FLOP in 2 s of a 1 TFLOP/s device would be 5x its peak; none at all divides by zero
    for busy in (2.0, 0.0):
        judgement = judged(model_flops=10**13, busy_seconds=busy)
        assert judgement.cause == "input_bound"
        assert judgement.diagnosis.endswith("(data loading, logging, callbacks)")


@pytest.mark.parametrize("busy", [50.0, 100.0, 101.0, None])
def test_a_busy_device_is_not_input_bound(busy):
    assert judged(model_flops=10**13, busy_seconds=busy).cause == "low_utilization"


def test_low_utilization_is_one_quiet_line():
    # 2e12 of 1e14 = 2 % of peak; 33 / 2 = 16.5x, written 16x (half to even)
    judgement = judged(model_flops=2 * 10**12)
    assert (judgement.verdict, judgement.cause) == ("alarm", "low_utilization")
    assert judgement.diagnosis == (
        "the methods differ 16x: every operator has a formula, this run uses 2.0 % of peak where "
        "33 % is assumed, as small or memory-bound models do"
    )
    assert not is_loud(judgement)


def test_a_processor_at_three_percent_reads_as_quietly_true():
    # 17 % assumed, 3 % used: 5.67x
    judgement = judged(
        model_flops=3 * 10**12,
        gpu_time_flops=17 * 10**12,
        assumed_utilization=0.17,
        device_kind="cpu",
    )
    assert judgement.diagnosis == (
        "the methods differ 5.67x: every operator has a formula, this run uses 3.0 % of peak where "
        "17 % is assumed, as small or memory-bound models do"
    )
    assert not is_loud(judgement)


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (10_300 * 10**8, "1.0 %"),  # 1.03e12 / 1e14
        (43 * 10**9, "0.043 %"),
        (995 * 10**10, "10 %"),  # 9.95 %: not "9.9" or "10."
        (9 * 10**12, "9.0 %"),
    ],
)
def test_small_shares_keep_two_digits(flops, text):
    assert f"this run uses {text} of peak" in judged(model_flops=flops).diagnosis


def test_large_factors_are_written_out():
    # 3.3e13 / 1.5e9 = 22,000
    assert "differ 22,000x" in judged(model_flops=15 * 10**8).diagnosis


def test_segments_without_one_peak_are_judged_by_method_2():
    # Utilisation without a peak: 0.33 * 1e13 / 3.3e13 = 10 %
    low = judged(model_flops=10**13, peak_flops=None)
    assert (low.verdict, low.cause) == ("alarm", "low_utilization")
    assert "uses 10 % of peak" in low.diagnosis
    # 0.33 * 1.43e14 / 3.3e13 = 1.43
    above = judged(model_flops=143 * 10**12, peak_flops=None)
    assert "is 1.43x what the hardware can do at the peak assumed," in above.diagnosis


# Unknown


def test_no_peak_gives_no_ratio_and_the_reason():
    judgement = judged(
        peak_flops=None, gpu_time_flops=None, no_peak_reason="'Foo 9' is not in the table. "
    )
    assert judgement == Judgement(
        ratio=None,
        divergence=None,
        verdict="unknown",
        cause="no_peak",
        diagnosis="the operations have nothing to be compared with: 'Foo 9' is not in the table",
    )
    assert not is_loud(judgement)


def test_no_peak_without_a_reason_still_says_something():
    judgement = judged(peak_flops=None, gpu_time_flops=None)
    assert judgement.diagnosis.endswith(": the peak of the device is not known")


def test_no_peak_comes_before_a_short_run():
    # Waiting does not heal it
    judgement = judged(peak_flops=None, gpu_time_flops=None, settled=False)
    assert judgement.cause == "no_peak"


def test_nothing_counted_is_a_fault_and_not_a_zero():
    judgement = judged(model_flops=0)
    assert judgement == Judgement(
        ratio=None,
        divergence=None,
        verdict="unknown",
        cause="count_suspect",
        diagnosis="nothing was counted in 1,000 steps: no matmul, convolution or attention ran "
        "where the meter could see it",
    )
    assert is_loud(judgement)


def test_nothing_counted_names_the_operations_without_a_formula():
    judgement = judged(model_flops=0, steps=1, uncounted_ops={"aten::_cudnn_rnn": 2})
    assert judgement.diagnosis == (
        "nothing was counted in 1 step: aten::_cudnn_rnn (2 calls) without a formula"
    )


@pytest.mark.parametrize("changes", [{"settled": False}, {"peak_flops": None}])
def test_nothing_counted_comes_before_what_else_is_unknown(changes):
    judgement = judged(model_flops=0, gpu_time_flops=None, **changes)
    assert judgement.cause == "count_suspect"


def test_a_run_that_has_not_settled_has_a_ratio_and_no_verdict():
    judgement = judged(
        model_flops=10**13, settled=False, steps=12, training_seconds=3.2, device_seconds=3.2
    )
    assert judgement.ratio == judgement.divergence == pytest.approx(3.3)
    assert (judgement.verdict, judgement.cause) == ("unknown", "short_run")
    assert judgement.diagnosis == (
        "the run is too short to judge at 12 steps in 3.2 s: it settles after 50 steps and 30 s"
    )
    assert not is_loud(judgement)


@pytest.mark.parametrize(
    ("steps", "seconds", "text"),
    [(50, 0.0, "after 50 steps"), (1, 30.0, "after 1 step and 30 s"), (0, 0, "its second step")],
)
def test_only_what_a_run_waits_for_is_named(steps, seconds, text):
    judgement = judged(settled=False, settle_steps=steps, settle_seconds=seconds)
    assert judgement.diagnosis.endswith(text)


def test_no_steps():
    judgement = judged(
        steps=0,
        model_flops=0,
        gpu_time_flops=None,
        device_seconds=0.0,
        training_seconds=0.0,
        busy_seconds=0.0,
        settled=False,
    )
    assert judgement == Judgement(None, None, "unknown", "short_run", "no training step has run")


def test_one_step_is_not_judged_even_where_nothing_is_waited_for():
    judgement = judged(steps=1, settle_steps=0, settle_seconds=0.0)
    assert (judgement.verdict, judgement.cause) == ("unknown", "short_run")
    assert judgement.diagnosis == "the run is too short to judge at 1 step in 1 min 40 s"


@pytest.mark.parametrize("gpu_time", [0, None])
@pytest.mark.parametrize("settled", [True, False])
def test_no_time_divides_by_nothing(gpu_time, settled):
    judgement = judged(
        gpu_time_flops=gpu_time,
        device_seconds=0.0,
        training_seconds=0.0,
        busy_seconds=0.0,
        settled=settled,
    )
    assert (judgement.ratio, judgement.divergence) == (None, None)
    assert (judgement.verdict, judgement.cause) == ("unknown", "short_run")
    assert "at 1,000 steps in 0 ms" in judgement.diagnosis


# MFU


def test_mfu_is_the_share_of_peak():
    # AlexNet: 486e15 / (2 * 475,200 s * 1.58e12 = 1.501632e18) = 0.32365
    assert mfu(486 * 10**15, 950_400.0, 1.58e12) == pytest.approx(0.32365, abs=5e-6)
    assert mfu(10**12, 1.0, 1e12) == 1.0


@pytest.mark.parametrize(
    ("flops", "seconds", "peak"),
    [
        (10**12, 1.0, None),
        (10**12, 0.0, 1e12),
        (10**12, 1.0, 0.0),
        (0, 1.0, 1e12),  # training always does work: not counted, not idle
        (10**12 + 1_000, 1.0, 1e12),  # above 1: a fault, never a utilisation
    ],
)
def test_mfu_is_unknown_where_it_would_mean_nothing(flops, seconds, peak):
    assert mfu(flops, seconds, peak) is None


def test_only_the_two_suspects_are_loud():
    causes = ("low_utilization", "input_bound", "short_run", "no_peak", "none")
    assert not any(is_loud(Judgement(9.0, 9.0, "alarm", cause, "")) for cause in causes)
    for cause in ("count_suspect", "peak_suspect"):
        assert is_loud(Judgement(1.0, 1.0, "agree", cause, ""))


def test_a_diagnosis_is_one_line():
    for changes in ({}, {"model_flops": 0}, {"model_flops": 10**15}, {"model_flops": 1}):
        assert "\n" not in judged(**changes).diagnosis


def test_the_examples_of_the_docstrings_run():
    results = doctest.testmod(reconcile)
    assert results.attempted > 0
    assert results.failed == 0


# What explains a low utilisation, and time lost elsewhere


def test_time_lost_to_the_data_loader_is_named_by_itself():
    # 10 % of peak; 39 s in steps and 55 s waiting for data: 10 / 39 = 26 % within the steps
    judgement = judged(model_flops=10**13, busy_seconds=39.0, stall_seconds=55.0)
    assert judgement.cause == "input_bound"
    assert judgement.diagnosis == (
        "the methods differ 3.30x: every operator has a formula, 55 % of the training time was "
        "spent waiting for data; within them it uses 26 % of peak"
    )


def test_a_short_wait_for_data_is_not_blamed_for_a_long_idleness():
    judgement = judged(model_flops=10**13, busy_seconds=39.0, stall_seconds=5.0)
    assert judgement.cause == "input_bound"
    assert "outside the steps" in judgement.diagnosis


def test_a_host_that_waits_for_data_does_not_hold_up_a_busy_device():
    assert judged(model_flops=10**13, busy_seconds=90.0, stall_seconds=80.0).cause == (
        "low_utilization"
    )


def test_without_a_device_clock_the_wait_for_data_is_the_evidence():
    judgement = judged(model_flops=10**13, busy_seconds=None, stall_seconds=60.0)
    assert judgement.cause == "input_bound"
    assert "60 % of the training time was spent waiting for data" in judgement.diagnosis


@pytest.mark.parametrize(("seconds", "cause"), [(24.0, "low_utilization"), (25.0, "short_run")])
def test_a_run_that_mostly_compiles_is_a_short_one(seconds, cause):
    assert judged(model_flops=10**13, compile_seconds=seconds).cause == cause


def test_compiling_is_said_with_its_share():
    assert judged(model_flops=10**13, compile_seconds=40.0).diagnosis == (
        "the methods differ 3.30x: every operator has a formula, 40 % of the training time was "
        "spent compiling, which a longer run would not notice"
    )


def test_small_operations_explain_a_low_utilisation():
    # 2 MFLOP at 1 TFLOP/s take 2 us; starting one takes longer
    judgement = judged(model_flops=10**13, flops_per_contraction=2e6, flops_per_byte=1.0)
    assert judgement.cause == "low_utilization"
    assert "its operations are small, 2 MFLOP each, and take less than" in judgement.diagnosis


def test_waiting_for_memory_explains_a_low_utilisation():
    # 1 TFLOP/s over 100 GB/s: a byte must be used for 10 FLOP
    facts = {"model_flops": 10**13, "flops_per_contraction": 1e9, "bandwidth": 1e11}
    judgement = judged(**facts, flops_per_byte=4.0)
    assert judgement.cause == "low_utilization"
    assert judgement.diagnosis.endswith(
        ": its operations wait for memory, 4 FLOP for each byte where this device needs 10"
    )
    assert "memory," not in judged(**facts, flops_per_byte=10.0).diagnosis


def test_an_accelerator_that_stands_idle_is_named_whatever_the_verdict():
    for flops in (33 * 10**12, 10**13):
        judgement = judged(model_flops=flops, device_kind="cpu", idle_accelerator="NVIDIA L4")
        assert judgement.diagnosis.endswith("; it runs on the CPU though NVIDIA L4 is there")


def test_faults_come_before_everything_that_explains_a_low_utilisation():
    judgement = judged(
        model_flops=10**13,
        uncounted_ops={"mylib::attention": 3},
        busy_seconds=10.0,
        stall_seconds=80.0,
        compile_seconds=50.0,
        flops_per_contraction=1.0,
    )
    assert judgement.cause == "count_suspect"
