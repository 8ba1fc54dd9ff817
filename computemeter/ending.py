"""The end of a run: what its trackers are still to get, in bounded time, and what they did not."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

from computemeter.failures import Failures
from computemeter.receipt import FILE_NAME
from computemeter.sinks import Sink
from computemeter.wording import counted

SECONDS = 5.0
"""For all trackers together."""
_GRACE = 0.5


def close_together(sinks: Sequence[Sink], failures: Failures) -> list[tuple[Sink, int | None]]:
    """Close sinks at the same time, for at most `SECONDS`; one that hangs holds up none.

    Returns:
        The sinks that lack logging steps, and how many; None where one did not say.
    """
    # By position: two sinks may have one name.
    left: list[int | None] = [None] * len(sinks)

    def close(position: int) -> None:
        left[position] = failures.call(sinks[position].close, timeout=SECONDS)

    threads = [Thread(target=close, args=(each,), daemon=True) for each in range(len(sinks))]
    deadline = time.monotonic() + SECONDS + _GRACE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [(sink, steps) for sink, steps in zip(sinks, left, strict=True) if steps != 0]


def undelivered(sink: Sink, steps: int | None, ledger: Path | None) -> str:
    """Say how what a tracker did not get is sent there."""
    from computemeter.sources import tracker_of

    missing = "some logging steps" if steps is None else counted(steps, "logging step")
    told = f"{missing} did not reach {sink.name}"
    if advice := getattr(sink, "advice", ""):
        return f"{told}; this sends the rest: {advice}"
    if ledger is None:
        return f"{told}, and there is no ledger to send them from"
    to = getattr(sink, "destination", "")
    command = ["computemeter", "push", str(ledger), "--to", to if tracker_of(to) else "URI"]
    return f"{told}; this sends the rest: {shlex.join(command)}"


def figures_and_receipt(
    ledgers: Sequence[Path], receipt: Path | None, warn: Callable[[str], None], folder: Path
) -> list[Path]:
    """Put what a tracker keeps as a run's files into a folder.

    Args:
        ledgers: of all segments of the run.
        receipt: of the run, where there is one.
        warn: takes one line for each file that cannot be made.
        folder: where they are put.
    """
    from computemeter.loss_figure import write_figures

    files = write_figures(ledgers, folder, warn=warn)
    if receipt is not None:
        files.append(Path(shutil.copy(receipt, folder / FILE_NAME)))
    return files
