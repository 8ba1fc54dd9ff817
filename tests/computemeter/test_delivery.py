"""Delivery: everything arrives, nobody waits, nothing is lost silently."""

import os
import random
import subprocess
import sys
import threading
import time

import pytest

from computemeter import delivery
from computemeter.delivery import Delivery, Gone, Rejected

# Bounds are generous: they tell "waits for the tracker" from "does not", not fast from slow.
SOON = 20.0


class Tracker:
    """A tracker that keeps what it gets, fails on demand, and can be made to hang."""

    def __init__(self, failures=0):
        self.points, self.batches, self.attempts, self.failures = [], [], 0, failures
        self.refuses, self.gone = set(), False
        self.called, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def send(self, batch):
        self.attempts += 1
        self.called.set()
        self.gate.wait(SOON)
        if self.attempts <= self.failures:
            raise ConnectionError("http://ann:s3cret@host:5000 is down")
        if self.gone:
            raise Gone("no run at http://ann:s3cret@host:5000")
        if self.refuses.intersection(batch):
            raise Rejected("http://ann:s3cret@host:5000 does not like it")
        self.batches.append(batch)
        self.points += batch


@pytest.fixture
def tracker():
    return Tracker()


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", 0.01)


def deliver_to(tracker, warnings=None, **options):
    warn = (warnings if warnings is not None else []).append
    return Delivery(tracker.send, warn=warn, label="test", **options)


def test_everything_arrives_once_in_order(tracker):
    sending = deliver_to(tracker)
    for point in range(1200):
        sending.put(point)
    assert sending.close(SOON) == 0
    assert tracker.points == list(range(1200))
    # 1200 = 500 + 500 + 200
    assert [len(batch) for batch in tracker.batches] == [500, 500, 200]


def test_the_thread_starts_with_the_first_point_and_is_a_daemon(tracker):
    sending = deliver_to(tracker)
    assert sending._thread is None
    assert sending.close() == 0
    sending = deliver_to(tracker)
    sending.put(1)
    thread = sending._thread
    assert thread.daemon
    sending.close(SOON)
    assert not thread.is_alive()


def test_half_a_queue_does_not_wait_for_the_interval(tracker):
    sending = deliver_to(tracker, capacity=10, interval=600)
    for point in range(5):  # capacity / 2
        sending.put(point)
    assert tracker.called.wait(SOON)
    sending.close(SOON)


def test_a_few_points_wait_for_the_interval(tracker):
    sending = deliver_to(tracker, interval=0.05)
    sending.put(1)
    assert tracker.called.wait(SOON)
    sending.close(SOON)


def test_a_failed_batch_is_sent_again_and_warned_of_once(hurried):
    tracker, warnings = Tracker(failures=3), []
    sending = deliver_to(tracker, warnings, interval=0.01)
    for point in range(4):
        sending.put(point)
    assert sending.close(SOON) == 0
    assert tracker.points == [0, 1, 2, 3]
    assert len(warnings) == 1
    assert "ConnectionError" in warnings[0]
    assert "s3cret" not in warnings[0]
    assert "\n" not in warnings[0]


def test_a_warning_that_raises_does_not_end_the_delivery(hurried, tracker):
    def refuse(message):
        raise RuntimeWarning(message)

    tracker.failures = 1
    sending = Delivery(tracker.send, warn=refuse, label="test", interval=0.01)
    sending.put("point")
    assert sending.close(SOON) == 0
    assert tracker.points == ["point"]


def test_a_tracker_that_stays_down_is_given_up_at_the_timeout(hurried):
    tracker, warnings = Tracker(failures=10**9), []
    sending = deliver_to(tracker, warnings, interval=0.01)
    for point in range(3):
        sending.put(point)
    started = time.monotonic()
    assert sending.close(0.3) == 3
    assert time.monotonic() - started < SOON
    assert len(warnings) == 1


