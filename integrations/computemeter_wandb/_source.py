"""Read runs back from W&B, online and offline, by what the meter left in each run's summary."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from computemeter.records import RunRecord
from computemeter.segments import (
    SegmentedRun,
    SegmentRecord,
    a_cause,
    a_verdict,
    add_up,
    number,
    whole,
)
from computemeter.sinks import redact
from computemeter.sources import SourceError
from computemeter.units import PFS_DAY
from computemeter_wandb import ENTRY
from computemeter_wandb._offline import OfflineError, OfflineRun, read_offline_run

SCHEME = "wandb://"

_RUNS_IN_A_PAGE = 500
_SECONDS_TO_ANSWER = 60
_STATUS = {
    "running": "running",
    "finished": "finished",
    "failed": "failed",
    "crashed": "failed",
    "killed": "interrupted",
    "preempting": "interrupted",
    "preempted": "interrupted",
}

Warn = Callable[[str], None]


def records(source: str, *, warn: Warn) -> list[RunRecord]:
    """Read every metered run of a project, or of the offline runs in a folder.

    Args:
        source: `wandb://entity/project`, which may go on with `/run_id`; or a folder, searched at
            any depth; or one `.wandb` file.
        warn: takes one line for each file, and each segment, that cannot be read.

    Raises:
        SourceError: it is none of these, or a file given by name cannot be read.
        wandb.Error, ValueError: W&B cannot be reached, or has no such project.
    """
    if source.startswith(SCHEME):
        return _online(source, warn)
    runs: dict[tuple[str | None, ...], list[OfflineRun]] = defaultdict(list)
    for file in _files(Path(source), warn):
        runs[file.entity, file.project, file.run_id].append(file)
    found = (_offline_record(files, warn) for files in runs.values())
    return [record for record in found if record is not None]


def split(uri: str) -> tuple[str, str, str | None]:
    """Take `wandb://entity/project/run_id` apart; the run id may be missing.

    Raises:
        SourceError: it is no such URI.
    """
    parts = uri.removeprefix(SCHEME).rstrip("/").split("/")
    if not uri.startswith(SCHEME) or len(parts) not in {2, 3} or not all(parts):
        raise SourceError(f"{redact(uri)}: not of the form wandb://entity/project")
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def api() -> Any:
    """Make W&B's client; the key comes from WANDB_API_KEY or `wandb login`."""
    import wandb

    return wandb.Api(timeout=_SECONDS_TO_ANSWER)


def _files(path: Path, warn: Warn) -> Iterator[OfflineRun]:
    if not path.is_dir():
        yield read_offline_run(path, history=False)
        return
    for file in sorted(path.rglob("*.wandb")):
        try:
            yield read_offline_run(file, history=False)
        except (OfflineError, OSError) as error:
            warn(f"left out: {error}")


def _offline_record(files: list[OfflineRun], warn: Warn) -> SegmentedRun | None:
    """Make one run of the files of its launches; None where no meter wrote to it."""
    files.sort(key=lambda file: file.started or 0.0)
    entries = [_entry(file.summary) for file in files]
    if not any(entries):
        return None
    first, last = files[0], files[-1]
    return _run_record(
        last.summary,
        entries,
        warn,
        run_id=last.run_id,
        source=str(last.path),
        url=None,
        name=last.name,
        user=last.user,
        project=last.project,
        started=first.started,
        ended=last.ended,
        status={None: "unknown", 0: "finished"}.get(last.exit_code, "failed"),
    )


def _online(uri: str, warn: Warn) -> list[RunRecord]:
    entity, project, run_id = split(uri)
    with _folders_elsewhere():
        # Not lazy: else each run's summary would be a call of its own.
        runs = (
            api().runs(f"{entity}/{project}", per_page=_RUNS_IN_A_PAGE, lazy=False)
            if run_id is None
            else [api().run(f"{entity}/{project}/{run_id}")]
        )
        return [
            _online_record(run, project, redact(uri), warn)
            for run in runs
            if _entry(run.summary_metrics)
        ]


def _online_record(run: Any, project: str, source: str, warn: Warn) -> SegmentedRun:
    status = _STATUS.get(run.state, "unknown")
    return _run_record(
        run.summary_metrics,
        [_entry(run.summary_metrics)],
        warn,
        run_id=run.id,
        source=source,
        url=redact(run.url),
        name=run.name or "",
        user=getattr(getattr(run, "user", None), "username", None),
        project=project,
        started=_seconds(run.created_at),
        ended=None if status in {"running", "unknown"} else _seconds(run.heartbeat_at),
        status=status,
    )


def _run_record(
    summary: Mapping[str, Any], entries: Iterable[Mapping[str, Any]], warn: Warn, **facts: Any
) -> SegmentedRun:
    """Make a run of its summary and of what each launch's entry tells of segments and names."""
    entries = list(entries)
    known = {key: value for entry in entries for key, value in entry.items()}
    parts = list(chain.from_iterable(_parts(entry, facts["run_id"], warn) for entry in entries))
    count, _, device = _text(known.get("device")).partition(" x ")
    return SegmentedRun(
        **{
            **facts,
            "project": _text(known.get("project")) or facts["project"],
            "team": _text(known.get("team")) or None,
        },
        device_name=device or None,
        device_count=int(count) if count.isdecimal() else None,
        estimated=False,
        **(add_up(parts) if parts else _latest(summary, known)),
    )


def _entry(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    entry = summary.get(ENTRY)
    return entry if isinstance(entry, Mapping) else {}


def _parts(entry: Mapping[str, Any], run_id: str, warn: Warn) -> Iterator[SegmentRecord]:
    segments = entry.get("segment")
    for segment, text in segments.items() if isinstance(segments, Mapping) else ():
        try:
            totals = dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            warn(f"W&B run {run_id}: the totals of segment {segment} cannot be read, left out")
        else:
            yield SegmentRecord.from_totals(segment, totals)


def _latest(summary: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Take the newest values of a run without segments: one that was killed early, or is old."""
    run_flops = whole(summary.get("compute/flops"))
    spent = _flops(summary.get("compute/spent_pfs_days"))
    hours = number(summary.get("compute/device_hours"))
    return {
        "run_flops": run_flops,
        # It is logged only where it differs.
        "spent_flops": run_flops if spent is None else spent,
        "lineage_flops": _flops(summary.get("compute/lineage_pfs_days")),
        "gpu_time_flops": _flops(summary.get("compute/pfs_days_gpu_time")),
        "ratio": number(summary.get("compute/ratio")),
        "verdict": a_verdict(entry.get("verdict")),
        "cause": a_cause(entry.get("cause")),
        "mfu": None,  # the value is over the last interval alone
        "device_seconds": None if hours is None else 3600 * hours,
        "segments": 1,
    }


def _flops(pfs_days: object) -> int | None:
    days = number(pfs_days)
    return None if days is None else whole(days * PFS_DAY)


def _seconds(moment: Any) -> float | None:
    """Read "2026-11-22T05:15:18Z", UTC also where it does not say so."""
    try:
        return datetime.fromisoformat(f"{str(moment).removesuffix('Z')}+00:00").timestamp()
    except ValueError:
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


@contextmanager
def _folders_elsewhere() -> Iterator[None]:
    """Keep W&B's client from making a folder for each run it reads of in the user's own."""
    before = os.environ.get("WANDB_DIR")
    with TemporaryDirectory() as folder:
        os.environ["WANDB_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["WANDB_DIR"]
            else:
                os.environ["WANDB_DIR"] = before
