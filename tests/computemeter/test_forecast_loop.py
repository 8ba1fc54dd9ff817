"""What a plain loop is told of how long it still takes, on a clock that is moved by hand."""

import json
import sys
import time
from dataclasses import replace

import pytest
import torch
from moved_clock import Hands
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn

from computemeter import Meter
from computemeter.clock import TrainingClock
from computemeter.forecast import Length
from computemeter.ledger import read_ledger
from computemeter.ranks import SoloRanks
from computemeter.wording import projected

STEP = BATCH * FLOPS_PER_EXAMPLE


class Loop:
    """A metered loop; `steps` takes what each step lasts."""

    def __init__(self, **options):
        self.meter = Meter(**{"ledger": None, "trackers": None, "verbose": 0, **options})
        self.hands = Hands(0.0)
        self.meter._clock = TrainingClock(now=self.hands)
        self.net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def steps(self, *seconds):
        for each in seconds:
            inputs = torch.randn(BATCH, INPUTS)
            with self.meter.step(inputs):
                self.net(inputs).sum().backward()
                self.hands.wait(each)
        return self.forecast

    @property
    def forecast(self):
        return self.meter._last and self.meter._last.forecast

    def validate(self, seconds):
        with self.meter.validation():
            self.hands.wait(seconds)


def test_the_time_left_of_a_plain_loop():
    loop = Loop(total_steps=20, log_every=4)
    # The first step is slow; what it took does not come back.
    assert loop.steps(9_000, 500, 500, 500) is None
    forecast = loop.steps(500, 500, 500, 500)
    # 12 steps of 500 s are left, after 10,500 + 2,000 s. Counting a step took no time here.
    assert (forecast.step, forecast.steps, forecast.limit) == (8, 20, "total_steps")
    assert forecast.seconds_left == pytest.approx(6_000, rel=1e-3)
    assert forecast.wall_seconds == pytest.approx(18_500, rel=1e-3)
    assert forecast.ends_at == pytest.approx(loop.meter._last.time + 6_000, rel=1e-3)
    assert forecast.run_flops == 20 * STEP
    assert forecast.pfs_days == 20 * STEP / 8.64e19
    assert (forecast.rounds_missing, forecast.may_stop) == (False, ())
    # It grows slower: 4,000 s of 8 steps are left at (2,000 + 4,000) / 8 s.
    assert loop.steps(*[1_000] * 4).seconds_left == pytest.approx(8 * 750, rel=1e-3)


def test_what_the_first_logging_step_takes_is_taken_off_once(monkeypatch):
    loop = Loop(total_steps=60, log_every=20)
    monkeypatch.setattr(time, "perf_counter", loop.hands)
    before, after = iter([7.0]), iter([3.0])

    def passes(seconds):
        loop.hands.wait(next(seconds, 0.0))

    # Waiting for other ranks comes before the reading, telling of the verdict after it.
    loop.meter._exchange = lambda *_: passes(before)
    loop.meter.telling.hear = lambda *_, **__: passes(after)
    loop.steps(*[0.1] * 20)
    # From reading to reading 3 + 2 s, of which the 3 s do not come back; 20 steps are left.
    assert loop.steps(*[0.1] * 20).seconds_left == pytest.approx(2.0)
    assert next(before, None) is None


def test_validation_comes_back_as_often_as_it_came():
    loop = Loop(total_steps=16, log_every=4)
    loop.steps(*[500] * 4)
    loop.validate(1_000)
    # Since the first logging step 4 steps in 2,000 s and 1,000 s of validation: 750 s a step.
    assert loop.steps(*[500] * 4).seconds_left == pytest.approx(8 * 750, rel=1e-3)


def test_the_first_validation_is_not_the_measure_of_the_others():
    loop = Loop(log_every=2)
    # Validation after every 4 of 40 steps, the last after the last; before it the step is logged.
    loop.meter.outlook.length = lambda steps: Length(
        steps=40 - steps, rounds=10 - (steps - 1) // 4, limit="steps"
    )
    assert loop.steps(500, 500) is None
    forecast = loop.steps(500, 500)
    # None of the 10 validations has come: 36 steps of 500 s, and the line says what is missing.
    assert (forecast.seconds_left, forecast.rounds_missing) == (
        pytest.approx(18_000, rel=1e-3),
        True,
    )
    loop.validate(9_000)
    forecast = loop.steps(500, 500)
    assert forecast.seconds_left == pytest.approx(34 * 500 + 9 * 9_000, rel=1e-3)
    assert not forecast.rounds_missing
    loop.steps(500, 500)
    loop.validate(1_000)
    # The second took 1,000 s, and since the first there was no other: 30 steps, 8 validations.
    assert loop.steps(500, 500).seconds_left == pytest.approx(30 * 500 + 8 * 1_000, rel=1e-3)


def test_projected_and_real_in_the_summary(tmp_path):
    loop = Loop(total_steps=20, log_every=4, ledger=tmp_path)
    loop.steps(*[500] * 8)
    before = loop.meter.summary().projection
    assert (before.step, before.steps, before.real_seconds, before.flops_error) == (
        8,
        20,
        None,
        None,
    )
    # Said was 20 x 500 = 10,000 s, and it took 4,000 + 12 x 750 = 13,000 s.
    loop.steps(*[750] * 12)
    loop.meter.close("finished")
    projection = loop.meter.summary().projection
    assert (projection.steps, projection.real_steps) == (20, 20)
    assert projection.seconds == pytest.approx(10_000, rel=1e-3)
    assert projection.real_seconds == pytest.approx(13_000)
    assert projection.seconds_error == pytest.approx(10 / 13 - 1, rel=1e-2)
    assert (projection.real_run_flops, projection.flops_error) == (20 * STEP, 0.0)
    (path,) = tmp_path.glob("*.jsonl")
    kept = read_ledger(path).summary["projection"]
    assert kept == json.loads(json.dumps(loop.meter.summary().to_dict()["projection"]))
    assert "off by" in str(loop.meter.summary())


