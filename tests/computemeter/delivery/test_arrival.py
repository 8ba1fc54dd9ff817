"""Everything arrives once, in order, and nobody waits: points, wakes and files."""

import os
import threading
import time

import pytest
from failing_tracker import SOON, Tracker, deliver_to

from computemeter.delivery import Delivery, Rejected


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


@pytest.mark.parametrize("options", [{"capacity": 1}, {"interval": 0}, {"interval": -1.0}])
def test_options_are_checked(tracker, options):
    with pytest.raises(ValueError, match=r"capacity=.*interval="):
        deliver_to(tracker, **options)
