"""A tracker in memory that fails and hangs on demand, and what delivers to it."""

import threading

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


def deliver_to(tracker, warnings=None, **options):
    warn = (warnings if warnings is not None else []).append
    return Delivery(tracker.send, warn=warn, label="test", **options)