def test_a_loop_that_is_left_early_says_so():
    loop = Loop(total_steps=20, log_every=4)
    loop.steps(*[500] * 9)
    loop.meter.close("finished")
    projection = loop.meter.summary().projection
    assert (projection.real_steps, loop.forecast) == (9, None)
    assert (projection.seconds_error, projection.flops_error) == (None, None)
    assert projected(projection).endswith(", said at step 8; ended after 9 of 20 steps")


def test_a_resumed_run_has_what_is_left_before_it_and_all_launches_in_the_total():
    first = Loop(total_steps=8, log_every=4)
    first.steps(*[500] * 8)
    second = Loop(total_steps=12, log_every=4)
    second.meter.load_state_dict(first.meter.state_dict())
    forecast = second.steps(*[500] * 8)
    assert forecast.run_flops == (8 + 12) * STEP
    assert (forecast.step, forecast.steps) == (8, 12)
    assert forecast.seconds_left == pytest.approx(4 * 500, rel=1e-3)


def test_the_line_is_printed_once_at_the_second_logging_step(capsys):
    loop = Loop(total_steps=20, log_every=4, verbose=1)
    loop.steps(*[500] * 7)
    assert "left on" not in capsys.readouterr().out
    loop.steps(500)
    (line,) = capsys.readouterr().out.splitlines()
    # 2 * (2 * (12*16 + 16*4) + 16*4) * 8 examples = 9,216 FLOP a step, 20 steps.
    # 12 x 500 s = 1 h 40 min, less some milliseconds of logging, which may be rounded down.
    assert line.startswith("computemeter: about 184 KFLOP = 2.1e-15 pfs-days, 1 h ")
    assert " left on 1 x " in line
    loop.steps(*[500] * 12)
    assert "left on" not in capsys.readouterr().out


def test_rank_0_tells_of_all_devices_and_the_others_of_nothing(capsys):
    loop = Loop(total_steps=20, log_every=4, verbose=1)
    loop.steps(500)  # finds out that it is alone
    loop.meter._ranks = SoloRanks(0, 4)
    # All four have done what this one did.
    assert loop.steps(*[500] * 7).run_flops == 4 * 20 * STEP
    assert " left on 4 x " in capsys.readouterr().out
    other = Loop(total_steps=20, log_every=4, verbose=1)
    other.steps(500)
    other.meter._place = replace(other.meter._place, writes=False)
    capsys.readouterr()
    assert other.steps(*[500] * 11) is not None
    assert capsys.readouterr().out == ""


def test_nothing_is_said_or_forecast_without_a_length(capsys):
    loop = Loop(log_every=4, verbose=1)
    assert loop.steps(*[500] * 12) is None
    assert "left" not in capsys.readouterr().out
    assert loop.meter.summary().projection is None


def test_a_length_that_was_made_up_is_none(capsys):
    loop = Loop(total_steps=sys.maxsize, log_every=2, verbose=1)
    assert loop.steps(*[1] * 8) is None
    assert "left" not in capsys.readouterr().out
    assert loop.meter.summary().warnings == ()


def test_more_steps_than_were_said_are_no_forecast():
    loop = Loop(total_steps=8, log_every=4)
    assert loop.steps(*[500] * 8).seconds_left == 0.0
    assert loop.steps(*[500] * 4) is None
    assert loop.meter.summary().warnings == ()


@pytest.mark.parametrize(("verbose", "there"), [(0, False), (1, False), (2, True)])
def test_the_trackers_have_it_only_where_asked_for(verbose, there):
    loop = Loop(total_steps=20, log_every=4, verbose=verbose)
    forecast = loop.steps(*[500] * 8)
    metrics = loop.meter._last.metrics
    assert ("compute/eta_seconds" in metrics) is there
    if there:
        assert metrics["compute/eta_seconds"] == forecast.seconds_left
        assert metrics["compute/projected_pfs_days"] == forecast.pfs_days


def test_a_length_that_fails_is_told_of_once_and_the_run_goes_on(caplog):
    loop = Loop(log_every=2)
    loop.meter.outlook.length = lambda steps: 1 / 0
    assert loop.steps(*[1] * 8) is None
    summary = loop.meter.summary()
    assert (summary.steps, summary.projection) == (8, None)
    (warning,) = summary.warnings
    assert "Outlook.look failed" in warning


def test_why_nothing_can_be_known_is_said_once(capsys):
    loop = Loop(log_every=2, verbose=1)
    loop.meter.outlook.length = lambda steps: Length(unknown="the data has no length")
    loop.steps(*[1] * 8)
    said = "computemeter: the time left is not known: the data has no length"
    assert capsys.readouterr().out.count(said) == 1


@pytest.mark.parametrize("bad", [0, -1, 1.5, "100", True, float("inf")])
def test_a_bad_number_of_steps_is_an_error_at_once(bad):
    with pytest.raises(ValueError, match=r"total_steps=.*a whole number of at least 1"):
        Meter(total_steps=bad)
    with pytest.raises(TypeError, match="did you mean 'total_steps'"):
        Meter(total_step=100)
