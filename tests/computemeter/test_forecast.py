"""How long a run still takes, worked out by hand, and how it is said."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

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
from computemeter.table import print_line, render
from computemeter.wording import clock_time, expected, projected

from .test_table import SUMMARY

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
