"""How long a run still takes, by hand, and what a plain loop is told of it."""

import json
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn

from computemeter import Meter
from computemeter.clock import TrainingClock
from computemeter.forecast import (
    Forecast,
    Length,
    Outlook,
    Pace,
    Projection,
    pace_of,
    time_left,
)
from computemeter.host_time import HostTime
from computemeter.ledger import read_ledger
from computemeter.ranks import SoloRanks
from computemeter.table import print_line, render
from computemeter.wording import clock_time, expected, projected

from .test_table import SUMMARY

STEP = BATCH * FLOPS_PER_EXAMPLE

# 100 steps in 40 s of 100 s: 15 s of validation, 5 s of checkpoints, 80 s of everything else.
STRETCH = HostTime(
    wall=100.0,
    training=70.0,
    steps=40.0,
    waiting=12.0,
    waiting_before=0.0,
    validation=15.0,
    checkpoint=5.0,
    paused=0.0,
    logging=1.0,
    tracing=0.0,
    counted=0.0,
    counted_steps=0,
    all_steps=100,
    compiling=None,
)

FORECAST = Forecast(
    step=20,
    steps=2_820,
    seconds_left=11_520.0,  # 3 h 12 min
    wall_seconds=11_600.0,
    ends_at=0.0,
    run_flops=round(0.012 * 8.64e19),
    limit="max_epochs",
)


# A step and a round of validation and checkpoints.


def test_validation_and_checkpoints_come_by_the_round_and_the_rest_by_the_step():
    # (100 - 15 - 5) / 100 and (15 + 5) / 4
    assert pace_of(STRETCH, steps=100, rounds=4) == Pace(step=0.8, round=5.0)


@pytest.mark.parametrize("rounds", [None, 0, -1])
def test_without_rounds_everything_comes_by_the_step(rounds):
    assert pace_of(STRETCH, steps=100, rounds=rounds) == Pace(step=1.0, round=None)


def test_ends_of_epochs_that_take_no_time_are_not_taken_for_free_validations():
    # (100 - 0) / 100; what a round takes has not been seen.
    idle = replace(STRETCH, validation=0.0, checkpoint=0.0)
    assert pace_of(idle, steps=100, rounds=4) == Pace(step=1.0, round=None)


def test_what_was_there_once_does_not_come_back():
    # 4 s of compiling, and 6 s of the first logging step: (100 - 4 - 6) / 100.
    compiled = replace(STRETCH, compiling=3.0, compiling_outside=1.0)
    assert pace_of(compiled, steps=100, rounds=None, once=6.0) == Pace(step=pytest.approx(0.9))


def test_counted_steps_are_taken_for_plain_ones():
    # 90 plain steps took 40 - 13 = 27 s, 0.3 s each. The 10 counted ones took 13 s in place of 3.
    counted = replace(STRETCH, counted=13.0, counted_steps=10)
    assert pace_of(counted, steps=100, rounds=None) == Pace(step=pytest.approx(0.9))
    # Tracing, outside of steps, is counting too.
    traced = replace(STRETCH, tracing=20.0)
    assert pace_of(traced, steps=100, rounds=None) == Pace(step=pytest.approx(0.8))


@pytest.mark.parametrize(("steps", "counted"), [(0, 0), (5, 5), (5, 6)])
def test_nothing_is_known_without_a_plain_step(steps, counted):
    assert pace_of(replace(STRETCH, counted_steps=counted), steps=steps, rounds=None) is None


def test_the_stretch_between_two_readings():
    later = replace(STRETCH, wall=250.0, all_steps=180, counted_steps=2, compiling=3.0)
    between = later.since(STRETCH)
    assert (between.wall, between.all_steps, between.counted_steps) == (150.0, 80, 2)
    assert (between.validation, between.compiling) == (0.0, 3.0)
    assert STRETCH.since(STRETCH).compiling is None


# What ends a run, and when.


@pytest.mark.parametrize(
    ("length", "left"),
    [
        (Length(steps=100, limit="max_steps"), (100, 50.0, "max_steps")),
        (Length(steps=100, rounds=3, limit="max_epochs"), (100, 50.0 + 3 * 4.0, "max_epochs")),
        (Length(steps=0, rounds=1, limit="max_epochs"), (0, 4.0, "max_epochs")),
        (Length(steps=0), (0, 0.0, "")),
        # 62 s are needed and 31 s left: half of the steps.
        (Length(steps=100, rounds=3, seconds=31.0), (50, 31.0, "max_time")),
        (Length(steps=100, rounds=3, seconds=63.0, limit="x"), (100, 62.0, "x")),
        # 31 s at 0.5 s a step.
        (Length(seconds=31.0), (62, 31.0, "max_time")),
        (Length(steps=100, seconds=-1.0), (0, 0.0, "max_time")),
        (Length(), None),
        (Length(unknown="no length"), None),
        (Length(steps=-1), None),
    ],
)
def test_the_limit_that_comes_first_ends_it(length, left):
    assert time_left(Pace(step=0.5, round=4.0), length) == left


