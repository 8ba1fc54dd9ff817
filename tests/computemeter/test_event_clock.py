"""Pairs of device events, on a device whose queue the tests move."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from computemeter.event_clock import EventPairs, event_factory


class Device:
    """A queue that is worked through only when told; its events keep its time in ms."""

    def __init__(self):
        self.made = self.asked = self.elapsed = 0
        self.queued = []
        self.now = 0.0
        self.lost = self.capturing = False

    def work(self, milliseconds):
        self.queued.append(milliseconds)

    def catch_up(self, entries=None):
        """Work through the queue, or through some of what is in it."""
        done = self.queued[:entries]
        del self.queued[: len(done)]
        for entry in done:
            if isinstance(entry, Event):
                entry.reached_at = self.now
            else:
                self.now += entry

    def event(self):
        self.made += 1
        return Event(self)


class Event:
    def __init__(self, device):
        self.device = device
        self.reached_at = None

    def record(self):
        self.check()
        self.reached_at = None
        self.device.queued.append(self)

    def query(self):
        self.check()
        self.device.asked += 1
        return self.reached_at is not None

    def elapsed_time(self, other):
        self.check()
        self.device.elapsed += 1
        assert self.reached_at is not None
        assert other.reached_at is not None
        return other.reached_at - self.reached_at

    def check(self):
        if self.device.lost:
            raise RuntimeError("CUDA error: unspecified launch failure")
        if self.device.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def pairs(device):
    return EventPairs(device.event, capturing=lambda: device.capturing)


def step(pairs, device, milliseconds=10.0):
    pairs.begin()
    device.work(milliseconds)
    pairs.end()


def test_before_the_first_step_the_device_was_busy_for_no_time(pairs):
    assert pairs.busy_seconds() == 0.0


def test_busy_is_the_time_between_a_steps_events_and_gaps_between_steps_are_idle(pairs, device):
    step(pairs, device, 10.0)
    device.work(1000.0)  # somebody else's, or a queue that ran dry
    step(pairs, device, 20.0)
    device.catch_up()

    assert pairs.busy_seconds() == pytest.approx(0.030)


def test_a_gap_within_a_step_is_busy(pairs, device):
    pairs.begin()
    device.work(1.0)
    device.work(7.0)  # the device waits for the host to launch
    device.work(1.0)
    pairs.end()
    device.catch_up()

    assert pairs.busy_seconds() == pytest.approx(0.009)


def test_a_step_that_the_device_has_not_ended_is_not_read_and_not_waited_for(pairs, device):
    step(pairs, device, 10.0)
    step(pairs, device, 20.0)
    device.catch_up(3)  # the first step's two events and its work

    assert pairs.busy_seconds() == pytest.approx(0.010)
    device.catch_up()
    assert pairs.busy_seconds() == pytest.approx(0.030)


def test_no_step_is_read_twice(pairs, device):
    step(pairs, device, 10.0)
    device.catch_up()

    assert [pairs.busy_seconds() for _ in range(3)] == [pytest.approx(0.010)] * 3


def test_ending_a_step_asks_about_the_oldest_pair_alone_while_it_is_not_done(pairs, device):
    for _ in range(100):
        step(pairs, device)

    assert device.asked == 100
    assert device.elapsed == 0


def test_ending_a_step_reads_at_most_two_pairs(pairs, device):
    for _ in range(10):
        step(pairs, device)
    device.catch_up()
    step(pairs, device)

    assert device.elapsed == 2


def test_what_piled_up_is_read_as_steps_go_on(pairs, device):
    for _ in range(10):
        step(pairs, device)
    for _ in range(10):
        device.catch_up()
        step(pairs, device)
    device.catch_up()

    assert device.elapsed >= 19  # two at each of the ten ends, but the last pair of all
    assert pairs.busy_seconds() == pytest.approx(0.200)


def test_events_are_used_again(pairs, device):
    for _ in range(1000):
        step(pairs, device)
        device.catch_up()

    # One pair in use, and one that was done after its own step had looked.
    assert device.made == 4
    assert pairs.busy_seconds() == pytest.approx(10.0)


def test_a_step_that_broke_off_is_forgotten(pairs, device):
    pairs.begin()
    device.work(500.0)  # an exception: no end
    step(pairs, device, 10.0)
    device.catch_up()

    assert pairs.busy_seconds() == pytest.approx(0.010)
    assert device.made == 2  # its pair served the next step


def test_an_end_without_a_beginning_does_nothing(pairs, device):
    pairs.end()
    step(pairs, device, 10.0)
    pairs.end()
    device.catch_up()

    assert pairs.busy_seconds() == pytest.approx(0.010)


def test_steps_beyond_the_bound_get_no_events_and_are_taken_at_the_mean(device):
    pairs = EventPairs(device.event, most_pending=4)
    for milliseconds in (10.0, 20.0, 30.0, 40.0, 1.0, 1.0):
        step(pairs, device, milliseconds)
    assert device.made == 8
    assert pairs.skipped == 2
    assert pairs.busy_seconds() is None  # nothing is read yet that could stand for them

    device.catch_up()
    # (10 + 20 + 30 + 40) / 4 = 25 for each of the two
    assert pairs.busy_seconds() == pytest.approx(0.150)


def test_after_the_device_has_caught_up_steps_get_events_again(device):
    pairs = EventPairs(device.event, most_pending=2)
    for _ in range(3):
        step(pairs, device, 10.0)
    device.catch_up()
    assert pairs.busy_seconds() == pytest.approx(0.030)

    step(pairs, device, 40.0)
    device.catch_up()
    # 10 + 10 + 40 were read, 20 in the mean, and one step was skipped
    assert pairs.busy_seconds() == pytest.approx(0.080)
    assert pairs.skipped == 1


def test_reading_may_be_left_until_it_is_asked_for(device):
    pairs = EventPairs(device.event, read_at_end=False)
    for _ in range(5):
        step(pairs, device)
        device.catch_up()
    assert device.asked == device.elapsed == 0

    assert pairs.busy_seconds() == pytest.approx(0.050)


def test_a_step_whose_end_is_reached_before_its_beginning_takes_no_time_away(pairs, device):
    step(pairs, device, -5.0)  # on two streams
    step(pairs, device, 10.0)
    device.catch_up()

    assert pairs.busy_seconds() == pytest.approx(0.010)


@pytest.mark.parametrize("when", ["begin", "end", "busy_seconds"])
def test_a_device_that_is_lost_makes_busy_unknown_and_never_raises(pairs, device, when):
    step(pairs, device)
    device.catch_up()
    if when == "end":
        pairs.begin()
    device.lost = True
    getattr(pairs, when)()

    assert pairs.busy_seconds() is None
    assert pairs.problem == (
        "the device's events failed: RuntimeError: CUDA error: unspecified launch failure"
    )

    device.lost = False
    step(pairs, device)
    device.catch_up()
    assert pairs.busy_seconds() is None  # what happened meanwhile is not known


def test_a_device_that_has_no_events_makes_busy_unknown():
    make_event = mock.Mock(side_effect=RuntimeError("dummy base class Event"))
    pairs = EventPairs(make_event)
    pairs.begin()
    pairs.end()

    assert pairs.busy_seconds() is None
    assert "dummy base class" in pairs.problem
    assert make_event.call_count == 1


def test_while_a_graph_is_captured_no_event_is_touched(pairs, device):
    step(pairs, device, 10.0)
    device.capturing = True  # events raise now
    step(pairs, device, 1000.0)
    assert pairs.busy_seconds() == 0.0
    device.capturing = False
    device.catch_up()

    assert pairs.problem is None
    assert pairs.busy_seconds() == pytest.approx(0.010)
    assert pairs.skipped == 0  # what was captured did not run


def test_a_step_that_ends_in_a_capture_is_forgotten(pairs, device):
    pairs.begin()
    device.capturing = True
    pairs.end()
    device.capturing = False
    step(pairs, device, 10.0)
    device.catch_up()

    assert pairs.busy_seconds() == pytest.approx(0.010)
    assert device.made == 2


@pytest.mark.parametrize("device", ["cpu", "meta", "hpu:0", torch.device("cpu")])
def test_other_devices_have_no_events(device):
    assert event_factory(device) is None
    assert EventPairs.on(device) is None


class TorchEvent:
    """Stands in for torch's classes, which a build for the CPU does not have."""

    recorded_on = "nothing"

    def __init__(self, enable_timing=False):
        self.enable_timing = enable_timing

    def record(self, stream="the current stream of the current device"):
        self.recorded_on = stream


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_events_of_a_device_with_an_index_go_to_it_whichever_is_current(kind):
    def current_stream(device):
        return f"the current stream of {device}"

    module = SimpleNamespace(Event=TorchEvent, current_stream=current_stream)
    with mock.patch.object(torch, kind, module):
        event = event_factory(torch.device(kind, 1))()
        event.record()

    assert event.enable_timing is True
    assert event.recorded_on == f"the current stream of {kind}:1"


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_events_of_a_device_without_an_index_follow_the_current_one(kind):
    with mock.patch.object(torch, kind, SimpleNamespace(Event=TorchEvent)):
        event = event_factory(kind)()
        event.record()

    assert event.enable_timing is True
    assert event.recorded_on == "the current stream of the current device"


def test_on_mps_no_step_is_read_before_busy_is_asked_for():
    device = Device()

    def make(enable_timing):
        assert enable_timing is True
        return device.event()

    with mock.patch.object(torch.mps.event, "Event", make):
        pairs = EventPairs.on("mps")
        for _ in range(100):
            step(pairs, device)
            device.catch_up()

    assert device.elapsed == 0
    assert pairs.skipped == 36  # 100 - 64
    assert pairs.busy_seconds() == pytest.approx(1.0)
    assert device.elapsed == 64


def test_on_cuda_a_capture_is_asked_about():
    device = Device()
    cuda = SimpleNamespace(
        Event=lambda enable_timing: device.event(),
        is_current_stream_capturing=lambda: device.capturing,
    )
    with mock.patch.object(torch, "cuda", cuda):
        pairs = EventPairs.on("cuda")
        device.capturing = True
        step(pairs, device)

    assert pairs.problem is None
    assert device.made == 0
