"""Runs a probe in a process of its own, whose memory is limited and whose time ends."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from computemeter.planning._trial import (
    Adapter,
    Dropped,
    Job,
    Message,
    Note,
    Orders,
    Trying,
    is_out_of_memory,
    not_fitting,
    says_out_of_memory,
)
from computemeter.planning._worker import JOB, Failed, decode, write_orders
from computemeter.planning.step_time import StepTime
from computemeter.sinks import describe, redact

_TO_START = 300.0
"""Seconds for the process to import its framework and read the model, on a machine that is slow."""
_GRACE = 5.0
"""Seconds beyond its time after which the process is ended; by itself it stops between steps."""
_FOR_MEMORY = ("SIGKILL", "SIGABRT")
"""What ends a process that gets no memory: the system, or its own library."""


class NotApartError(Exception):
    """The job could not be taken to another process; the message says why."""


class ModelTooLargeError(Exception):
    """Not even the model came to life in that process: this one would fare no better."""


def measure_apart(
    adapter: Adapter, name: str, job: Job, orders: Orders, memory_limit: int | None
) -> Iterator[Message]:
    """Measure in another process.

    A batch size at which that process dies is dropped with all larger ones: for want of memory
    where the signal or its last words say so. What that process started is ended with it.

    Args:
        adapter: of the job's framework.
        name: to import it by.
        job: the user's; it is written to a file and left as it is.
        orders: what to measure.
        memory_limit: bytes for the process.

    Raises:
        NotApartError: before the first message, the job cannot be written, or read there.
        ModelTooLargeError: before the first message, the process ended, or ran out of memory.
    """
    if not sys.executable:
        raise NotApartError("this Python does not know where it is")
    with tempfile.TemporaryDirectory(prefix="computemeter-probe-") as folder:
        try:
            adapter.save(job, str(Path(folder) / JOB))
        except Exception as error:
            kind = ModelTooLargeError if is_out_of_memory(error) else NotApartError
            raise kind(describe(error)) from error
        write_orders(Path(folder), name, memory_limit, orders)
        errors = Path(folder) / "errors"
        environment = adapter.environment()
        with errors.open("wb") as stderr, _started(folder, stderr, environment) as process:
            try:
                yield from _Conversation(process, orders, errors).messages()
            finally:
                _end(process)


def _started(folder: str, stderr: IO[bytes], of_adapter: dict[str, str]) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **of_adapter,
        # What the model's class is imported from must be found there too.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),  # noqa: PTH109
        "COMPUTEMETER": "",  # a few steps of a copy are no run to be metered
    }
    return subprocess.Popen(  # noqa: S603 - this Python and a module of this package
        [sys.executable, "-P", "-m", "computemeter.planning._worker", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environment,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and all that it started, which may hold the pipe of its answers open."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # gone already
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


class _Conversation:
    """Listens to the process, and says of the batch sizes that it did not answer for why not."""

    def __init__(self, process: subprocess.Popen[str], orders: Orders, errors: Path) -> None:
        self._process, self._orders, self._errors = process, orders, errors
        self._lines: queue.Queue[str] = queue.Queue()
        self._open = list(orders.batch_sizes)
        self._trying: int | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def messages(self) -> Iterator[Message]:
        end = time.perf_counter() + _TO_START
        started = False
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.perf_counter()))
            except queue.Empty:
                if not started:
                    raise ModelTooLargeError(f"it did not start within {_TO_START:g} s") from None
                yield from self._out_of_time()
                return
            if not line:
                break
            message = decode(line)
            if isinstance(message, Failed):
                raise (ModelTooLargeError if message.too_large else NotApartError)(message.reason)
            if not started:
                started, end = True, time.perf_counter() + self._orders.seconds + _GRACE
            self._note(message)
            yield message
        if not started:
            raise ModelTooLargeError(f"its process ended ({self._ending()})")
        yield from self._died()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _note(self, message: Message) -> None:
        if isinstance(message, Trying):
            self._trying = message.batch_size
        elif isinstance(message, StepTime | Dropped) and message.batch_size in self._open:
            self._open.remove(message.batch_size)

    def _out_of_time(self) -> Iterator[Message]:
        for size in self._open:
            yield Dropped(
                batch_size=size,
                reason=f"not measured within {self._orders.seconds:g} s"
                if size == self._trying
                else f"no time left of {self._orders.seconds:g} s",
            )

    def _died(self) -> Iterator[Message]:
        """Drop what is open, where the process has not ended as it should."""
        code = self._process.wait()
        if not code and not self._open:
            return
        ended = f"its process ended ({self._ending()})"
        if self._trying not in self._open:
            yield Note(f"The operations were not counted: {ended}.")
            yield from _not_tried(self._open, f"{ended} while a step was counted")
        elif self._for_memory():
            dropped = not_fitting(self._open[0], self._open[1:])
            first = next(dropped)
            yield replace(first, reason=f"{first.reason}: {ended}")
            yield from dropped
        else:
            yield Dropped(batch_size=self._open[0], reason=ended, failed=True)
            yield from _not_tried(self._open[1:], f"{ended} at {self._open[0]}")

    def _for_memory(self) -> bool:
        return self._code() in _FOR_MEMORY or says_out_of_memory(self._last_words())

    def _ending(self) -> str:
        return ": ".join(part for part in (self._code(), self._last_words()) if part)

    def _code(self) -> str:
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"code {code}"

    def _last_words(self) -> str:
        lines = self._errors.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return redact(said[-1][:200]) if said else ""


def _not_tried(sizes: Sequence[int], why: str) -> Iterator[Dropped]:
    return (Dropped(batch_size=size, reason=f"not tried: {why}", failed=True) for size in sizes)
