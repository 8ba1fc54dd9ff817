"""Mirror a run's compute into W&B: a sink that writes to a run that exists, and makes none."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from computemeter.delivery import Delivery, Gone
from computemeter.sinks import RunContext, describe, finite, log_warning, redact, sink_name_of
from computemeter_wandb._rows import Passenger

__all__ = ["WandbSink", "attach"]

ENTRY = "computemeter"
"""The summary's entry that holds what is known of the run besides its values."""

_COMPUTE = "compute/pfs_days"
_LOSS = "compute/loss"
# The axis that Lightning's WandbLogger gives to every row of its own.
_STEP = "trainer/global_step"
# What W&B raises once its own process is gone, which nobody starts again. Private classes.
_NO_PROCESS = {"AlreadyJoinedError", "HandleAbandonedError", "MailboxClosedError"}


def attach(context: RunContext) -> WandbSink | None:
    """Attach to the run of a WandbLogger, else to the one W&B has open, else not at all.

    Rows of our own are logged to a WandbLogger's run only, whose rows name their own step. A user
    of bare W&B may pass `step=`: there the values go into the user's rows (see `_rows`).
    """
    logger = next((each for each in context.loggers if sink_name_of(each) == "wandb"), None)
    run = _open_run() if logger is None else getattr(logger, "experiment", None)
    # On other ranks a logger's experiment is a dummy, and a disabled run keeps nothing.
    if not isinstance(getattr(run, "id", None), str) or getattr(run, "disabled", False):
        return None
    return WandbSink(run, rows=logger is not None, warn=context.warn)


class WandbSink:
    """Writes to one W&B run, from one background thread, at most every `interval` seconds.

    Attributes:
        destination: of `computemeter push --to`; empty for an offline run, which `wandb sync`
            brings to its server.
    """

    name = "wandb"

    def __init__(
        self,
        run: Any,
        *,
        rows: bool = False,
        warn: Callable[[str], None] | None = None,
        interval: float = 10.0,
    ) -> None:
        """Prepare; nothing is sent before the first value.

        Args:
            run: an open `wandb.Run`.
            rows: log a row of history for each step. Not for a run that anyone logs to with
                `step=`: W&B would drop those rows. Without, the newest values go into the rows
                that the user logs, and the totals into the summary.
            warn: takes one line when W&B fails; called from another thread. Python's warnings if
                left out.
            interval: seconds between batches.

        Raises:
            ValueError: for an interval that is not positive.
        """
        self.run_id = str(run.id)
        self.destination = _where_to_push(run)
        self._run, self._rows = run, rows
        self._passenger = Passenger(run)
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
        self._run.define_metric(_COMPUTE, step_metric=_STEP if self._rows else None)
        # Not in step: W&B would put a zero where the compute is not known.
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


def _where_to_push(run: Any) -> str:
    entity, project = getattr(run, "entity", None), getattr(run, "project", None)
    if getattr(run, "offline", False) or not entity or not project:
        return ""
    return redact(f"wandb://{entity}/{project}/{run.id}")


def _open_run() -> Any:
    """Find the open run without importing W&B: not imported, it has none."""
    return getattr(sys.modules.get("wandb"), "run", None)
