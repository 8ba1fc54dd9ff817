"""What the result of a probe says, and the results of several devices."""

import pytest
import torch
from probe_inputs import data, net

from computemeter.planning import probe as probing
from computemeter.planning.probe import (
    Dropped,
    ProbeError,
    ProbeResult,
    StepTime,
    StepTimeFit,
    probe_devices,
)

RESULT = ProbeResult(
    device_name="a device",
    measured=(StepTime(batch_size=8, seconds=2.4), StepTime(batch_size=16, seconds=5.0)),
    dropped=(
        Dropped(batch_size=20, reason="RuntimeError: odd", failed=True),
        Dropped(batch_size=24, reason="no time left of 2 s"),
        Dropped(batch_size=64, reason="does not fit in memory", too_large=True),
    ),
    fit=StepTimeFit(fixed=0.5, per_example=0.25),
)


def test_cpu_comes_first_and_alone_where_there_is_nothing_else():
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    (result,) = probe_devices(net(), data(), batch_sizes=[8], steps=1, in_process=True)
    assert [step.batch_size for step in result.measured] == [8]


def test_a_device_that_fails_does_not_cost_the_other_s_result(monkeypatch):
    def found(model, batch, device):
        if device in failing:
            raise ProbeError(f"no step on a {device}")
        return RESULT

    monkeypatch.setattr(probing, "_torch_devices", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(probing, "probe", found)
    failing = ["cpu"]
    (result,) = probe_devices(net(), data(), device=None)
    assert result.notes == ("Nothing was measured on cpu: no step on a cpu",)
    failing = ["cpu", "cuda"]
    with pytest.raises(ProbeError, match="on cpu: no step on a cpu; Nothing was measured on cuda"):
        probe_devices(net(), data())


def test_a_forecast_is_what_was_measured_and_else_what_was_fitted():
    assert RESULT.seconds_per_step(8) == 2.4
    assert RESULT.seconds_per_step(4) == 1.5
    assert RESULT.seconds_per_step(32) == 8.5
    assert RESULT.seconds_per_step(20) is None
    assert RESULT.seconds_per_step(24) == 6.5
    assert RESULT.seconds_per_step(64) is None
    assert RESULT.seconds_per_step(128) is None
    assert RESULT.saturates_at == 18


def test_the_last_batch_of_an_epoch_is_as_large_as_it_is():
    # 100 = 12 batches of 8 and one of 4: 12 * 2.4 + 1.5
    assert RESULT.epoch_seconds(100, 8) == pytest.approx(30.3)
    assert RESULT.epoch_seconds(16, 8) == 4.8
    assert RESULT.epoch_seconds(100, 64) is None


@pytest.mark.parametrize("call", [("seconds_per_step", 0), ("epoch_seconds", 0, 8)])
def test_a_forecast_of_nothing_is_refused(call):
    name, *args = call
    with pytest.raises(ValueError, match="must be above 0"):
        getattr(RESULT, name)(*args)
