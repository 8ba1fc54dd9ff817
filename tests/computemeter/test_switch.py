"""COMPUTEMETER=0: meters that do nothing at all, and say so."""

import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from small_runs import BATCH, FLOPS_PER_EXAMPLE, INPUTS
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from computemeter import Meter
from computemeter.records import Summary
from computemeter.switch import switched_off, switched_on

OFF = ["0", "off", "false", "no", "OFF", " No "]
ON = ["1", "on", "true", "yes", "True"]
UNSET = ["", " "]


@pytest.fixture
def off(monkeypatch, tmp_path):
    """Disable every meter, in a folder where nothing may appear."""
    monkeypatch.setenv("COMPUTEMETER", "0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(meter, steps=3):
    """Train a tiny net; return its weights and what a step sees of the meter."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(INPUTS, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    optimizer, modes = torch.optim.SGD(net.parameters(), 0.1), []
    for _ in range(steps):
        with meter.step(batch := torch.randn(BATCH, INPUTS)):
            modes.append(_get_current_dispatch_mode())
            net(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        with meter.validation():
            net(batch)
    return [parameter.tolist() for parameter in net.parameters()], modes


@pytest.mark.parametrize(
    ("values", "is_off", "is_on"), [(OFF, True, False), (ON, False, True), (UNSET, False, False)]
)
def test_the_words(values, is_off, is_on, monkeypatch):
    for value in values:
        monkeypatch.setenv("COMPUTEMETER", value)
        assert (switched_off(), switched_on()) == (is_off, is_on), value


def test_any_other_value_is_an_error_where_a_meter_is_made(monkeypatch):
    monkeypatch.setenv("COMPUTEMETER", "maybe")
    with pytest.raises(ValueError, match=r"COMPUTEMETER='maybe': accepted are 0, off, .* 1, on"):
        Meter()


def test_a_loop_is_left_alone(off, capfd, caplog):
    with Meter() as meter:
        _, modes = train(meter)
        meter.log(3)
    assert modes == [None] * 3
    assert list(off.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_the_summary_says_why_nothing_is_in_it(off):
    with Meter(peak_flops=1e12, base_flops=5) as meter:
        train(meter)
        meter.add_flops(7)
    summary = meter.summary()
    reason = "nothing was measured: COMPUTEMETER=0 disables every meter"
    assert summary.warnings == (reason,)
    assert summary.diagnosis == reason
    assert (summary.verdict, summary.cause) == ("unknown", "none")
    assert summary.steps == summary.training_seconds == 0
    optional = {field.name for field in fields(Summary) if "None" in field.type}
    assert {"model_flops", "run_flops", "mfu", "ratio", "parameters"} < optional
    assert {name for name in optional if getattr(summary, name) is not None} == set()
    assert summary.to_dict()["diagnosis"] == reason


def test_weights_are_those_of_a_metered_loop(off, monkeypatch):
    with Meter() as disabled:
        weights, _ = train(disabled)
    monkeypatch.setenv("COMPUTEMETER", "1")
    with Meter(ledger=None, trackers=None, verbose=0) as meter:
        assert train(meter)[0] == weights
    # 1 is the site's business: a meter of one's own is as without it.
    assert meter.summary().model_flops == 3 * BATCH * FLOPS_PER_EXAMPLE


def test_what_the_callbacks_call_does_nothing_either(off):
    class Untouched:
        def __getattr__(self, name):
            raise AssertionError(name)

    meter = Meter()
    meter.attach(Untouched(), Untouched())
    meter.start_step()
    meter.end_step()
    meter.start_execution()
    meter.end_execution([Untouched()])
    meter.close("finished")
    meter.print_summary()
    assert meter.breakdown() == {}
    assert meter.summary().steps == 0
    assert list(off.iterdir()) == []


def test_a_run_that_was_trained_without_its_meter_for_a_while_is_not_known(off, monkeypatch):
    """What the disabled segment did is in nobody's totals: no total may look complete."""
    monkeypatch.setenv("COMPUTEMETER", "")
    first = Meter(ledger=None, trackers=None, verbose=0)
    train(first)
    assert first.state_dict()["run_flops"] == 3 * BATCH * FLOPS_PER_EXAMPLE
    monkeypatch.setenv("COMPUTEMETER", "0")
    second = Meter()
    second.load_state_dict(first.state_dict())
    train(second)
    monkeypatch.setenv("COMPUTEMETER", "")
    third = Meter(ledger=None, trackers=None, verbose=0)
    third.load_state_dict(second.state_dict())
    train(third)
    summary = third.summary()
    assert summary.model_flops == 3 * BATCH * FLOPS_PER_EXAMPLE
    assert summary.run_flops is None
    assert summary.spent_flops is None


def test_a_disabled_meter_imports_no_framework():
    code = """
import sys
sys.modules["torch"] = None
from computemeter import Meter
with Meter() as meter:
    for batch in range(3):
        with meter.step(batch), meter.pause():
            pass
print(meter.summary().warnings)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"COMPUTEMETER": "off"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.strip() == (
        "('nothing was measured: COMPUTEMETER=off disables every meter',)"
    )
    assert done.stderr == ""
