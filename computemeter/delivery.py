"""Bring points to a tracker that may be slow, down or gone, without anyone waiting for it.

One daemon thread sends what is queued in batches. A batch that fails is kept and sent again, so
`send` must store a point that arrives twice only once, or bear the repetition.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from computemeter.sinks import describe

_FIRST_BACKOFF = 1.0
_LONGEST_BACKOFF = 60.0
# A tracker that fails in the middle of a batch gets all of it again: small enough that a flapping
# one still gets ahead.
_BATCH = 500

Point = TypeVar("Point")


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
    ) -> None:
        """Prepare; the thread starts at the first `put`.

        Args:
            send: delivers one batch; called in the thread only, may raise and may block.
            warn: takes one line at the first failure; called from the thread.
            label: what the points go to, in the warning and the thread's name.
            capacity: points kept while they cannot be sent; the oldest are dropped first.
            interval: seconds between batches.

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
        self._queue: deque[Point] = deque()
        self._batch: list[Point] = []
        self._knocks: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()  # only ever tried: it keeps a second thread from starting
        self._deadline: float | None = None  # set by close, on the monotonic clock
        self._pid = os.getpid()
        self._accepted = self._delivered = self._dropped = 0
        self._warned = False

    @property
    def dropped(self) -> int:
        """Points that were thrown away because the queue was full."""
        return self._dropped

    @property
    def undelivered(self) -> int:
        """Points accepted and not delivered: queued, being sent, or dropped."""
        return self._accepted - self._delivered

    def put(self, point: Point) -> None:
        """Queue a point; never blocks, never raises. While it closes the point is ignored."""
        if self._deadline is not None or os.getpid() != self._pid:
            return
        self._accepted += 1
        self._queue.append(point)
        if len(self._queue) > self._capacity:
            self._drop_oldest()
        elif len(self._queue) == self._capacity // 2:
            self._knocks.put(None)
        if self._thread is None:
            self._start()

    def close(self, timeout: float = 5.0) -> int:
        """Send what is queued, for at most `timeout` seconds; the next `put` opens it again.

        Returns:
            How many points were not delivered, dropped ones included.
        """
        if os.getpid() != self._pid:
            return 0
        self._deadline = time.monotonic() + max(0.0, timeout)
        self._knocks.put(None)
        if self._thread is not None:
            self._thread.join(max(0.0, timeout))
        self._allow_again()
        return self.undelivered

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
            self._warn_once(error)
        else:
            self._thread = thread

    def _run(self) -> None:
        while self._deadline is None:
            self._wait(self._interval)
            self._drain()
        self._drain()

    def _drain(self) -> None:
        backoff = _FIRST_BACKOFF
        while self._take():
            if self._attempt():
                backoff = _FIRST_BACKOFF
            elif self._out_of_time():
                return
            else:
                self._wait(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF)

    def _take(self) -> bool:
        """Fill the batch unless one is waiting to be sent again; False where nothing is left."""
        with suppress(IndexError):
            while len(self._batch) < _BATCH:
                self._batch.append(self._queue.popleft())
        return bool(self._batch)

    def _attempt(self) -> bool:
        try:
            self._send(list(self._batch))
        except Exception as error:  # noqa: BLE001 - trackers raise whatever they like
            self._warn_once(error)
            return False
        self._delivered += len(self._batch)
        self._batch.clear()
        return True

    def _wait(self, seconds: float) -> None:
        """Sleep, or less where `put` or `close` knocks."""
        if self._deadline is not None:
            seconds = min(seconds, _FIRST_BACKOFF, self._deadline - time.monotonic())
        with suppress(queue.Empty, ValueError):  # ValueError: less than no time is left
            self._knocks.get(timeout=seconds)

    def _out_of_time(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _warn_once(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        with suppress(Exception):  # a warning turned into an error must not end the thread
            self._warn(
                f"{self._label}: sending failed, the ledger keeps everything ({describe(error)})"
            )
