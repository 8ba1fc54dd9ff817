"""The process that a probe runs in: `python -m computemeter.planning._worker FOLDER`.

It reads its orders from the folder and writes what it finds to standard output, one message a
line. What the user's code prints goes to standard error. It ends when its parent does, and then
with all that it started and with the folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from computemeter.planning._memory import limit_memory
from computemeter.planning._trial import (
    Counted,
    Dropped,
    Message,
    Note,
    Orders,
    Ready,
    Trying,
    is_out_of_memory,
    measure,
)
from computemeter.planning.step_time import StepTime
from computemeter.sinks import describe

JOB, ORDERS = "job", "orders.json"


@dataclass(frozen=True, slots=True)
class Failed:
    """Why the job could not be begun."""

    reason: str
    too_large: bool


_MESSAGES: dict[str, Callable[..., Message | Failed]] = {
    cls.__name__: cls for cls in (Ready, Trying, StepTime, Dropped, Counted, Note, Failed)
}


def encode(message: Message | Failed) -> str:
    """Write a message as a line."""
    return json.dumps({"is": type(message).__name__, **asdict(message)})


def decode(line: str) -> Message | Failed:
    """Read a message."""
    values = json.loads(line)
    return _MESSAGES[values.pop("is")](**values)


def write_orders(folder: Path, adapter: str, memory_limit: int | None, orders: Orders) -> None:
    """Write what the process is to do."""
    values = {"adapter": adapter, "memory_limit": memory_limit, "orders": asdict(orders)}
    (folder / ORDERS).write_text(json.dumps(values), encoding="utf-8")


def main(folder: Path) -> None:
    """Do what the folder says."""
    answers = _own_output()
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    values = json.loads((folder / ORDERS).read_text(encoding="utf-8"))
    orders = _orders(values["orders"])
    adapter: Any = None
    try:
        limited = limit_memory(values["memory_limit"])
        adapter = import_module(values["adapter"])
        job = adapter.load(str(folder / JOB))
        (folder / JOB).unlink()
        trial = adapter.trial(job, orders.device)
    except Exception as error:  # noqa: BLE001 - whatever keeps a model from being read
        # The parent has imported the same: what fails here alone does so for want of memory.
        too_large = adapter is None or is_out_of_memory(error)
        _say(answers, encode(Failed(describe(error), too_large)))
        return
    if not limited:
        note = "This system limits no process's memory: a batch too large may slow it down."
        _say(answers, encode(Note(note)))
    for message in measure(trial, orders):
        _say(answers, encode(message))


def _orders(values: dict[str, Any]) -> Orders:
    values["batch_sizes"] = tuple(values["batch_sizes"])
    return Orders(**{each.name: values[each.name] for each in fields(Orders)})


def _own_output() -> IO[str]:
    """Take standard output for the messages alone, from C code that prints there too.

    A process that the user's code forks must not hold it open: its end is this one's end.
    """
    answers = os.dup(1)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: os.close(answers))
    os.dup2(2, 1)
    return os.fdopen(answers, "w", encoding="utf-8", closefd=False)


def _say(answers: IO[str], line: str) -> None:
    answers.write(line + "\n")
    answers.flush()


def _end_with_parent(folder: Path) -> None:
    os.read(0, 1)  # the parent writes nothing: this returns when it is gone
    shutil.rmtree(folder, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # whatever a library still has to do at its end