def test_rounds_that_nobody_has_seen_take_no_time():
    assert time_left(Pace(step=0.5), Length(steps=10, rounds=3)) == (10, 5.0, "")


def test_steps_that_take_no_time_are_not_divided_by():
    assert time_left(Pace(step=0.0), Length(seconds=31.0)) is None
    assert time_left(Pace(step=0.0), Length(steps=3, seconds=0.0)) == (3, 0.0, "")


# At a logging step, from what had been timed by then.


def reading(steps, wall, **timed):
    host = replace(STRETCH.since(STRETCH), wall=wall, all_steps=steps, **timed)
    return SimpleNamespace(
        totals=SimpleNamespace(steps=steps), host=host, metering=True, run_flops=None
    )


def look(outlook, length, steps, wall, **timed):
    outlook.length = lambda _: length
    return outlook.look(reading(steps, wall, **timed), 0.0)


@pytest.mark.parametrize(
    ("steps", "seconds", "said"),
    [(1, 0.1, False), (19, 9.9, False), (20, 0.1, True), (1, 10.0, True)],
)
def test_a_forecast_rests_on_20_steps_or_10_seconds(steps, seconds, said):
    outlook, length = Outlook(), Length(steps=1_000)
    assert look(outlook, length, 5, 3.0) is None
    forecast = look(outlook, length, 5 + steps, 3.0 + seconds)
    assert (forecast is not None) is said
    if said:
        assert forecast.seconds_left == pytest.approx(1_000 * seconds / steps)


def test_the_pace_after_the_first_round_has_to_be_enough_too():
    outlook = Outlook()
    look(outlook, Length(steps=140, rounds=10), 10, 0.0)
    look(outlook, Length(steps=101, rounds=9), 49, 20.0, validation=3.0)
    forecast = look(outlook, Length(steps=100, rounds=8), 50, 24.0, validation=4.0)
    # From step 10 on: (24 - 4) s of 40 steps, 4 s of 2 rounds; the last step alone took 3 s.
    assert forecast.seconds_left == pytest.approx(100 * 0.5 + 8 * 2.0)
    forecast = look(outlook, Length(steps=80, rounds=7), 70, 40.0, validation=7.0)
    # From step 49 on: (20 - 4) s of 21 steps, 4 s of 2 rounds.
    assert forecast.seconds_left == pytest.approx(80 * 16 / 21 + 7 * 2.0)


@pytest.mark.parametrize(
    ("rounds", "validates", "seen", "missing"),
    [
        (3, True, {}, True),
        (3, True, {"validation": 1.0}, False),
        (3, True, {"checkpoint": 1.0}, True),  # saved by steps; no validation yet
        (3, False, {}, True),
        (3, False, {"checkpoint": 1.0}, False),
        (0, True, {}, False),
        (0, False, {}, False),
        # It is not known when they come.
        (None, True, {}, True),
        (None, True, {"validation": 1.0}, False),
        (None, False, {}, False),
    ],
)
def test_what_comes_back_and_was_not_seen_is_missing(rounds, validates, seen, missing):
    outlook, length = Outlook(), Length(steps=100, rounds=rounds, validates=validates)
    look(outlook, length, 10, 5.0)
    assert look(outlook, length, 50, 25.0, **seen).rounds_missing is missing


@pytest.mark.parametrize(
    ("timed", "steps", "error"), [(False, 40, None), (True, 40, -0.1), (False, 1_000, -0.1)]
)
def test_a_run_that_was_ended_early_was_not_forecast_wrongly(timed, steps, error):
    outlook = Outlook()
    outlook.first = replace(FORECAST, steps=1_000, wall_seconds=90.0, run_flops=900, timed=timed)
    ended = reading(steps, 100.0)
    ended.run_flops = 1_000
    projection = outlook.against(ended, ended=True)
    # 90 s were said and 900 FLOP, and it was 100 s and 1,000 FLOP.
    expected_error = None if error is None else pytest.approx(error)
    assert projection.seconds_error == projection.flops_error == expected_error


