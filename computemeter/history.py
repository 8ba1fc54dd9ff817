"""What a run's earlier segments left on disk; a killed one could tell no checkpoint of its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from computemeter.ledger import FOLDER, Ledger, LedgerError, read_ledger
from computemeter.ledger_runs import SegmentFile
from computemeter.ledger_writer import is_being_written
from computemeter.records import SegmentTotals

_SECONDS = 2.0
"""For looking through a folder that a whole team may share, perhaps over a network."""


def earlier_segments(
    folder: Path,
    run: str,
    *,
    warn: Callable[[str], None],
    seconds: float = _SECONDS,
) -> dict[str, SegmentFile]:
    """Find a run's ledgers in a folder, by the id of their segment.

    The newest are looked at first; where there are more than can be looked at in time, that is
    said, and what the oldest spent is only known from the checkpoint.

    Args:
        folder: of ledgers; may be missing.
        run: the run's id.
        warn: takes one line.
        seconds: after which to give up.
    """
    deadline, found = time.monotonic() + seconds, {}
    # The names begin with the time.
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: path.name, reverse=True)
    for number, path in enumerate(paths):
        if time.monotonic() > deadline:
            warn(
                f"of the {len(paths)} ledgers in {folder} only the newest {number} were looked "
                "at for earlier segments of this run: what it has spent may be more"
            )
            break
        for ledger in _of_run(path, run):
            found[ledger.header.segment] = SegmentFile(path, ledger)
    return found


def interrupted_run(tracker: str, ledgers: str | Path = FOLDER) -> str | None:
    """Find the tracker's run of the last launch, where that did not finish.

    For a job that a scheduler starts again, whose logger is to go on in the same run and not to
    begin another:

        MLFlowLogger(run_id=computemeter.interrupted_run("mlflow"), ...)

    Args:
        tracker: "mlflow" or "wandb".
        ledgers: the folder of the job's ledgers.

    Returns:
        The run's id; None where the last launch finished, was metered into no run of this tracker,
        or there was none.
    """
    for path in sorted(Path(ledgers).glob("*.jsonl"), key=lambda path: path.name, reverse=True):
        with suppress(OSError, LedgerError):
            if is_being_written(path):
                continue  # another job's, which goes on by itself
            last = read_ledger(path)
            run = last.header.trackers.get(tracker)
            # W&B's ids are of one project; its loggers take the id alone.
            return None if last.status == "finished" or run is None else run.rpartition("/")[2]
    return None


def totals_of(ledger: Ledger) -> SegmentTotals | None:
    """Return what a segment had done when it last told; None where it never did.

    Raises:
        TypeError: the ledger holds something else.
    """
    return SegmentTotals.from_mapping(ledger.last_totals) if ledger.progress else None


def _of_run(path: Path, run: str) -> Iterator[Ledger]:
    """Yield the ledger if it is the run's: few are, so the header alone is read first."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(1 << 20))
        if isinstance(header, dict) and header.get("run") == run:
            yield read_ledger(path)
    except (OSError, ValueError, LedgerError, RecursionError):
        return  # the commands that read ledgers say what is wrong with it
