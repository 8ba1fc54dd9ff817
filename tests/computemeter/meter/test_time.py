"""What a meter takes for training time, and what follows: method 2, the ratio, the verdict."""

import json
import logging

import pytest
from meter_loops import (
    PER_EXAMPLE,
    PFS_DAY,
    backward,
    batches,
    handed_on,
    net,
    on_clock,
    quiet,
    steps_on,
    train,
)
from small_runs import BATCH

from computemeter import Device
from computemeter.counters import torch_counter


def test_pauses_and_validation_are_not_training_time(hands):
    meter = on_clock(quiet(), hands)
    data = batches(*[BATCH] * 4)

    def step(batch):
        with meter.step(batch):
            backward(model, batch)
            hands.wait(2)

    model = net()
    hands.wait(100)  # before training
    step(data[0])
    hands.wait(1)  # waiting for data
    step(data[1])
    with meter.validation():
        hands.wait(30)
        with meter.pause():
            hands.wait(5)
    step(data[2])
    with meter.pause():
        hands.wait(50)
    step(data[3])
    with meter.pause():
        hands.wait(70)
    # 4 steps of 2 and one wait of 1
    summary = meter.summary()
    assert summary.training_seconds == pytest.approx(9.0)
    assert summary.busy_seconds == pytest.approx(8.0)


def test_an_exception_in_a_pause_ends_it(hands):
    meter = on_clock(quiet(), hands)
    with meter.step():
        hands.wait(2)

    def fails():
        with meter.validation():
            hands.wait(30)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    hands.wait(1)
    with meter.step():
        hands.wait(2)
    assert meter.summary().training_seconds == pytest.approx(5.0)


def test_method_2_and_the_ratio(hands):
    # 4 steps: 4 * 8 * 1,152 = 36,864 FLOP in 4 + 3 = 7 s. At a peak of 36,864 FLOP/s and the
    # 17 % of a CPU: 7 * 36,864 * 0.17 = 43,868.16 FLOP.
    meter = on_clock(quiet(peak_flops=36_864, settle_steps=0, settle_seconds=0), hands)
    summary = steps_on(meter, hands, 4)
    assert summary.model_flops == 36_864
    assert summary.device_name
    assert (summary.device_count, summary.peak_flops) == (1, 36_864)
    assert summary.assumed_utilization == 0.17
    assert summary.training_seconds == summary.device_seconds == pytest.approx(7.0)
    assert summary.busy_seconds == pytest.approx(4.0)
    assert summary.pfs_days_gpu_time == pytest.approx(43_868 / PFS_DAY, rel=1e-12)
    assert summary.ratio == summary.divergence == pytest.approx(43_868 / 36_864)
    assert (summary.verdict, summary.cause) == ("agree", "none")
    assert summary.mfu == summary.hfu == pytest.approx(1 / 7)


def test_an_assumed_utilization_of_ones_own(hands):
    # 7 * 36,864 * 0.5 = 129,024, 3.5 times the 36,864 counted. Steps are 4 of 7 s: busy enough.
    options = {"assumed_utilization": 0.5, "settle_steps": 4, "settle_seconds": 7}
    meter = on_clock(quiet(peak_flops=36_864, **options), hands)
    summary = steps_on(meter, hands, 4)
    assert summary.ratio == summary.divergence == pytest.approx(3.5)
    assert (summary.verdict, summary.cause) == ("alarm", "low_utilization")


def test_before_it_has_settled_the_verdict_is_unknown(hands):
    meter = on_clock(quiet(peak_flops=36_864, settle_steps=5, settle_seconds=0), hands)
    summary = steps_on(meter, hands, 4)
    assert (summary.verdict, summary.cause) == ("unknown", "short_run")
    assert summary.ratio == pytest.approx(43_868 / 36_864)


