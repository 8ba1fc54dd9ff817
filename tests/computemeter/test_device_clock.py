"""The device's side of time: PyTorch's clock, and what the host's clock takes for training."""

import sys
from types import SimpleNamespace

import pytest
import torch

from computemeter.clock import TrainingClock
from computemeter.device_clock import TorchClock

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Dynamo:
    """Dynamo's account of what it compiled, in nanoseconds and for the whole process."""

    def __init__(self, monkeypatch):
        self.spent = {}
        utils = SimpleNamespace(cumulative_time_spent_ns=self.spent)
        monkeypatch.setitem(sys.modules, "torch._dynamo.utils", utils)

    def compile(self, seconds):
        before = self.spent.get("entire_frame_compile", 0)
        self.spent["entire_frame_compile"] = before + seconds * 1_000_000_000


@pytest.fixture
def dynamo(monkeypatch):
    return Dynamo(monkeypatch)


def test_without_dynamo_nothing_was_compiled(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo.utils", raising=False)
    clock = TorchClock(lambda: CPU)
    clock.pause(True)
    clock.pause(False)
    assert clock.compile_seconds() == 0.0
    assert clock.busy_seconds(4.0) == 4.0


def test_an_account_without_what_it_is_read_for_is_zero(dynamo):
    assert TorchClock(lambda: CPU).compile_seconds() == 0.0


def test_what_was_compiled_before_the_run_is_not_its_own(dynamo):
    dynamo.compile(7)
    clock = TorchClock(lambda: CPU)
    dynamo.compile(3)
    assert clock.compile_seconds() == 3.0


def test_what_is_compiled_in_a_pause_is_left_out(dynamo):
    clock = TorchClock(lambda: CPU)
    dynamo.compile(3)
    clock.pause(True)
    dynamo.compile(50)  # validation
    assert clock.compile_seconds() == 3.0
    clock.pause(False)
    dynamo.compile(2)
    clock.pause(True)
    dynamo.compile(50)
    clock.pause(False)
    assert clock.compile_seconds() == 3.0 + 2.0


def test_a_pause_in_a_pause_is_one_pause(dynamo):
    clock = TorchClock(lambda: CPU)
    dynamo.compile(3)
    clock.pause(True)
    dynamo.compile(50)
    clock.pause(True)
    dynamo.compile(50)
    clock.pause(False)
    dynamo.compile(1)
    assert clock.compile_seconds() == 3.0 + 1.0


def test_after_the_end_nothing_is_added(dynamo):
    clock = TorchClock(lambda: CPU)
    dynamo.compile(3)
    clock.close()
    dynamo.compile(50)
    assert clock.compile_seconds() == 3.0
    clock.close()
    assert clock.compile_seconds() == 3.0


def test_an_account_that_somebody_reset_takes_nothing_away(dynamo):
    dynamo.compile(7)
    clock = TorchClock(lambda: CPU)
    dynamo.spent.clear()
    assert clock.compile_seconds() == 0.0


def test_a_dynamo_that_comes_later_is_read_all_the_same(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo.utils", raising=False)
    clock = TorchClock(lambda: CPU)
    Dynamo(monkeypatch).compile(3)
    assert clock.compile_seconds() == 3.0


@pytest.mark.parametrize(
    ("device", "busy"),
    # On a CPU the steps less compiling; elsewhere the host does not know, and no step has begun.
    [(CPU, 10.0 - 3.0), (GPU, None), (None, None)],
)
def test_the_device_is_busy_in_steps_that_run_on_the_host(dynamo, device, busy):
    clock = TorchClock(lambda: device)
    dynamo.compile(3)
    assert clock.busy_seconds(10.0) == busy


def test_a_cpu_has_no_events(dynamo):
    clock = TorchClock(lambda: CPU)
    clock.begin_step()
    clock.end_step(10.0, first=True)
    assert clock.busy_seconds(10.0) == 10.0


def test_the_device_is_never_busy_for_less_than_no_time(dynamo):
    clock = TorchClock(lambda: CPU)
    dynamo.compile(3)  # outside of any step
    assert clock.busy_seconds(1.0) == 0.0


def test_torch_keeps_the_account_that_is_read():
    utils = pytest.importorskip("torch._dynamo.utils")
    assert isinstance(utils.cumulative_time_spent_ns, dict)


# The host's clock, where the device runs behind the host.


@pytest.fixture
def clock(hands):
    return TrainingClock(now=hands)


def step(clock, hands, seconds):
    clock.start_step()
    hands.wait(seconds)
    clock.end_step()


def test_training_goes_on_until_the_device_has_finished(clock, hands):
    step(clock, hands, 2)
    hands.wait(5)  # the device works on what it was given
    clock.extend()
    assert (clock.training_seconds, clock.step_seconds) == (7.0, 2.0)
    hands.wait(50)  # after training
    assert clock.training_seconds == 7.0


def test_before_the_first_step_there_is_nothing_to_finish(clock, hands):
    hands.wait(5)
    clock.extend()
    assert clock.training_seconds == 0.0
    step(clock, hands, 2)
    assert clock.training_seconds == 2.0


def test_what_was_left_out_stays_out(clock, hands):
    step(clock, hands, 2)
    clock.leave_out()
    hands.wait(10)  # a checkpoint
    clock.take_back()
    hands.wait(1)
    clock.extend()
    assert clock.training_seconds == 2.0 + 1.0


def test_within_a_window_nothing_is_training(clock, hands):
    step(clock, hands, 2)
    hands.wait(1)
    clock.leave_out()
    hands.wait(10)
    clock.extend()
    assert clock.training_seconds == 2.0
    clock.take_back()
    clock.extend()
    assert clock.training_seconds == 2.0 + 1.0


def test_a_clock_that_jumps_back_takes_no_time_away(clock, hands):
    step(clock, hands, 5)
    hands.wait(-50)
    clock.extend()
    assert clock.training_seconds == 5.0


def test_a_second_time_adds_only_what_passed(clock, hands):
    step(clock, hands, 2)
    hands.wait(3)
    clock.extend()
    clock.extend()
    hands.wait(4)
    clock.extend()
    step(clock, hands, 1)
    # 2 + 3 + 4 + 1
    assert clock.training_seconds == 10.0
