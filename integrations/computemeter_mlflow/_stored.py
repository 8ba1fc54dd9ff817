"""A run as MLflow stores it, however it was read, and the record that is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from computemeter.reading import Found, Request
from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, add_up, latest, segment_records
from computemeter.sinks import redact
from computemeter.trend.estimated import assumed_hardware, estimate
from computemeter_mlflow._estimated import hardware

SCHEMA = "computemeter.schema"
TREND = "computemeter.trend"
"""The tag of a run that holds the page of `trend --publish`, and no training."""
COMPUTE = "compute/flops"
TOTALS = (
    COMPUTE,
    "compute/spent_pfs_days",
    "compute/lineage_pfs_days",
    "compute/pfs_days_gpu_time",
    "compute/ratio",
    "compute/device_hours",
)
"""The metrics of a run that was killed before its tags were sent."""

_OURS = "computemeter."
_SEGMENT = "computemeter.segment."
_LONGEST_TAG = 250
_STATUS = {
    "RUNNING": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "interrupted",
}


class StoredRun(NamedTuple):
    """A run of an active experiment; times in milliseconds since the epoch."""

    run_id: str
    name: str | None
    user: str | None
    status: str
    start_time: int | None
    end_time: int | None
    experiment_id: str
    experiment: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    params: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes records of the runs of one store.

    Attributes:
        source: its URI.
        request: what is asked of it.
        warn: takes one line for each segment that cannot be read.
        shown: the URI without credentials.
    """

    source: str
    request: Request
    warn: Callable[[str], None]
    shown: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", redact(self.source))

    def make(self, run: StoredRun) -> Found | None:
        """Make a record, or say why not; None for what is not asked for."""
        if TREND in run.tags:
            return None
        if run.tags.get(SCHEMA) or run.metrics.get(COMPUTE, 0) > 0:
            return self._metered(run)
        return self._estimated(run) if self.request.unmetered else None

    def _metered(self, run: StoredRun) -> SegmentedRun:
        tags = run.tags
        count, _, device = tags.get("computemeter.device", "").partition(" x ")
        texts = {
            key.removeprefix(_SEGMENT): text
            for key, text in tags.items()
            if key.startswith(_SEGMENT)
        }
        totals = add_up(segment_records(texts, lambda name: self._unreadable(run, name)))
        if not totals["parts"]:
            verdict, cause = tags.get("computemeter.verdict"), tags.get("computemeter.cause")
            totals = latest(run.metrics, verdict=verdict, cause=cause)
        return SegmentedRun(
            **self._facts(run),
            device_name=device or None,
            device_count=int(count) if count.isdecimal() else None,
            estimated=False,
            **totals,
        )

    def _estimated(self, run: StoredRun) -> Found:
        assumed = self.request.assume_device
        started, ended = _seconds(run.start_time), _seconds(run.end_time)
        seconds = None if started is None or ended is None else ended - started
        fields = estimate(hardware(run), assumed_hardware(assumed) if assumed else None, seconds)
        return fields if isinstance(fields, str) else RunRecord(**self._facts(run), **fields)

    def _facts(self, run: StoredRun) -> dict[str, Any]:
        tags = run.tags
        return {
            "run_id": run.run_id,
            "source": self.shown,
            "url": page_of(self.source, run.experiment_id, run.run_id),
            "name": run.name or tags.get("mlflow.runName") or "",
            "user": tags.get("mlflow.user") or _known(run.user),
            "project": tags.get("computemeter.project") or run.experiment,
            "team": tags.get("computemeter.team"),
            "started": _seconds(run.start_time),
            "ended": _seconds(run.end_time),
            "status": _STATUS.get(run.status, "unknown"),
            "tags": users_tags(tags),
            "category": tags.get("computemeter.category"),
        }

    def _unreadable(self, run: StoredRun, segment: str) -> None:
        self.warn(
            f"MLflow run {run.run_id}: the totals of segment {segment} cannot be read, left out"
        )


def users_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Leave out what MLflow and the meter set; a text of any length is cut."""
    return {
        key: text[:_LONGEST_TAG]
        for key, text in tags.items()
        if not key.startswith(("mlflow.", _OURS))
    }


def page_of(source: str, experiment: str, run_id: str) -> str | None:
    """Return the run's page; a database has none."""
    parts = urlsplit(source)
    if parts.scheme not in {"http", "https"}:
        return None
    # Without a user and password, and without a query, either of which may hold a secret.
    host = parts.netloc.rpartition("@")[2]
    page = f"/#/experiments/{experiment}/runs/{run_id}"
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}{page}"


def _known(user: str | None) -> str | None:
    return None if user in {"", "unknown"} else user


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
