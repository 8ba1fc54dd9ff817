"""The parts of a fit's wall time, by hand."""

from dataclasses import replace

import pytest

from computemeter.host_time import HostTime

# 100 steps in 40 s, 10 of them counted in 13 s; the 90 others took 27 s, 0.3 s each, so counting
# made the 10 longer by 13 - 3 = 10 s. Training lasts 60 s, with 12 s of waiting for data.
BASE = HostTime(
    wall=100.0,
    training=60.0,
    steps=40.0,
    waiting=12.0,
    waiting_before=2.0,
    validation=15.0,
    checkpoint=5.0,
    paused=3.0,
    logging=1.0,
    tracing=0.0,
    counted=13.0,
    counted_steps=10,
    all_steps=100,
    compiling=None,
)


def test_the_parts():
    assert BASE.parts() == pytest.approx(
        {
            "step": 40 - 10,
            "stall": 12,
            "validation": 15,
            "checkpoint": 5,
            "compile": 0,
            "counting": 10,
            # 60 - 40 - 12 = 8 of callbacks and logging, 3 of pauses, 17 before and after training
            "other": 100 - 30 - 12 - 15 - 5 - 10,
        }
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"waiting": None},
        {"compiling": 4.0},
        {"tracing": 2.0, "counted_steps": 100, "counted": 40.0},
        {"counted_steps": 0, "counted": 0.0},
        {"validation": 0.0},
    ],
)
def test_the_parts_add_up_to_the_whole(change):
    parts = replace(BASE, **change).parts()
    assert sum(parts.values()) == pytest.approx(100.0)
    assert min(parts.values()) >= 0


def test_where_waiting_was_not_seen_it_is_what_passes_between_steps():
    # 60 s of training, 40 s of them in steps, 1 s of our own logging, 2 s of tracing
    assert replace(BASE, waiting=None, tracing=2.0).stall == pytest.approx(60 - 40 - 1 - 2)


def test_waiting_for_the_first_batch_is_no_stall_of_the_training():
    assert BASE.stall_in_training == 10.0
    assert BASE.stall == 12.0
    assert replace(BASE, waiting=None).stall_in_training is None


def test_compiling_is_no_cost_of_counting():
    # The counted steps took 10 s longer, and 4 s of that was compiling.
    parts = replace(BASE, compiling=4.0).parts()
    assert (parts["compile"], parts["counting"], parts["step"]) == (4.0, 6.0, 30.0)


def test_where_all_steps_were_counted_nothing_is_known_of_its_cost():
    assert replace(BASE, counted_steps=100, counted=40.0).counting == 0.0


def test_a_clock_that_jumps_makes_nothing_negative():
    parts = replace(BASE, wall=10.0, training=0.0, waiting=None).parts()
    assert parts["other"] == parts["stall"] == 0.0
