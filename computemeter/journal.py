"""Where a run's snapshots go: the ledger first, then the trackers that mirror it."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from computemeter.ending import close_together, figures_and_receipt, undelivered
from computemeter.failures import Failures
from computemeter.history import earlier_segments, totals_of
from computemeter.ledger import FOLDER, LedgerHeader
from computemeter.ledger_runs import SegmentFile
from computemeter.ledger_writer import LedgerWriter, new_segment_id
from computemeter.peak_files import reason
from computemeter.records import Judgement, SegmentTotals, Snapshot, Summary
from computemeter.run_reading import Reading
from computemeter.run_tags import header_tags, segment_tag
from computemeter.sinks import RunContext, Sink, attach_all

_SECONDS_BETWEEN_TOTALS = 10.0
"""A segment that is killed leaves its totals in the tracker as of so long ago."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is, for its journal.

    Attributes:
        folder: beside which the ledger goes.
        name: of the run.
        loggers: the framework's loggers, for the sinks to find their run in.
        plain_loggers: those no sink writes to; they get the values through `log_metrics`.
        writes: False on every process but the first, which writes for all.
    """

    folder: Path | None = None
    name: str = ""
    loggers: tuple[object, ...] = ()
    plain_loggers: tuple[Any, ...] = ()
    writes: bool = True


class Journal:
    """Writes one segment's snapshots to its ledger and trackers; never raises.

    Args:
        place: where the run is.
        reading: what is known at the start.
        failures: takes what goes wrong.

    Attributes:
        segment: this segment's id.
        run: the run's id: the tracker's, or its first segment's.
        carried: of earlier segments, with what their ledgers know and no checkpoint does.
    """

    def __init__(self, place: Place, reading: Reading, failures: Failures) -> None:
        self.segment = new_segment_id()
        self._try, self._failures = failures.call, failures
        self._name = place.name
        self._judged: Judgement | None = None
        self._warnings_written = 0
        self._totals_sent = time.monotonic()
        options = reading.options
        asked = place.writes and options.trackers == "auto"
        self._loggers = place.plain_loggers if asked else ()
        self._sinks: list[Sink] = []
        if place.writes:
            context = RunContext(loggers=place.loggers, warn=failures.warn)
            self._sinks = self._try(attach_all, options.trackers, context) or []
        self.run = reading.carried.run or self._tracker_run() or self.segment
        self.carried = reading.carried
        self._earlier: dict[str, SegmentFile] = {}
        header = _header(place, reading, self)
        self._ledger: LedgerWriter | None = None
        if place.writes and (folder := _folder(place, options.ledger)) is not None:
            self._ledger = self._try(_open_ledger, folder, header, failures.warn)
            self._try(self._look_back, {folder, self.folder or folder})
        self._tell_of_the_start(reading, header)

    @property
    def trackers(self) -> dict[str, str]:
        """The run's id in each tracker; of two sinks of one tracker the first one's."""
        return {sink.name: sink.run_id for sink in reversed(self._sinks)}

    @property
    def segments(self) -> list[str]:
        """All segments of the run that are known, in the order of their launch."""
        return sorted({*self.carried.segments, self.segment})

    @property
    def folder(self) -> Path | None:
        """Where the ledger lies; None without one."""
        return self._ledger.path.parent if self._ledger else None

    def write(self, snapshot: Snapshot) -> None:
        """Record a snapshot everywhere, ledger first."""
        totals = snapshot.totals.to_dict()
        self._record(snapshot, totals, snapshot.metrics)
        self._write_warnings(snapshot.time)
        for sink in self._sinks:
            self._try(sink.log, snapshot.metrics, step=snapshot.step, time=snapshot.time)
        for logger in self._loggers:
            self._try(logger.log_metrics, dict(snapshot.metrics), step=snapshot.step)
        if _changed(self._judged, snapshot.judgement):
            self._note_judgement(snapshot.judgement, snapshot.time)
        if time.monotonic() - self._totals_sent >= _SECONDS_BETWEEN_TOTALS:
            self._send_totals(totals)

    def keep(self, snapshot: Snapshot, *, sync: bool = False) -> None:
        """Record the totals in the ledger alone, between two logging steps.

        Args:
            snapshot: with metrics that nobody is told of.
            sync: wait until the disk has it, for a checkpoint that is about to be written.
        """
        self._record(snapshot, snapshot.totals.to_dict(), {})
        if sync and self._ledger:
            self._try(self._ledger.sync)

    def alert(self, judgement: Judgement) -> None:
        """Raise an alert in the trackers that have them."""
        for sink in self._sinks:
            if (alert := getattr(sink, "alert", None)) is not None:
                self._try(alert, f"computemeter: {judgement.cause}", judgement.diagnosis)

    def close(
        self,
        status: str,
        snapshot: Snapshot | None,
        summary: Summary | None,
        reading: Reading | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        """Write the end, and the receipt; let the sinks send what is left.

        Args:
            status: "finished", "failed" or "interrupted".
            snapshot: the last one, None where none could be taken.
            summary: of the segment, None where none could be made.
            reading: that both were made from.
            checkpoints: where the run's checkpoints lie, for the receipt; None beside the ledger.
        """
        if snapshot is not None:
            # The words of the last verdict have the numbers of when it was reached.
            self._note_judgement(snapshot.judgement, snapshot.time)
            self._send_totals(snapshot.totals.to_dict())
        self._write_warnings(time.time())
        if self._ledger:
            self._try(self._ledger.end, status, time.time(), summary.to_dict() if summary else {})
            self._try(self._ledger.close)
        receipt = None
        if self._ledger and snapshot and summary and reading and summary.steps:
            judgement = snapshot.judgement
            write = partial(self._write_receipt, status, judgement, checkpoints)
            receipt = self._try(write, reading, summary)
        self._close_sinks(receipt)

    def _record(self, snapshot: Snapshot, totals: dict[str, Any], metrics: Any) -> None:
        if self._ledger:
            self._try(self._ledger.progress, snapshot.step, snapshot.time, totals, metrics)

    def _look_back(self, folders: Iterable[Path]) -> None:
        """Find out what earlier segments did after their last checkpoint."""
        if self.run == self.segment:
            return
        for folder in folders:
            self._earlier |= earlier_segments(folder, self.run, warn=self._failures.warn)
        self._earlier.pop(self.segment, None)
        found = {name: self._try(totals_of, file.ledger) for name, file in self._earlier.items()}
        known = {name: totals for name, totals in found.items() if totals is not None}
        self.carried = self.carried.with_segments(known)

    def _tell_of_the_start(self, reading: Reading, header: LedgerHeader) -> None:
        self._tag(header_tags(header))
        for name, totals in self._told_again().items():
            self._tag(segment_tag(name, totals.to_dict()))
        if reading.base and reading.base.note:
            self._failures.warn(reading.base.note)
        for name, before in self.carried.trackers.items():
            now = self.trackers.get(name)
            if now not in {None, before}:
                self._failures.warn(
                    f"this goes on from {name} run {before}, and is logged to run {now}: to "
                    f"continue that one, open it by its id; computemeter.interrupted_run({name!r}) "
                    "finds that of a launch that did not finish"
                )

    def _told_again(self) -> dict[str, SegmentTotals]:
        """Return the earlier segments that this tracker's run may not know of."""
        known = self.carried.segments
        if self.trackers == self.carried.trackers:
            return {name: known[name] for name in self._earlier if name in known}
        return {name: totals for name, totals in known.items() if totals.model_flops is not None}

    def _write_receipt(
        self,
        status: str,
        judgement: Judgement,
        checkpoints: Path | None,
        reading: Reading,
        summary: Summary,
    ) -> Path | None:
        from computemeter.receipt import write_receipt
        from computemeter.run_receipt import receipt_of

        receipt = receipt_of(
            reading,
            summary,
            judgement,
            run=self.run,
            segments=self.segments,
            name=self._name,
            status=status,
        )
        folder = checkpoints or self.folder
        return None if folder is None else write_receipt(folder, receipt)

    def _close_sinks(self, receipt: Path | None) -> None:
        """Let the trackers have what is left, and the files that belong to the run."""
        ledger = self._ledger.path if self._ledger else None
        if ledger is not None:
            ledgers = [*(file.path for file in self._earlier.values()), ledger]
            make = partial(figures_and_receipt, ledgers, receipt, self._failures.warn)
            for sink in self._sinks:
                if (files := getattr(sink, "files", None)) is not None:
                    self._try(files, make)
        for sink, steps in self._try(close_together, self._sinks, self._failures) or ():
            self._failures.warn(undelivered(sink, steps, ledger))

    def _write_warnings(self, at: float) -> None:
        """Record what has gone wrong inside the meter since the last time."""
        new = self._failures.messages[self._warnings_written :]
        self._warnings_written += len(new)
        if self._ledger:
            for message in new:
                self._try(self._ledger.event, "warning", at, message=message)

    def _note_judgement(self, judgement: Judgement, at: float) -> None:
        """Tag and record the verdict."""
        self._judged = judgement
        facts = {
            "verdict": judgement.verdict,
            "cause": judgement.cause,
            "diagnosis": judgement.diagnosis,
        }
        self._tag(facts)
        if self._ledger:
            self._try(self._ledger.event, "verdict", at, **facts)

    def _send_totals(self, totals: Mapping[str, Any]) -> None:
        self._totals_sent = time.monotonic()
        self._tag(segment_tag(self.segment, totals))

    def _tag(self, tags: Mapping[str, str]) -> None:
        for sink in self._sinks:
            self._try(sink.tag, tags)

    def _tracker_run(self) -> str | None:
        return next((sink.run_id for sink in self._sinks), None)


