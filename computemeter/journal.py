"""Where a run's snapshots go: the ledger first, then the trackers that mirror it."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from computemeter._version import __version__
from computemeter.failures import Failures
from computemeter.ledger import SCHEMA, LedgerHeader, LedgerWriter, new_segment_id
from computemeter.records import Judgement, Snapshot, Summary
from computemeter.results import Reading
from computemeter.sinks import RunContext, Sink, attach_all

FOLDER = "compute_ledger"
_SECONDS_AT_EXIT = 5.0
"""For all trackers together, to send what is left when a run ends."""


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
    """

    def __init__(self, place: Place, reading: Reading, failures: Failures) -> None:
        self.segment = new_segment_id()
        self._try = failures.call
        self._judged: Judgement | None = None
        options = reading.options
        asked = place.writes and options.trackers == "auto"
        self._loggers = place.plain_loggers if asked else ()
        self._failures = failures
        self._warnings_written = 0
        self._sinks: list[Sink] = []
        if place.writes:
            context = RunContext(loggers=place.loggers, warn=failures.warn)
            self._sinks = self._try(attach_all, options.trackers, context) or []
        self.run = reading.carried.run or self._tracker_run() or self.segment
        header = _header(place, reading, self)
        self._ledger = self._try(_open_ledger, place, options.ledger, header)
        self._tag(
            {
                "schema": str(SCHEMA),
                "version": __version__,
                "device": f"{reading.device_count} x {reading.known_device.name}",
                "project": options.project,
                "team": options.team,
            }
        )

    @property
    def sinks(self) -> Sequence[Sink]:
        """The trackers attached to."""
        return tuple(self._sinks)

    def write(self, snapshot: Snapshot) -> None:
        """Record a snapshot everywhere, ledger first."""
        if self._ledger:
            self._try(
                self._ledger.progress,
                snapshot.step,
                snapshot.time,
                _totals(snapshot),
                snapshot.metrics,
            )
        self._write_warnings(snapshot.time)
        for sink in self._sinks:
            self._try(sink.log, snapshot.metrics, step=snapshot.step, time=snapshot.time)
        for logger in self._loggers:
            self._try(logger.log_metrics, dict(snapshot.metrics), step=snapshot.step)
        if _changed(self._judged, snapshot.judgement):
            self._note_judgement(snapshot.judgement, snapshot.time)

    def alert(self, judgement: Judgement) -> None:
        """Raise an alert in the trackers that have them."""
        for sink in self._sinks:
            if (alert := getattr(sink, "alert", None)) is not None:
                self._try(alert, f"computemeter: {judgement.cause}", judgement.diagnosis)

    def close(self, status: str, snapshot: Snapshot | None, summary: Summary | None) -> int:
        """Write the end and let the sinks send what is left; return what they could not.

        Args:
            status: "finished", "failed" or "interrupted".
            snapshot: the last one, None where none could be taken.
            summary: of the segment, None where none could be made.
        """
        if snapshot is not None:
            # The words of the last verdict have the numbers of when it was reached.
            self._note_judgement(snapshot.judgement, snapshot.time)
            totals = json.dumps(_totals(snapshot), separators=(",", ":"))
            self._tag({f"segment.{self.segment}": totals})
        self._write_warnings(time.time())
        if self._ledger:
            self._try(self._ledger.end, status, time.time(), summary.to_dict() if summary else {})
            self._try(self._ledger.close)
        deadline = time.monotonic() + _SECONDS_AT_EXIT
        return sum(
            self._try(sink.close, timeout=max(0.0, deadline - time.monotonic())) or 0
            for sink in self._sinks
        )

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

    def _tag(self, tags: Mapping[str, str | None]) -> None:
        known = {name: value for name, value in tags.items() if value is not None}
        for sink in self._sinks:
            self._try(sink.tag, known)

    def _tracker_run(self) -> str | None:
        return next((sink.run_id for sink in self._sinks), None)


def _open_ledger(
    place: Place, folder: str | Path | None, header: LedgerHeader
) -> LedgerWriter | None:
    if not place.writes or folder is None:
        return None
    beside = (place.folder or Path.cwd()) / FOLDER
    return LedgerWriter.open(beside if folder == "auto" else Path(folder), header)


def _header(place: Place, reading: Reading, journal: Journal) -> LedgerHeader:
    options, base = reading.options, reading.options.base_flops
    return LedgerHeader(
        segment=journal.segment,
        run=journal.run,
        parent=reading.carried.parent,
        started=time.time(),
        name=place.name,
        user=_user(),
        project=options.project,
        team=options.team,
        device_name=reading.known_device.name,
        device_count=reading.device_count,
        peak_flops=reading.peak_flops,
        assumed_utilization=reading.assumed_utilization,
        base_flops=None if base is None else int(base),
        base_model=options.base_model,
        trackers={sink.name: sink.run_id for sink in journal.sinks},
    )


def _changed(before: Judgement | None, now: Judgement) -> bool:
    return before is None or (before.verdict, before.cause) != (now.verdict, now.cause)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return None


def _totals(snapshot: Snapshot) -> dict[str, Any]:
    """Return a segment's totals under the names that the ledger and the tags use."""
    return {
        "steps": snapshot.steps,
        "model_flops": snapshot.model_flops,
        "hardware_flops": snapshot.hardware_flops,
        "gpu_time_flops": snapshot.gpu_time_flops,
        "training_seconds": snapshot.training_seconds,
        "busy_seconds": snapshot.busy_seconds,
        "device_seconds": snapshot.device_seconds,
        "run_flops": snapshot.run_flops,
        "spent_flops": snapshot.spent_flops,
        "lineage_flops": snapshot.lineage_flops,
        "verdict": snapshot.judgement.verdict,
        "cause": snapshot.judgement.cause,
        "mfu": snapshot.mfu,
    }
