"""A tracker that fails, refuses, hangs or is gone: nothing is lost silently, and nobody waits."""

import random
import subprocess
import sys
import time

from failing_tracker import SOON, Tracker, deliver_to

from computemeter import delivery
from computemeter.delivery import Delivery


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
