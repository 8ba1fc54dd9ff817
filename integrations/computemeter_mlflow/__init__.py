"""Mirror a run's compute into MLflow: a sink that writes to a run that exists, and makes none."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from computemeter.delivery import Delivery
from computemeter.sinks import RunContext, finite, log_warning, redact, sink_name_of
from computemeter_mlflow._batches import LogBatch, Value, in_calls, open_run

__all__ = ["MLflowSink", "attach"]

_LONGEST_TAG = 8000
_COMPUTE = "compute/pfs_days"
# MLflow's chart has no logarithmic axis for a metric.
_LOG_COMPUTE = "compute/log10_pfs_days"


def attach(context: RunContext) -> MLflowSink | None:
    """Attach to the run of an MLFlowLogger, else to the active run, else not at all.

    Must be called in the thread that trains: MLflow's active run is another in every thread.
    """
    active = _active_run()
    logger = next((each for each in context.loggers if sink_name_of(each) == "mlflow"), None)
    if logger is not None:
        return _of_logger(logger, active, context)
    if active is None:
        return None
    uri = sys.modules["mlflow"].get_tracking_uri()
    return MLflowSink(tracking_uri=uri, run_id=active, warn=context.warn)


class MLflowSink:
    """Writes to one MLflow run, from one background thread, at most every `interval` seconds.

    Sending a batch again stores it once: MLflow drops a value whose key, timestamp, step and value
    it has.

    >>> sink = MLflowSink(tracking_uri="http://host:5000", run_id="0a1b")  # doctest: +SKIP
    >>> meter = Meter(trackers=[sink])  # doctest: +SKIP
    """

    name = "mlflow"

    def __init__(
        self,
        *,
        tracking_uri: str | None,
        run_id: str,
        warn: Callable[[str], None] | None = None,
        interval: float = 10.0,
    ) -> None:
        """Prepare; nothing is sent before the first value.

        Args:
            tracking_uri: of the server or database; None for MLflow's current one.
            run_id: of a run that exists.
            warn: takes one line when the tracker fails; called from another thread; logged if
                left out.
            interval: seconds between batches.

        Raises:
            ModuleNotFoundError: where mlflow is not installed; says how to install it.
            ValueError: for an empty run id or an interval that is not positive.
        """
        if not run_id:
            raise ValueError(f"run_id={run_id!r}: accepted is the id of an MLflow run")
        # Here and not in the thread: a worker forked in the middle of an import would hang.
        mlflow = _import_mlflow()
        self.run_id = run_id
        self.tracking_uri: str = tracking_uri or mlflow.get_tracking_uri()
        self._log_batch: LogBatch | None = None
        # Replaced as a whole, never changed: both threads read it.
        self._tags: Mapping[str, str] = {}
        self._sent_tags: Mapping[str, str] = {}
        self._delivery: Delivery[_Point] = Delivery(
            self._send,
            warn=warn or log_warning,
            label=f"MLflow at {redact(self.tracking_uri)}",
            interval=interval,
        )

    def log(self, metrics: Mapping[str, float], *, step: int, time: float) -> None:
        """Queue values for one step; NaN and the infinities are left out."""
        values = finite(metrics)
        if values.get(_COMPUTE, 0.0) > 0:
            values[_LOG_COMPUTE] = math.log10(values[_COMPUTE])
        self._delivery.put(_Point(values, step, round(time * 1000)))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Queue facts about the run; the newest value of a key is the one that is sent."""
        new = {f"computemeter.{key}": str(value)[:_LONGEST_TAG] for key, value in tags.items()}
        self._tags = {**self._tags, **new}
        # Wakes the thread; the tags themselves are not queued, so a full queue never drops them.
        self._delivery.put(_Point({}, 0, 0))

    def close(self, timeout: float = 5.0) -> int:
        """Send what is queued, for at most `timeout` seconds; return how much was not delivered."""
        return self._delivery.close(timeout)

    def _send(self, points: list[_Point]) -> None:
        if self._log_batch is None:
            self._log_batch = open_run(self.tracking_uri, self.run_id)
        tags = self._tags
        unsent = {key: text for key, text in tags.items() if self._sent_tags.get(key) != text}
        values = [
            Value(key, value, point.timestamp, point.step)
            for point in points
            for key, value in point.values.items()
        ]
        for call_values, call_tags in in_calls(values, unsent):
            self._log_batch(call_values, call_tags)
        self._sent_tags = tags


class _Point(NamedTuple):
    values: Mapping[str, float]
    step: int
    timestamp: int


def _of_logger(logger: Any, active: str | None, context: RunContext) -> MLflowSink | None:
    run_id = logger.run_id
    if not isinstance(run_id, str):
        return None
    if active not in {None, run_id}:
        context.warn(
            f"two MLflow runs are open: compute is logged to the MLFlowLogger's ({run_id}), not to "
            f"the active one ({active}), which autologging may have started"
        )
    uri = logger.experiment.tracking_uri
    return MLflowSink(tracking_uri=uri, run_id=run_id, warn=context.warn)


def _active_run() -> str | None:
    """Find the active run's id without importing MLflow: not imported, it has none."""
    mlflow: Any = sys.modules.get("mlflow")
    run = mlflow.active_run() if mlflow is not None else None
    return None if run is None else str(run.info.run_id)


def _import_mlflow() -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise ModuleNotFoundError(
            "mlflow is not installed: pip install 'computemeter[mlflow]'"
        ) from error
    return mlflow