def test_close_cuts_a_long_back_off_short(monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", SOON)
    tracker = Tracker(failures=1)
    sending = deliver_to(tracker, interval=0.01)
    sending.put("point")
    assert tracker.called.wait(SOON)
    assert sending.close(SOON) == 0
    assert tracker.points == ["point"]


def test_nobody_waits_for_a_send_that_hangs(tracker):
    tracker.gate.clear()
    sending = deliver_to(tracker, capacity=10_000, interval=0.01)
    sending.put(0)
    assert tracker.called.wait(SOON)
    started = time.monotonic()
    for point in range(1, 1000):
        sending.put(point)
    assert sending.close(0.2) == 1000
    assert time.monotonic() - started < SOON / 2  # the send itself hangs for SOON
    tracker.gate.set()


def test_a_full_queue_drops_the_oldest_and_says_how_many(tracker):
    tracker.gate.clear()
    sending = deliver_to(tracker, capacity=10, interval=0.01)
    sending.put("first")
    assert tracker.called.wait(SOON)  # "first" is on its way: the queue is empty
    for point in range(25):
        sending.put(point)
    # 25 into a queue of 10: 0..14 are gone.
    assert sending.dropped == 15
    tracker.gate.set()
    assert sending.close(SOON) == 15
    assert tracker.points == ["first", *range(15, 25)]


def test_after_close_it_opens_again_for_the_next_fit(tracker):
    sending = deliver_to(tracker)
    sending.put(1)
    sending.close(SOON)
    sending.put(2)
    assert sending.close(SOON) == 0
    assert sending.close(SOON) == 0
    assert tracker.points == [1, 2]


def test_refused_points_stand_alone_in_the_end_and_the_rest_arrives(tracker):
    warnings, tracker.refuses = [], {3, 700, 701}
    sending = deliver_to(tracker, warnings)
    for point in range(1000):
        sending.put(point)
    assert sending.close(SOON) == 3
    assert sending.refused == 3
    assert tracker.points == [point for point in range(1000) if point not in {3, 700, 701}]
    assert len(warnings) == 1
    assert "s3cret" not in warnings[0]


def test_a_batch_is_cut_in_halves_and_grows_again(tracker):
    tracker.refuses = {0}
    sending = deliver_to(tracker)
    for point in range(8):
        sending.put(point)
    assert sending.close(SOON) == 1
    # 8, 4, 2 and 1 are refused; then 1 of the 7 left, 2, and the last 4
    assert [len(batch) for batch in tracker.batches] == [1, 2, 4]
    assert tracker.attempts == 4 + 3


def test_a_tracker_that_refuses_everything_is_asked_once_for_each_point(tracker):
    tracker.refuses = set(range(100))
    sending = deliver_to(tracker)
    for point in range(100):
        sending.put(point)
    assert sending.close(SOON) == sending.refused == 100
    # whole, in halves of 50, 25, 12, 6 and 3, then one by one, and once for what else there is
    assert tracker.attempts == 6 + 100 + 1


def test_an_outage_while_a_batch_is_cut_loses_nothing(hurried):
    tracker, warnings = Tracker(failures=2), []
    tracker.refuses = {1}
    sending = deliver_to(tracker, warnings, interval=0.01)
    for point in range(4):
        sending.put(point)
    assert sending.close(SOON) == 1
    assert tracker.points == [0, 2, 3]
    assert len(warnings) == 2  # one for the outage, one for what is refused


def test_a_run_that_is_gone_is_given_up_in_one_line(tracker):
    warnings, tracker.gone = [], True
    sending = deliver_to(tracker, warnings, capacity=10, interval=0.01)
    sending.put(0)
    sending._thread.join(SOON)  # it ends by itself
    for point in range(1, 100):
        sending.put(point)
    sending.wake()
    assert len(sending._queue) == 0
    started = time.monotonic()
    assert sending.close(SOON) == 100
    assert time.monotonic() - started < SOON / 2
    assert tracker.attempts == 1
    assert len(warnings) == 1
    assert "s3cret" not in warnings[0]


def test_a_wake_reaches_the_tracker_and_counts_as_no_point(tracker):
    sending = deliver_to(tracker, interval=0.01)
    sending.wake()
    assert tracker.called.wait(SOON)
    assert sending.close(SOON) == 0
    assert tracker.batches == [[]]


def test_a_wake_that_fails_is_tried_again(hurried):
    tracker = Tracker(failures=2)
    sending = deliver_to(tracker)
    sending.wake()
    assert sending.close(SOON) == 0
    assert tracker.attempts == 3


def test_a_wake_that_is_refused_is_not(tracker):
    def refuse(batch):
        tracker.send(batch)
        raise Rejected

    sending = Delivery(refuse, warn=lambda message: None, label="test")
    sending.wake()
    assert sending.close(SOON) == sending.refused == 0
    assert tracker.attempts == 1


def test_back_offs_double_to_a_minute_and_are_jittered_by_no_one_elses_numbers(monkeypatch):
    waits = []
    monkeypatch.setattr(Delivery, "_wait", lambda sending, seconds: waits.append(seconds))
    before = random.getstate()
    tracker = Tracker(failures=9)
    sending = deliver_to(tracker, interval=1000)
    sending.put("point")
    while not tracker.points:
        time.sleep(0.01)
    sending.close(SOON)
    assert random.getstate() == before
    waits = [seconds for seconds in waits if seconds != 1000]
    longest = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert len(waits) == len(longest)
    for wait, most in zip(waits, longest, strict=True):
        assert most / 2 <= wait <= most
    assert len({wait / most for wait, most in zip(waits, longest, strict=True)}) > 1


def test_files_are_stored_once_after_the_last_point(tracker):
    stored = []
    sending = deliver_to(tracker, store_files=lambda deadline: stored.append(list(tracker.points)))
    for point in range(600):
        sending.put(point)
    assert sending.close(SOON) == 0
    assert stored == [list(range(600))]
    assert sending.close(SOON) == 0
    assert len(stored) == 1


def test_files_wait_for_points_that_cannot_be_sent(hurried):
    stored = []
    sending = deliver_to(Tracker(failures=10**9), interval=0.01, store_files=stored.append)
    sending.put(1)
    assert sending.close(0.2) == 1
    assert stored == []


def test_files_that_cannot_be_stored_cost_a_warning(tracker):
    def fail(deadline):
        raise OSError("http://ann:s3cret@host:5000 is full")

    warnings = []
    sending = deliver_to(tracker, warnings, store_files=fail)
    sending.put(1)
    assert sending.close(SOON) == 0
    assert len(warnings) == 1
    assert "file" in warnings[0]
    assert "s3cret" not in warnings[0]


def test_files_that_hang_are_not_waited_for(tracker):
    hanging, warnings = threading.Event(), []
    sending = deliver_to(tracker, warnings, store_files=lambda deadline: hanging.wait(SOON))
    sending.put(1)
    started = time.monotonic()
    assert sending.close(0.2) == 0
    assert time.monotonic() - started < SOON / 2
    hanging.set()
    assert len(warnings) == 1
    assert "files may be missing" in warnings[0]


def test_a_tracker_that_hangs_holds_up_no_other(tracker):
    dead = Tracker()
    dead.gate.clear()
    hanging, sending = deliver_to(dead, interval=0.01), deliver_to(tracker, interval=0.01)
    hanging.put(1)
    assert dead.called.wait(SOON)
    sending.put(2)
    assert sending.close(SOON) == 0
    assert hanging.close(0.1) == 1
    dead.gate.set()


def test_points_of_the_next_fit_arrive_where_the_last_one_hung(tracker):
    tracker.gate.clear()
    sending = deliver_to(tracker, interval=0.01)
    sending.put(1)
    assert tracker.called.wait(SOON)
    assert sending.close(0.1) == 1
    thread = sending._thread
    sending.put(2)  # while it still hangs
    tracker.gate.set()
    thread.join(SOON)
    sending.put(3)
    assert sending.close(SOON) == 0
    assert tracker.points == [1, 2, 3]


def test_a_thread_that_cannot_start_costs_a_warning(tracker, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    warnings = []
    sending = deliver_to(tracker, warnings)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        sending.put(1)
        sending.put(2)
    assert len(warnings) == 1
    assert sending.undelivered == 2
    sending.put(3)  # threads can be had again
    assert sending.close(SOON) == 0
    assert tracker.points == [1, 2, 3]


def test_a_forked_child_does_nothing(tracker):
    sending = deliver_to(tracker)
    sending.put("parent")
    child = os.fork()
    if child == 0:
        sending.put("child")
        sending.wake()
        clean = sending.close(SOON) == 0 and sending.undelivered == 1
        os._exit(0 if clean else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert sending.close(SOON) == 0
    assert tracker.points == ["parent"]


def test_a_send_that_hangs_does_not_keep_the_process_alive():
    script = """
import threading
from computemeter.delivery import Delivery
hanging = threading.Event()
def send(batch):
    hanging.set()
    threading.Event().wait()
sending = Delivery(send, warn=print, label="test", interval=0.01)
sending.put(1)
hanging.wait()
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)


@pytest.mark.parametrize("options", [{"capacity": 1}, {"interval": 0}, {"interval": -1.0}])
def test_options_are_checked(tracker, options):
    with pytest.raises(ValueError, match=r"capacity=.*interval="):
        deliver_to(tracker, **options)
