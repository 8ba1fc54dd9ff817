"""What a source is asked for, and what an earlier reading of it left.

A reader of a tracker is a function `records(source, request, *, warn) -> list[RunRecord]`. Whoever
reads a source again gives it a memory, so that it need not ask for what cannot have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from computemeter.records import RunRecord

SETTLING_SECONDS = 86_400.0
"""A run that ended this long before the last reading, or later, is read again: a tag may be set or
a ledger pushed after the end, and clocks differ. No tracker tells when a run was last changed."""

Found: TypeAlias = RunRecord | str
"""What a reader makes of a run: a record, or the reason why it is left out."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Runs that were left out or marked, and why.

    Attributes:
        reason: one sentence, without credentials; it may hold untrusted text.
        count: of runs; of sources where it is a whole source.
    """

    reason: str
    count: int


class Memory(Protocol):
    """The runs that an earlier reading of the same source left.

    A stamp is what the reader knows a change by, without reading the run.
    """

    def read_at(self, since: float | None) -> float | None:
        """Return when the last whole reading began; None: there was none of runs since then."""

    def stamps(self) -> Mapping[str, str]:
        """Return the stamps of the runs it knows, by run id."""

    def recall(self, run_ids: Collection[str]) -> Sequence[Found]:
        """Return what it knows of runs that it knows."""

    def remember(self, run_id: str, stamp: str, found: Found) -> None:
        """Keep a run in place of what was known of it."""

    def forget(self, run_ids: Collection[str]) -> None:
        """Drop runs; ids that are not known do not matter."""

    def completed(self, began: float, since: float | None) -> None:
        """Note a whole reading of all runs, or of those that started since then."""


class NoMemory:
    """Knows nothing and keeps nothing: everything is read."""

    def read_at(self, since: float | None) -> float | None:  # noqa: ARG002
        """Return None: there was no reading."""
        return None

    def stamps(self) -> Mapping[str, str]:
        """Return no stamps."""
        return {}

    def recall(self, run_ids: Collection[str]) -> Sequence[Found]:  # noqa: ARG002
        """Return no runs."""
        return ()

    def remember(self, run_id: str, stamp: str, found: Found) -> None:
        """Keep nothing."""

    def forget(self, run_ids: Collection[str]) -> None:
        """Drop nothing."""

    def completed(self, began: float, since: float | None) -> None:
        """Note nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a source.

    Attributes:
        unmetered: also estimate runs that no meter watched, from what the tracker knows of them.
        assume_device: what those ran on that say nothing of it ("4xA100").
        since: runs that started before it (seconds since the epoch) may be left out.
        memory: what an earlier reading left.
        skip: takes a reason and a count for what is left out.
        progress: takes the number of runs read, and how many there are, if that is known.
    """

    unmetered: bool = False
    assume_device: str | None = None
    since: float | None = None
    memory: Memory = field(default_factory=NoMemory)
    skip: Callable[[str, int], None] = lambda _reason, _count: None
    progress: Callable[[int, int | None], None] = lambda _done, _total: None


class Harvest:
    """What a reader finds: records are listed, reasons counted, and both remembered.

    Attributes:
        records: of the runs so far.
    """

    def __init__(self, request: Request) -> None:
        self.records: list[RunRecord] = []
        self._request = request

    def take(self, run_id: str, found: Found | None, stamp: str | None = None) -> None:
        """Take what was made of a run.

        Args:
            run_id: of the run.
            found: None for a run that was not asked for.
            stamp: to remember it by; None for one that may still change.
        """
        if found is None:
            return
        if stamp is not None:
            self._request.memory.remember(run_id, stamp, found)
        self._add(found)

    def recall(self, run_ids: Collection[str]) -> None:
        """Take runs from memory."""
        for found in self._request.memory.recall(run_ids):
            self._add(found)

    def _add(self, found: Found) -> None:
        if isinstance(found, str):
            self._request.skip(found, 1)
        else:
            self.records.append(found)
