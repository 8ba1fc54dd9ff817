"""Mirror a run's compute into W&B: a sink that writes to a run that exists, and makes none."""

from __future__ import annotations

import shlex
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from computemeter.delivery import Delivery, Gone
from computemeter.sinks import RunContext, describe, finite, log_warning, redact, sink_name_of
from computemeter_wandb._rows import Passenger

__all__ = ["WandbSink", "attach"]

ENTRY = "computemeter"
"""The summary's entry that holds what is known of the run besides its values."""

_COMPUTE = "compute/pfs_days"
_LOSS = "compute/loss"
# What Lightning's WandbLogger gives to every row of its own.
_STEP = "trainer/global_step"
# What W&B raises once its own process is gone, which nobody starts again. Private classes.
_NO_PROCESS = {"AlreadyJoinedError", "HandleAbandonedError", "MailboxClosedError"}


def attach(context: RunContext) -> WandbSink | None:
    """Attach to the run of a WandbLogger, else to the one W&B has open, else not at all.

    No rows of our own are logged: the values go into the logger's rows, or the user's (`_rows`).
    """
    logger = next((each for each in context.loggers if sink_name_of(each) == "wandb"), None)
    run = _open_run() if logger is None else getattr(logger, "experiment", None)
    # On other ranks a logger's experiment is a dummy, and a disabled run keeps nothing.
    if not isinstance(getattr(run, "id", None), str) or getattr(run, "disabled", False):
        return None
    return WandbSink(run, axis=None if logger is None else _STEP, warn=context.warn)


def full_id(entity: str | None, project: str | None, run_id: str) -> str:
    """Name a run among those of all projects, as far as it is known: the user may choose its id.

    >>> full_id("ann", "digits", "first"), full_id(None, "digits", "first")
    ('ann/digits/first', 'digits/first')
    """
    return "/".join(part for part in (entity, project, run_id) if part)