def test_an_impossible_utilisation_is_no_number_and_is_warned_of_once(hands, caplog):
    # 36,864 FLOP in 7 s at a peak of 1,000: 5.3 times what is possible
    options = {"peak_flops": 1_000, "settle_steps": 0, "settle_seconds": 0, "log_every": 1}
    meter = on_clock(quiet(**options), hands)
    with caplog.at_level(logging.WARNING, "computemeter"), meter:
        summary = steps_on(meter, hands, 4)
    assert (summary.mfu, summary.hfu) == (None, None)
    assert summary.cause == "peak_suspect"
    assert len([each for each in caplog.messages if "peak_suspect" in each]) == 1


def test_a_precision_without_a_peak_is_named_and_what_to_do(hands, monkeypatch):
    old = Device("Old 1", "cuda", {"fp64": 1e12}, "its data sheet")
    monkeypatch.setattr(torch_counter, "torch_device", lambda _device: old)
    summary = steps_on(on_clock(quiet(settle_steps=0, settle_seconds=0), hands), hands, 4)
    assert summary.cause == "no_peak"
    assert "no fp32 peak of Old 1 is known; pass peak_flops= (dense FLOP/s" in summary.diagnosis
    assert "data sheet" not in summary.diagnosis


def test_an_unknown_device_has_no_method_2_and_no_zero(hands, monkeypatch):
    odd = Device("Mystery 1", "cuda", {}, '"Mystery 1" is not in the table')
    monkeypatch.setattr(torch_counter, "torch_device", lambda _device: odd)
    meter = on_clock(quiet(settle_steps=0, settle_seconds=0), hands)
    summary = steps_on(meter, hands, 4)
    assert summary.model_flops == 36_864
    assert summary.device_name == "Mystery 1"
    assert summary.peak_flops is summary.pfs_days_gpu_time is None
    assert summary.ratio is summary.divergence is summary.mfu is summary.hfu is None
    assert (summary.verdict, summary.cause) == ("unknown", "no_peak")
    assert "Mystery 1" in summary.diagnosis
    assert handed_on(meter).gpu_time_flops is None
    # A peak of the user's makes up for it, at the utilisation assumed of a GPU.
    known = on_clock(quiet(peak_flops=36_864), hands)
    assert steps_on(known, hands, 4).pfs_days_gpu_time == pytest.approx(
        round(7 * 36_864 * 0.33) / PFS_DAY
    )


def test_zero_steps():
    with quiet(peak_flops=1e12, settle_steps=0, settle_seconds=0) as meter:
        pass
    summary = meter.summary()
    assert (summary.steps, summary.model_flops, summary.flops_per_step) == (0, 0, None)
    assert (summary.verdict, summary.cause) == ("unknown", "short_run")
    assert summary.ratio is summary.mfu is summary.pfs_days_gpu_time is None
    assert summary.samples is summary.parameters is summary.precision is None
    assert summary.training_seconds == 0.0
    assert summary.warnings == ()
    assert json.loads(json.dumps(summary.to_dict()))["steps"] == 0


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_one_step_gets_no_verdict(hands, seconds):
    meter = on_clock(quiet(peak_flops=1e6, settle_steps=0, settle_seconds=0), hands)
    (batch,) = batches(BATCH)
    model = net()
    with meter, meter.step(batch):
        backward(model, batch)
        hands.wait(seconds)
    summary = meter.summary()
    assert (summary.steps, summary.model_flops) == (1, BATCH * PER_EXAMPLE)
    assert (summary.verdict, summary.cause) == ("unknown", "short_run")
    assert summary.training_seconds == seconds
    assert summary.warnings == ()


def test_a_run_whose_clock_stands_still_divides_by_nothing(hands, tmp_path):
    meter = on_clock(quiet(peak_flops=1e6, ledger=tmp_path, log_every=1), hands)
    with meter:
        train(meter, net(), batches(BATCH, BATCH))
    summary = meter.summary()
    assert summary.model_flops == 2 * BATCH * PER_EXAMPLE
    assert summary.mfu is summary.ratio is None
    assert summary.verdict == "unknown"
    assert summary.warnings == ()
