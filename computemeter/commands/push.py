"""`computemeter push`: send what ledgers hold to a tracker; what it has is not stored again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from computemeter.commands import CommandError
from computemeter.history import earlier_segments
from computemeter.ledger import Ledger, LedgerError, LedgerHeader, Progress, read_ledger
from computemeter.ledger_runs import SegmentFile, segments_by_run, status_of
from computemeter.loss_figure import write_figures
from computemeter.run_tags import ledger_tags
from computemeter.sinks import Sink, describe, redact
from computemeter.sources import DESTINATIONS, SourceError, ask_tracker, tracker_of
from computemeter.table import printable
from computemeter.wording import counted

# So many are queued at a time; a sink would drop the oldest of more than it has room for.
_STEPS_AT_ONCE = 1000
# A wait for a thread of more than TIMEOUT_MAX raises; what is added up here stays below.
_LONGEST = threading.TIMEOUT_MAX / 2

Say = Callable[[str], None]


class _Advance(Protocol):
    def __call__(self, steps: int) -> object: ...


class _Run(NamedTuple):
    """A run of which something is sent.

    Attributes:
        asked: the ledgers whose steps are sent.
        segments: all that are known. What is said of the run as a whole is said from all of them:
            one segment's verdict or figure would take the place of the run's.
    """

    asked: list[SegmentFile]
    segments: list[SegmentFile]

    @property
    def steps(self) -> list[Progress]:
        """The logging steps that are sent; a record without values is no such step."""
        return [step for file in self.asked for step in file.ledger.progress if step.metrics]


@dataclass(slots=True)
class _Replay:
    """A run's ledgers on their way to its tracker.

    Attributes:
        queued: logging steps handed to the sink.
        missing: those of them that the tracker does not have.
    """

    run: _Run
    sink: Sink
    warn: Say
    queued: int = 0
    missing: int = 0

    @property
    def delivered(self) -> int:
        return self.queued - self.missing

    def send(self, deadline: float, advance: _Advance) -> None:
        """Send everything, or what can be sent until `deadline` on the monotonic clock."""
        steps = self.run.steps
        for start in range(0, max(1, len(steps)), _STEPS_AT_ONCE):
            part = steps[start : start + _STEPS_AT_ONCE]
            for step in part:
                known = {name: value for name, value in step.metrics.items() if value is not None}
                self.sink.log(known, step=step.step, time=step.time)
            self.queued += len(part)
            self.missing += len(part)  # until it is known better, should Ctrl-C come
            if self.queued == len(steps):
                self._add_the_rest()
            self.missing = self.sink.close(max(0.0, deadline - time.monotonic()))
            advance(len(part))
            if time.monotonic() >= deadline:
                return

    def _add_the_rest(self) -> None:
        for file in self.run.segments:
            self.sink.tag(ledger_tags(_as_it_is_now(file)))
        if (files := getattr(self.sink, "files", None)) is not None:
            paths = [file.path for file in self.run.segments]
            files(partial(write_figures, paths, warn=self.warn))

    def finish(self) -> None:
        """Say how the run ended, where the run is the push's own.

        Raises:
            SourceError: the tracker did not take it.
        """
        end, finish = self.run.segments[-1].ledger.end, getattr(self.sink, "finish", None)
        if finish is None:
            return
        try:
            finish(end.status if end else "unknown", end.time if end else time.time())
        except Exception as error:  # noqa: BLE001 - trackers raise whatever they like
            raise SourceError(
                f"run {self.sink.run_id} could not be finished: {describe(error)}"
            ) from None


def push(
    ledgers: Sequence[str], *, to: str, run_id: str | None, timeout: float, say: Say, warn: Say
) -> str:
    """Send every ledger to its run in a tracker; return a line that says it is all there.

    Args:
        ledgers: ledgers, and folders of them.
        to: URI of a tracker.
        run_id: of the tracker's run; None to find the run, or to make one.
        timeout: seconds until it is given up; may be infinite.
        say: takes a line for each run.
        warn: takes a line for each thing that went wrong on the way.

    Raises:
        CommandError: bad input, or something was not delivered.
    """
    tracker = _tracker(to)
    runs = _runs(ledgers, run_id, warn)
    deadline = time.monotonic() + min(timeout, _LONGEST)
    total = sum(len(run.steps) for run in runs)
    left, why = total, ""
    try:
        with _bar(total) as advance:
            for run in runs:
                replay = _Replay(run, _open(tracker, to, run.segments, run_id, warn), warn)
                try:
                    replay.send(deadline, advance)
                finally:
                    left -= replay.delivered
                    say(_line(replay))
                if replay.delivered == len(run.steps):
                    replay.finish()
    except KeyboardInterrupt:
        why = "interrupted"
    except SourceError as error:
        why = str(error)
    if left:
        missing = f"{left:,} of {counted(total, 'logging step')} not delivered"
        again = "run the same command again, nothing is stored twice"
        why = "; ".join(part for part in (why, missing, again) if part)
    if why:
        raise CommandError(why)
    return f"{counted(total, 'logging step')} of {counted(len(runs), 'run')} delivered"


def _tracker(to: str) -> str:
    if _is_a_folder(to):
        raise CommandError(
            f"--to {redact(to)}: a folder of files keeps a value each time that it is sent; "
            "`mlflow migrate-filestore` makes a database of it"
        )
    if (tracker := tracker_of(to)) is None:
        raise CommandError(
            f"--to {redact(to)}: accepted is a tracker's URI, such as sqlite:///mlflow.db, "
            "https://host or wandb://entity/project"
        )
    if "://***@" in to:
        raise CommandError(f"--to {to}: put your user name and password in place of ***")
    return tracker


def _is_a_folder(to: str) -> bool:
    """Whether it is the URI, or the path, of one of MLflow's stores without a database."""
    return to.startswith("file:") or ("://" not in to and Path(to).is_dir())


