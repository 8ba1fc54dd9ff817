"""What is training time and what is not, on a clock that the tests move."""

import pytest

from computemeter.clock import TrainingClock


@pytest.fixture
def clock(hands):
    return TrainingClock(now=hands)


def step(clock, hands, seconds):
    clock.start_step()
    hands.wait(seconds)
    return clock.end_step()


def window(clock, hands, seconds):
    clock.leave_out()
    hands.wait(seconds)
    clock.take_back()


def read(clock):
    return clock.training_seconds, clock.step_seconds


def test_before_the_first_step_no_time_has_passed(clock, hands):
    hands.wait(50)
    assert read(clock) == (0.0, 0.0)


def test_one_step_is_its_own_duration(clock, hands):
    hands.wait(50)  # imports, data: before training
    assert step(clock, hands, 2) == 2.0
    hands.wait(50)  # after training
    assert read(clock) == (2.0, 2.0)


def test_stalls_between_steps_are_training_time(clock, hands):
    step(clock, hands, 2)
    hands.wait(5)  # waiting for data
    step(clock, hands, 3)
    # 2 + 5 + 3 of training, 5 of them in steps
    assert read(clock) == (10.0, 5.0)


def test_a_step_that_has_not_ended_is_not_counted_yet(clock, hands):
    step(clock, hands, 2)
    clock.start_step()
    hands.wait(7)
    assert read(clock) == (2.0, 2.0)
    clock.end_step()
    assert read(clock) == (9.0, 9.0)


def test_windows_are_taken_out(clock, hands):
    step(clock, hands, 2)
    hands.wait(1)
    window(clock, hands, 10)  # validation
    hands.wait(1)
    step(clock, hands, 2)
    window(clock, hands, 20)  # checkpoint
    step(clock, hands, 2)
    # 2 + 1 + 1 + 2 + 2
    assert read(clock) == (8.0, 6.0)


def test_a_window_in_a_window_is_one_window(clock, hands):
    step(clock, hands, 2)
    clock.leave_out()
    hands.wait(3)
    window(clock, hands, 4)  # a checkpoint within the validation
    hands.wait(3)
    clock.take_back()
    hands.wait(1)
    step(clock, hands, 2)
    # 15 in all, 3 + 4 + 3 of them left out
    assert read(clock) == (5.0, 4.0)


def test_a_window_before_the_first_step_takes_nothing_out(clock, hands):
    window(clock, hands, 30)  # a sanity check of the validation
    hands.wait(5)
    step(clock, hands, 2)
    hands.wait(1)
    step(clock, hands, 2)
    assert read(clock) == (5.0, 4.0)


def test_a_window_after_the_last_step_takes_nothing_out(clock, hands):
    step(clock, hands, 2)
    step(clock, hands, 2)
    window(clock, hands, 30)
    assert read(clock) == (4.0, 4.0)
    # nor does it take anything from what comes after
    hands.wait(1)
    step(clock, hands, 2)
    assert read(clock) == (7.0, 6.0)


def test_a_window_that_is_open_at_the_first_step_takes_out_what_is_after_its_start(clock, hands):
    clock.leave_out()
    hands.wait(10)
    step(clock, hands, 2)
    hands.wait(3)
    clock.take_back()
    hands.wait(1)
    step(clock, hands, 2)
    # Of the 8 since the first step began, 2 + 3 are within the window.
    assert clock.training_seconds == pytest.approx(3.0)


def test_closing_a_window_that_is_not_open_does_nothing(clock, hands):
    step(clock, hands, 2)
    clock.take_back()
    hands.wait(3)
    clock.take_back()
    step(clock, hands, 2)
    assert read(clock) == (7.0, 4.0)
    window(clock, hands, 5)
    step(clock, hands, 2)
    assert read(clock) == (9.0, 6.0)


def test_ending_a_step_that_has_not_begun_does_nothing(clock, hands):
    assert clock.end_step() == 0.0
    step(clock, hands, 2)
    hands.wait(5)
    assert clock.end_step() == 0.0
    assert read(clock) == (2.0, 2.0)


def test_a_step_that_is_begun_twice_counts_from_the_second_time(clock, hands):
    clock.start_step()
    hands.wait(3)
    clock.start_step()
    hands.wait(2)
    assert clock.end_step() == 2.0
    # training began with the first
    assert read(clock) == (5.0, 2.0)


def test_a_clock_that_jumps_back_within_a_step_never_makes_time_negative(clock, hands):
    clock.start_step()
    hands.wait(-50)
    assert clock.end_step() == 0.0
    assert read(clock) == (0.0, 0.0)


def test_a_clock_that_jumps_back_takes_no_time_away(clock, hands):
    step(clock, hands, 5)
    hands.wait(-50)
    step(clock, hands, 2)
    assert read(clock) == (5.0, 7.0)
    # once it has caught up, time goes on: 60 after the first start
    hands.wait(103)
    step(clock, hands, 0)
    assert clock.training_seconds == 60.0


def test_a_clock_that_jumps_back_within_a_window_takes_nothing_out(clock, hands):
    step(clock, hands, 5)
    window(clock, hands, -50)
    hands.wait(50)
    step(clock, hands, 5)
    assert read(clock) == (10.0, 10.0)


def test_time_is_monotonic_by_default():
    clock = TrainingClock()
    clock.start_step()
    clock.end_step()
    clock.start_step()
    clock.end_step()
    assert 0.0 <= clock.step_seconds <= clock.training_seconds