# In words.


def test_the_line(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    at = replace(FORECAST, ends_at=18 * 3600.0 + 40 * 60)  # 18:40, begun at 15:28
    line = "about 0.012 pfs-days, 3 h 12 min left on 4 x A100, done by 18:40"
    assert expected(at, "4 x A100") == line
    assert expected(at, "4 x A100", carried=True) == line.replace("-days", "-days in all")
    unknown = replace(at, run_flops=None)
    assert expected(unknown, "4 x A100") == line.replace("0.012 pfs-days, ", "")
    timed = replace(at, limit="max_time", timed=True)
    assert expected(timed, "4 x A100") == line + " (max_time)"
    stopped = replace(at, rounds_missing=True, may_stop=("EarlyStopping", "the end of the data"))
    assert expected(stopped, "4 x A100") == (
        line + "; validation or checkpoints that were not seen yet may come on top"
        "; EarlyStopping or the end of the data may end it sooner"
    )


def test_flop_come_first_where_petaflop_days_are_tiny():
    tiny = replace(FORECAST, run_flops=117_000_000_000)
    assert expected(tiny, "1 x CPU").startswith("about 117 GFLOP = 1.4e-9 pfs-days, 3 h 12 min")


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.5, "15:30"), (9.5, "Fri 00:30"), (6 * 24 - 1, "Wed 14:00"), (8 * 24, "1970-01-09 15:00")],
)
def test_the_time_of_another_day_has_its_day(monkeypatch, hours, text):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    now = 15 * 3600.0  # 1970-01-01 15:00, a Thursday
    assert clock_time(now + hours * 3600, now=now) == text


PROJECTION = Projection(
    step=20,
    steps=2_820,
    real_steps=None,
    seconds=90.0,
    real_seconds=None,
    seconds_error=None,
    run_flops=330_000_000_000,
    real_run_flops=None,
    flops_error=None,
    rounds_missing=False,
)
ENDED = replace(
    PROJECTION,
    real_steps=2_820,
    real_seconds=100.0,
    seconds_error=-0.1,
    real_run_flops=300_000_000_000,
    flops_error=0.1,
)


def test_projected_against_real():
    assert projected(PROJECTION) == "330 GFLOP in 1 min 30 s of wall time, said at step 20"
    assert projected(ENDED) == (
        "330 GFLOP in 1 min 30 s of wall time, said at step 20; "
        "it became 300 GFLOP (off by +10.0 %) in 1 min 40 s (off by -10.0 %)"
    )
    unseen = projected(replace(ENDED, rounds_missing=True))
    assert "said at step 20 before validation or checkpoints were seen; it became" in unseen
    timed = projected(replace(ENDED, real_steps=400))
    assert timed == projected(ENDED) + ", ended after 400 of 2,820 steps"
    early = replace(ENDED, real_steps=400, seconds_error=None, flops_error=None)
    assert projected(early) == projected(PROJECTION) + "; ended after 400 of 2,820 steps"


def test_the_table_shows_it():
    assert "projected" not in render(SUMMARY)
    assert "said at step 20" in render(replace(SUMMARY, projection=ENDED))


def test_a_line_takes_the_place_of_a_progress_bar_on_a_terminal_alone(capsys, monkeypatch):
    print_line("a\x1b[31mb")
    assert capsys.readouterr().out == "computemeter: a\N{REPLACEMENT CHARACTER}[31mb\n"
    print_line("below", bar_is_open=True)
    assert capsys.readouterr().out == "\ncomputemeter: below\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    print_line("there", bar_is_open=True)
    assert capsys.readouterr().out == "\r\x1b[2Kcomputemeter: there\n"


# A plain loop, on a clock that is moved by hand.


class Hands:
    """A clock: a step takes as long as it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Loop:
    """A metered loop; `steps` takes what each step lasts."""

    def __init__(self, **options):
        self.meter = Meter(**{"ledger": None, "trackers": None, "verbose": 0, **options})
        self.hands = Hands()
        self.meter._clock = TrainingClock(now=self.hands)
        self.net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def steps(self, *seconds):
        for each in seconds:
            inputs = torch.randn(BATCH, INPUTS)
            with self.meter.step(inputs):
                self.net(inputs).sum().backward()
                self.hands.now += each
        return self.forecast

    @property
    def forecast(self):
        return self.meter._last and self.meter._last.forecast

    def validate(self, seconds):
        with self.meter.validation():
            self.hands.now += seconds


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
        loop.hands.now += next(seconds, 0.0)

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
