"""Every verdict by hand-made numbers: the ratio, what is unknown, and the MFU.

The base case is that of `judgements`.
"""

import doctest

import pytest
from judgements import judged

from computemeter import reconcile
from computemeter.appendix import load_appendix
from computemeter.reconcile import is_loud, mfu
from computemeter.records import Judgement
from computemeter.units import PFS_DAY

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
