"""Bring points to a tracker that may be slow, down or gone, without anyone waiting for it.

One daemon thread sends what is queued in batches. A batch that fails is kept and sent again, so
`send` must store a point that arrives twice only once, or bear the repetition. What `send` raises
says what is to be done: `Rejected` and `Gone` are for good, anything else passes.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from computemeter.sinks import describe, describe_outage, redact

_LOG = logging.getLogger("computemeter")

_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 60.0
# A tracker that fails in the middle of a batch gets all of it again: small enough that a flapping
# one still gets ahead.
_BATCH = 500

Point = TypeVar("Point")


class Rejected(Exception):  # noqa: N818 - it is an answer of the tracker's, not a fault
    """The tracker will never take this, however often it is sent."""


class Gone(Exception):  # noqa: N818 - as above
    """The run or its tracker no longer exists: nothing will ever arrive."""


class Delivery(Generic[Point]):
    """A bounded queue and the thread that empties it into `send`.

    `put` waits for no lock, and none is held around `send`: a deque's `append` and `popleft` are
    atomic, and `queue.SimpleQueue` may be entered again from a signal handler. In a forked child
    (a worker of a DataLoader) every method does nothing.
    """

    def __init__(
        self,
        send: Callable[[list[Point]], None],
        *,
        warn: Callable[[str], None],
        label: str,
        capacity: int = 10_000,
        interval: float = 10.0,
        store_files: Callable[[float], None] | None = None,
    ) -> None:
        """Prepare; the thread starts at the first `put` or `wake`.

        Args:
            send: delivers one batch, an empty one after `wake`; called in the thread only, may
                raise and may block. A batch that is `Rejected` is sent again in halves, until the
                points that are refused stand alone; these are left out.
            warn: takes one line for each kind of failure; called from the thread.
            label: what the points go to, in the warnings and the thread's name.
            capacity: points kept while they cannot be sent; the oldest are dropped first.
            interval: seconds between batches.
            store_files: called in the thread while it closes, once all points are delivered, with
                the time on the monotonic clock at which nobody waits any longer; may raise.

        Raises:
            ValueError: for a capacity below 2 or an interval that is not positive.
        """
        if capacity < 2 or interval <= 0:
            raise ValueError(
                f"capacity={capacity}, interval={interval}: accepted are 2 and more points, "
                "and more than 0 seconds"
            )
        self._send, self._warn, self._label = send, warn, label
        self._capacity, self._interval = capacity, interval
        self._store_files = store_files
        self._queue: deque[Point] = deque()
        self._batch: list[Point] = []
        self._size = _BATCH  # of one attempt: less while the tracker refuses part of the batch
        self._knocks: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()  # only ever tried: it keeps a second thread from starting
        self._deadline: float | None = None  # set by close, on the monotonic clock
        self._pid = os.getpid()
        self._accepted = self._delivered = self._dropped = self._refused = 0
        self._woken = self._gone = False
        self._said: set[str] = set()
        self._jitter = random.Random()  # noqa: S311 - its own: the global one is the training's

    @property
    def dropped(self) -> int:
        """Points that were thrown away because the queue was full."""
        return self._dropped

    @property
    def refused(self) -> int:
        """Points that the tracker will never take."""
        return self._refused

    @property
    def undelivered(self) -> int:
        """Points accepted and not delivered: queued, being sent, dropped or refused."""
        return self._accepted - self._delivered

    def put(self, point: Point) -> None:
        """Queue a point; never blocks, never raises."""
        if os.getpid() != self._pid:
            return
        self._accepted += 1
        if self._gone:
            return
        self._queue.append(point)
        if len(self._queue) > self._capacity:
            self._drop_oldest()
        elif len(self._queue) == self._capacity // 2:
            self._knocks.put(None)
        self._open()

    def wake(self) -> None:
        """Have `send` called within the interval though no point is queued; counts as none."""
        if os.getpid() == self._pid and not self._gone:
            self._woken = True
            self._open()

    def close(self, timeout: float = 5.0) -> int:
        """Send what is queued, for at most `timeout` seconds; the next `put` opens it again.

        Returns:
            How many points were not delivered, dropped and refused ones included.
        """
        if os.getpid() != self._pid:
            return 0
        self._deadline = time.monotonic() + max(0.0, timeout)
        self._knocks.put(None)
        if self._thread is not None:
            self._thread.join(max(0.0, timeout))
            if self._thread.is_alive() and not self.undelivered:
                self._say("late", "no answer in time, the last tags and files may be missing")
        self._allow_again()
        return self.undelivered

    def _open(self) -> None:
        """Have a thread, for the next fit too where the last one's hung when that closed."""
        if self._deadline is not None:
            self._allow_again()
        if self._thread is None:
            self._start()

    def _allow_again(self) -> None:
        """Let another `put` start a thread, for a sink that serves one fit after another.

        Not where a `send` hangs: two threads would take turns with one batch.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        self._deadline = None
        if self._thread is not None:
            self._thread = None
            self._starting.release()

    def _drop_oldest(self) -> None:
        # The thread may have emptied the queue since it was measured.
        with suppress(IndexError):
            self._queue.popleft()
            self._dropped += 1

    def _start(self) -> None:
        if not self._starting.acquire(blocking=False):
            return
        thread = threading.Thread(target=self._run, name=f"computemeter {self._label}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is going down
            self._starting.release()
            self._say_failed(error)
        else:
            self._thread = thread

    def _run(self) -> None:
        closing = False
        while not closing and not self._gone:
            if self._deadline is None:
                self._wait(self._interval)
            # Read before the queue is emptied: what was put before `close` is then sent.
            closing = self._deadline is not None
            self._drain()
        self._finish()

    def _drain(self) -> None:
        backoff = _FIRST_BACKOFF
        while not self._gone and (self._take() or self._woken):
            if self._attempt():
                backoff = _FIRST_BACKOFF
            elif self._out_of_time():
                return
            else:
                # A team's runs must not all come back to a restarted server at once.
                self._wait(backoff * self._jitter.uniform(0.5, 1.0))
                backoff = min(2 * backoff, _LONGEST_BACKOFF)

    def _take(self) -> bool:
        """Fill the batch unless one is waiting to be sent again; False where nothing is left."""
        with suppress(IndexError):
            while len(self._batch) < _BATCH:
                self._batch.append(self._queue.popleft())
        return bool(self._batch)

    def _attempt(self) -> bool:
        """Send once; False where there is something to wait for."""
        part = self._batch[: self._size]
        self._woken = False  # before it is sent: what wakes it meanwhile is for the next time
        try:
            self._send(part)
        except Rejected as error:
            self._refuse(part, error)
        except Gone as error:
            self._give_up(error)
        except Exception as error:  # noqa: BLE001 - trackers raise whatever they like
            self._woken = True
            self._say_failed(error)
            return False
        else:
            self._delivered += len(part)
            del self._batch[: len(part)]
            self._size = min(2 * self._size, _BATCH)
        return True

    def _refuse(self, part: list[Point], error: Rejected) -> None:
        """Try half of what was refused next; leave out what was refused alone."""
        self._size = max(1, len(part) // 2)
        if len(part) > 1:
            return
        del self._batch[: len(part)]
        self._refused += len(part)
        self._woken = bool(part)  # for whatever else that call was to send
        self._say("refused", f"something is refused for good and left out ({describe(error)})")

    def _give_up(self, error: Gone) -> None:
        self._gone = True
        self._batch.clear()
        self._queue.clear()
        self._say("gone", f"the run is gone, nothing more is sent ({describe(error)})")

    def _finish(self) -> None:
        left = self._gone or self._batch or self._queue or self._woken
        if self._store_files is None or self._deadline is None or left or self._out_of_time():
            return
        try:
            self._store_files(self._deadline)
        except Exception as error:  # noqa: BLE001 - as in _attempt
            self._say("files", f"not every file of the run was stored ({describe_outage(error)})")

    def _wait(self, seconds: float) -> None:
        """Sleep, or less where `put` or `close` knocks."""
        if self._deadline is not None:
            seconds = min(seconds, _FIRST_BACKOFF, self._deadline - time.monotonic())
        with suppress(queue.Empty, ValueError):  # ValueError: less than no time is left
            self._knocks.get(timeout=seconds)

    def _out_of_time(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _say_failed(self, error: Exception) -> None:
        if "failed" in self._said:
            return
        with suppress(Exception):  # as in _say
            _LOG.debug("computemeter: %s: %s", self._label, redact(repr(error)))
        self._say("failed", f"sending failed, it is tried again ({describe_outage(error)})")

    def _say(self, kind: str, message: str) -> None:
        """Warn, once for each kind."""
        if kind in self._said:
            return
        self._said.add(kind)
        with suppress(Exception):  # a warning turned into an error must not end the thread
            self._warn(f"{self._label}: {message}; the ledger keeps everything")
