"""Mirror a run's compute into W&B: a sink that writes to a run that exists, and makes none."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from computemeter.delivery import Delivery
from computemeter.sinks import RunContext, describe, finite, log_warning, sink_name_of

__all__ = ["WandbSink", "attach"]

_ENTRY = "computemeter"
_COMPUTE = "compute/pfs_days"
_LOSS = "compute/loss"
# The axis that Lightning's WandbLogger gives to every row of its own.
_STEP = "trainer/global_step"


def attach(context: RunContext) -> WandbSink | None:
    """Attach to the run of a WandbLogger, else to the one W&B has open, else not at all.

    Rows are logged to a WandbLogger's run only. Its rows name their own step; a user of bare W&B
    may pass `step=`, and any row of ours would move W&B's counter past it and lose theirs.
    """
    logger = next((each for each in context.loggers if sink_name_of(each) == "wandb"), None)
    run = _open_run() if logger is None else getattr(logger, "experiment", None)
    # On other ranks a logger's experiment is a dummy, and a disabled run keeps nothing.
    if not isinstance(getattr(run, "id", None), str) or getattr(run, "disabled", False):
        return None
    return WandbSink(run, rows=logger is not None, warn=context.warn)


class WandbSink:
    """Writes to one W&B run, from one background thread, at most every `interval` seconds."""

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
            rows: log a row of history for each step, not just the summary. Not for a run that
                anyone logs to with `step=`: W&B would drop those rows.
            warn: takes one line when W&B fails; called from another thread. Python's warnings if
                left out.
            interval: seconds between batches.

        Raises:
            ValueError: for an interval that is not positive.
        """
        self.run_id = str(run.id)
        self._run, self._rows = run, rows
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
        self._delivery.put(_Row(values, step, time))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Queue facts about the run, for the summary's entry `computemeter`."""
        self._tags = {**self._tags, **tags}
        # Wakes the thread; the tags themselves are not queued, so a full queue never drops them.
        self._delivery.put(_Row({}, 0, 0.0))

    def alert(self, title: str, text: str) -> None:
        """Queue an alert, which W&B sends on to wherever the user has it send them."""
        self._alerts.append((title, text))
        self._delivery.put(_Row({}, 0, 0.0))

    def close(self, timeout: float = 5.0) -> int:
        """Send what is queued, for at most `timeout` seconds; return how much was not delivered."""
        return self._delivery.close(timeout)

    def _send(self, rows: list[_Row]) -> None:
        if self._entry is None:
            self._begin()
        for row in rows:
            if self._rows and row.values:
                self._run.log({**row.values, _STEP: row.step, "_timestamp": row.time})
        # Explicit, because a user's define_metric("*", summary="max") would make {"max": value}.
        self._run.summary.update({**self._latest, _ENTRY: self._facts()})
        self._send_alerts()

    def _send_alerts(self) -> None:
        """Try each alert once: sending the batch again for its sake would log its rows twice."""
        while self._alerts:
            title, text = self._alerts.popleft()
            try:
                self._run.alert(title=title, text=text)
            except Exception as error:  # noqa: BLE001 - W&B raises what it likes
                self._warn(f"W&B took no alert: {describe(error)}")

    def _begin(self) -> None:
        if self._rows:
            self._run.define_metric(_COMPUTE, step_metric=_STEP)
            self._run.define_metric(_LOSS, step_metric=_COMPUTE)
        # What earlier segments left in a resumed run; writing the entry replaces it as a whole.
        self._entry = dict(self._run.summary.get(_ENTRY) or {})

    def _facts(self) -> dict[str, Any]:
        entry = self._entry or {}
        for key, text in self._tags.items():
            _nest(entry, key.split("."), text)
        return entry


class _Row(NamedTuple):
    values: Mapping[str, float]
    step: int
    time: float


def _nest(entry: dict[str, Any], path: list[str], text: str) -> None:
    """Put "segment.<id>" under "segment" and "<id>": W&B reads a dot in a name as nesting."""
    *parents, last = path
    for parent in parents:
        if not isinstance(entry.get(parent), dict):
            entry[parent] = {}
        entry = entry[parent]
    entry[last] = text


def _open_run() -> Any:
    """Find the open run without importing W&B: not imported, it has none."""
    return getattr(sys.modules.get("wandb"), "run", None)