def _runs(ledgers: Sequence[str], run_id: str | None, warn: Say) -> list[_Run]:
    try:
        given = [Path(path).expanduser() for path in ledgers]
        runs = segments_by_run(given, warn=warn)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror or describe(error)}") from None
    except (ValueError, RuntimeError) as error:  # LedgerError; no home for a "~"
        raise CommandError(str(error)) from None
    if not runs:
        raise CommandError(f"{', '.join(ledgers)}: no ledger (*.jsonl) is there")
    if run_id is not None and len(runs) > 1:
        raise CommandError(f"--run-id {run_id}: there are ledgers of {len(runs)} runs; name one's")
    return [_Run(files, _all_segments(files, given)) for files in runs.values()]


def _all_segments(files: list[SegmentFile], given: Sequence[Path]) -> list[SegmentFile]:
    """Add the run's other ledgers that lie beside those given by name."""
    found = {file.ledger.header.segment: file for file in files}
    known = {file.path for file in files}
    for folder in {path.parent for path in known.intersection(given)}:
        if known.issuperset(folder.glob("*.jsonl")):
            continue
        run = files[0].ledger.header.run
        beside = earlier_segments(folder, run, warn=lambda _message: None, seconds=math.inf)
        for segment, file in beside.items():
            found[segment] = max(found.get(segment, file), file, key=_length)
    return sorted(found.values(), key=lambda file: _start(file.ledger.header))


def _length(file: SegmentFile) -> int:
    return len(file.ledger.progress)


def _start(header: LedgerHeader) -> tuple[float, str]:
    return header.started, header.segment


def _as_it_is_now(file: SegmentFile) -> Ledger:
    """Read a ledger once more: a run that still trains has told its tracker newer totals."""
    try:
        return read_ledger(file.path)
    except (OSError, LedgerError):
        return file.ledger


def _open(
    tracker: str, to: str, files: Sequence[SegmentFile], run_id: str | None, warn: Say
) -> Sink:
    about = _header(files), run_id, status_of(files[-1])
    sink: Sink = ask_tracker(DESTINATIONS, tracker, to, *about, warn=warn)
    return sink


def _header(files: Sequence[SegmentFile]) -> LedgerHeader:
    """Return the first segment's header with the trackers of all: any may have begun without."""
    headers = [file.ledger.header for file in files]
    trackers = {name: run for header in headers for name, run in header.trackers.items()}
    return replace(headers[0], name=headers[-1].name, trackers=trackers)


def _line(replay: _Replay) -> str:
    header, steps = replay.run.asked[-1].ledger.header, len(replay.run.steps)
    line = (
        f"{header.name or header.run}: {replay.delivered:,} of "
        f"{counted(steps, 'logging step')} in run {replay.sink.run_id}"
    )
    return printable(line)


@contextmanager
def _bar(total: int) -> Iterator[_Advance]:
    """Show how far it is, on a terminal and once it has taken a second."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    began, console = time.monotonic(), Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("delivering", total=total, visible=False)

        def advance(steps: int) -> None:
            bar.update(task, advance=steps, visible=time.monotonic() - began > 1)

        yield advance
