"""Mirror a run's compute into MLflow: a sink that writes to a run that exists, and makes none."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeAlias

from computemeter.delivery import Delivery, Rejected
from computemeter.sinks import RunContext, describe, finite, log_warning, redact, sink_name_of
from computemeter_mlflow._batches import Call, Value, as_tags, in_calls
from computemeter_mlflow._remote import RemoteRun, judged, open_run

__all__ = ["MLflowSink", "attach"]

MakeFiles: TypeAlias = Callable[[Path], Sequence[Path]]
"""Writes files into a folder and returns them."""

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

    Examples:
        >>> sink = MLflowSink(tracking_uri="http://host:5000", run_id="0a1b")  # doctest: +SKIP
        >>> meter = Meter(trackers=[sink])  # doctest: +SKIP

    Attributes:
        destination: the server or database, without credentials.
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
        self._uri: str = tracking_uri or mlflow.get_tracking_uri()
        self.destination = redact(self._uri)
        self._warn = warn or log_warning
        self._run: RemoteRun | None = None
        self._reached = False
        # Replaced as a whole, never changed: both threads read them.
        self._tags: Mapping[str, str] = {}
        self._sent_tags: Mapping[str, str] = {}
        self._refused: frozenset[str] = frozenset()
        self._make: MakeFiles | None = None
        self._delivery: Delivery[_Point] = Delivery(
            self._send,
            warn=self._warn,
            label=f"MLflow at {self.destination}",
            interval=interval,
            store_files=self._store_files,
        )

    def log(self, metrics: Mapping[str, float], *, step: int, time: float) -> None:
        """Queue values for one step; NaN and the infinities are left out."""
        values = finite(metrics)
        if values.get(_COMPUTE, 0.0) > 0:
            values[_LOG_COMPUTE] = math.log10(values[_COMPUTE])
        self._delivery.put(_Point(values, step, round(time * 1000)))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Queue facts about the run; the newest value of a key is the one that is sent."""
        # Not in the queue: a full one would drop them.
        self._tags = {**self._tags, **as_tags(tags)}
        self._delivery.wake()

    def files(self, make: MakeFiles) -> None:
        """Have files stored among the run's artifacts, in the folder "compute", when it closes.

        Args:
            make: writes files into a temporary folder and returns them; called in the sink's
                thread once every value is delivered. What it raises is warned of.
        """
        self._make = make
        self._delivery.wake()

    def close(self, timeout: float = 5.0) -> int:
        """Send what is queued, for at most `timeout` seconds; return the steps not delivered."""
        return self._delivery.close(timeout)

    def _send(self, points: list[_Point]) -> None:
        values = [
            Value(key, value, point.timestamp, point.step)
            for point in points
            for key, value in point.values.items()
            if key not in self._refused
        ]
        try:
            self._store(in_calls(values, {}))
        except Rejected:
            if len(points) > 1:
                raise  # Delivery cuts the batch until the step stands alone
            self._send_apart(values)
        self._send_tags()

    def _send_apart(self, values: Sequence[Value]) -> None:
        """Send one step's values one by one: a name that is refused must not cost the others."""
        refused = self._store_apart(Call([value], {}) for value in values)
        if len(refused) == len(values):
            raise refused[0][1]
        self._refused |= {call.values[0].key for call, _ in refused}
        self._say_refused(refused)

    def _send_tags(self) -> None:
        tags = self._tags
        unsent = {key: text for key, text in tags.items() if self._sent_tags.get(key) != text}
        for call in in_calls((), unsent):
            try:
                self._store([call])
            except Rejected:
                each = (Call((), {key: text}) for key, text in call.tags.items())
                self._say_refused(self._store_apart(each))
        self._sent_tags = tags

    def _store_apart(self, calls: Iterable[Call]) -> list[tuple[Call, Rejected]]:
        """Make calls one by one; return those that are refused."""
        refused = []
        for call in calls:
            try:
                self._store([call])
            except Rejected as error:
                refused.append((call, error))
        return refused

    def _store(self, calls: Iterable[Call]) -> None:
        if self._run is None:
            self._run = open_run(self._uri, self.run_id)
        for call in calls:
            try:
                self._run.log_batch(*call)
            except Exception as error:
                raise judged(error, reached=self._reached) from error
            self._reached = True

    def _say_refused(self, refused: list[tuple[Call, Rejected]]) -> None:
        for _, error in refused[:1]:
            self._warn(
                f"MLflow at {self.destination}: some metrics or tags are refused for good and left "
                f"out ({len(refused)}; {describe(error)}); the ledger keeps everything"
            )

    def _store_files(self, deadline: float) -> None:
        make, self._make = self._make, None
        if make is None:
            return
        run = self._run or open_run(self._uri, self.run_id)
        failures: list[Exception] = []
        with TemporaryDirectory(prefix="computemeter-") as folder:
            for path in make(Path(folder)):
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"no time was left for {path.name}")
                try:
                    run.store_file(path)
                except Exception as error:  # noqa: BLE001 - the next file may be taken
                    failures.append(error)
        if failures:
            raise failures[0]


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