def _folder(place: Place, option: str | Path | None) -> Path | None:
    """Return where the ledgers are; None where there are to be none."""
    if option is None:
        return None
    beside = (place.folder or Path.cwd()) / FOLDER
    return beside if option == "auto" else Path(option).expanduser()


def _open_ledger(folder: Path, header: LedgerHeader, warn: Callable[[str], None]) -> LedgerWriter:
    """Open the ledger where it belongs, else where the user's programs keep their state."""
    try:
        return LedgerWriter.open(folder, header)
    except OSError as error:
        from platformdirs import user_state_path

        other = user_state_path("computemeter") / FOLDER
        warn(f"no ledger can be written in {folder} ({reason(error)}): it is written in {other}")
        return LedgerWriter.open(other, header)


def _header(place: Place, reading: Reading, journal: Journal) -> LedgerHeader:
    options, base = reading.options, reading.base
    return LedgerHeader(
        segment=journal.segment,
        run=journal.run,
        parent=reading.carried.parent,
        started=reading.started or time.time(),
        name=place.name,
        user=_user(),
        project=options.project,
        team=options.team,
        category=options.category,
        device_name=reading.known_device.name,
        device_count=reading.device_count,
        peak_flops=reading.peak_flops,
        assumed_utilization=reading.assumed_utilization,
        base_flops=base.flops if base else None,
        base_model=base.name or None if base else None,
        base_receipt=base.receipt if base else None,
        trackers=journal.trackers,
    )


def _changed(before: Judgement | None, now: Judgement) -> bool:
    return before is None or (before.verdict, before.cause) != (now.verdict, now.cause)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return None