class WandbSink:
    """Writes to one W&B run, from one background thread, at most every `interval` seconds.

    Attributes:
        run_id: with its entity and project; see `full_id`.
        destination: of `computemeter push --to`; empty for an offline run.
        advice: the command that brings an offline run to its server; else empty.
    """

    name = "wandb"

    def __init__(
        self,
        run: Any,
        *,
        rows: bool = False,
        axis: str | None = None,
        warn: Callable[[str], None] | None = None,
        interval: float = 10.0,
    ) -> None:
        """Prepare; nothing is sent before the first value.

        Args:
            run: an open `wandb.Run`.
            rows: log a row of history for each step. Not for a run that anyone logs to with
                `step=`: W&B would drop those rows. Without, the newest values go into the rows
                that others log, and the totals into the summary.
            axis: what rows that are to take the values have in them, as long as there are such
                rows: a WandbLogger's have "trainer/global_step".
            warn: takes one line when W&B fails; called from another thread. Python's warnings if
                left out.
            interval: seconds between batches.

        Raises:
            ValueError: for an interval that is not positive.
        """
        entity, project = getattr(run, "entity", None), getattr(run, "project", None)
        self.run_id = full_id(entity, project, run.id)
        offline = bool(getattr(run, "offline", False))
        known = entity and project and not offline
        self.destination = redact(f"wandb://{self.run_id}") if known else ""
        self.advice = f"wandb sync {shlex.quote(str(Path(run.dir).parent))}" if offline else ""
        self._run, self._rows = run, rows
        self._axis = _STEP if rows else axis
        self._passenger = Passenger(run, axis=axis)
        self._warn = warn or log_warning
        # Replaced as a whole, never changed: both threads read them.
        self._latest: Mapping[str, float] = {}
        self._tags: Mapping[str, str] = {}
        self._alerts: deque[tuple[str, str]] = deque()
        self._entry: dict[str, Any] | None = None
        self._delivery: Delivery[_Row] = Delivery(
            self._send, warn=self._warn, label="W&B", interval=interval
        )

    def log(self, metrics: Mapping[str, float], *, step: int, time: float) -> None:
        """Queue values for one step; NaN and the infinities are left out."""
        values = finite(metrics)
        self._latest = {**self._latest, **values}
        if not self._rows:
            self._passenger.wait(values)
        self._delivery.put(_Row(values, step, time, logged=self._has(values)))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Queue facts about the run, for the summary's entry `computemeter`."""
        self._tags = {**self._tags, **tags}
        self._delivery.wake()

    def alert(self, title: str, text: str) -> None:
        """Queue an alert, which W&B sends on to wherever the user has it send them."""
        self._alerts.append((title, text))
        self._delivery.wake()

    def close(self, timeout: float = 5.0) -> int:
        """Send what is queued, for at most `timeout` seconds; return the steps not delivered."""
        self._passenger.leave()
        return self._delivery.close(timeout)

    def _has(self, _values: Mapping[str, float]) -> bool:
        """Whether the run has a row of these values already."""
        return False

    def _send(self, rows: list[_Row]) -> None:
        try:
            self._publish(rows)
            # W&B takes everything without an answer. This one comes after all of it was taken, and
            # raises where the run was finished meanwhile or W&B's process died.
            self._run.status()
        except Exception as error:
            if _is_final(error):
                why = describe(error) if str(error) else "W&B's own process ended"
                raise Gone(why) from error
            raise
        self._send_alerts()

    def _publish(self, rows: list[_Row]) -> None:
        if self._entry is None:
            self._entry = self._begin()
        for row in rows if self._rows else ():
            # A batch that failed half-way comes again.
            if not row.logged:
                self._run.log({**row.values, _STEP: row.step, "_timestamp": row.time})
                row.logged = True
        # Explicit, because a user's define_metric("*", summary="max") would make {"max": value}.
        self._run.summary.update({**self._latest, ENTRY: self._facts(self._entry)})

    def _send_alerts(self) -> None:
        """Try each alert once: one that fails is no reason to send anything again."""
        while self._alerts:
            title, text = self._alerts.popleft()
            try:
                self._run.alert(title=title, text=text)
            except Exception as error:  # noqa: BLE001 - W&B raises what it likes
                self._warn(f"W&B took no alert: {describe(error)}")

    def _begin(self) -> dict[str, Any]:
        """Draw the loss against compute; return what earlier segments left in a resumed run."""
        # Not in step: W&B would put an old step into the user's rows, and a zero where the compute
        # is not known.
        apart = False if self._axis else None
        self._run.define_metric(_COMPUTE, step_metric=self._axis, step_sync=apart)
        self._run.define_metric(_LOSS, step_metric=_COMPUTE, step_sync=False)
        # A process that does not answer would make the summary look empty, and raises here instead.
        self._run.status()
        # Writing the entry replaces it as a whole.
        return dict(self._run.summary.get(ENTRY) or {})

    def _facts(self, entry: dict[str, Any]) -> dict[str, Any]:
        for key, text in self._tags.items():
            _nest(entry, key.split("."), text)
        return entry


@dataclass(slots=True)
class _Row:
    values: Mapping[str, float]
    step: int
    time: float
    logged: bool = False


def _nest(entry: dict[str, Any], path: list[str], text: str) -> None:
    """Put "segment.<id>" under "segment" and "<id>": W&B reads a dot in a name as nesting."""
    *parents, last = path
    for parent in parents:
        if not isinstance(entry.get(parent), dict):
            entry[parent] = {}
        entry = entry[parent]
    entry[last] = text


def _is_final(error: Exception) -> bool:
    """Whether the run is finished, or W&B's process gone, for good."""
    if isinstance(error, ConnectionError) or type(error).__name__ in _NO_PROCESS:
        return True
    errors = getattr(sys.modules.get("wandb"), "errors", None)
    return isinstance(error, getattr(errors, "UsageError", ()))


def _open_run() -> Any:
    """Find the open run without importing W&B: not imported, it has none."""
    return getattr(sys.modules.get("wandb"), "run", None)
