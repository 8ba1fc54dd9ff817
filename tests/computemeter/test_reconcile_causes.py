"""Every cause of a verdict by hand-made numbers: faults, and what explains a low utilisation.

The base case is that of `judgements`.
"""

import pytest
from judgements import judged

from computemeter.reconcile import is_loud

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
