"""A fit that is over in a moment is told nothing of the time that is left."""

from dataclasses import replace

import pytest
import torch

from computemeter import Meter
from computemeter.clock import TrainingClock
from computemeter.forecast import Projection
from computemeter.table import render

from .test_table import SUMMARY

STEPS = 60
"""Told of at step 40: 20 steps after the first logging step a pace is known."""


def loop(seconds, capsys):
    """Train on a clock that is moved by hand; return what was printed, and the meter."""
    now = 0.0
    meter = Meter(ledger=None, trackers=None, log_every=20, total_steps=STEPS)
    meter._clock = TrainingClock(now=lambda: now)
    net = torch.nn.Linear(2, 2)
    for _ in range(STEPS):
        with meter.step():
            net(torch.ones(1, 2)).sum().backward()
            now += seconds
    meter.close("finished")
    return capsys.readouterr().out, meter


@pytest.mark.parametrize(
    # 60 steps of 50 ms are 3 s, of 200 ms 12 s.
    ("seconds", "told"),
    [(0.05, False), (0.2, True)],
)
def test_what_takes_less_than_5_seconds_is_not_forecast_aloud(capsys, seconds, told):
    out, meter = loop(seconds, capsys)
    summary = meter.summary()
    assert ("left on" in out) is told
    assert meter.outlook.first.is_news is told
    assert ("said at step 40" in str(summary)) is told
    # As a value it is there.
    assert summary.projection.seconds == pytest.approx(STEPS * seconds, rel=0.1)


@pytest.mark.parametrize(("seconds", "shown"), [(4.9, False), (5.0, True)])
def test_the_table_tells_of_what_was_said(seconds, shown):
    projection = Projection(
        step=20,
        steps=60,
        real_steps=60,
        seconds=seconds,
        real_seconds=90.0,
        seconds_error=seconds / 90.0 - 1,
        run_flops=1,
        real_run_flops=1,
        flops_error=0.0,
        rounds_missing=False,
    )
    table = render(replace(SUMMARY, projection=projection))
    assert projection.was_said is shown
    assert ("said at step 20" in " ".join(table.replace("│", " ").split())) is shown
