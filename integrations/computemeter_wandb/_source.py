"""Read runs back from W&B, online and offline, by what the meter left in each run's summary.

Of a run without it, W&B knows the GPUs of its machine and how long it ran.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from computemeter.reading import SETTLING_SECONDS, Found, Harvest, Request
from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, add_up, latest, number, segment_records, whole
from computemeter.sinks import describe, redact
from computemeter.sources import SourceError
from computemeter.trend.estimated import Hardware, assumed_hardware, estimate, stated_precision
from computemeter_wandb import ENTRY, full_id
from computemeter_wandb._offline import OfflineError, OfflineRun, read_offline_run

SCHEME = "wandb://"
TREND = "trend"
"""Of the configuration's entry: the run holds the page of `trend --publish`, and no training."""

_RUNS_IN_A_PAGE = 500
_SECONDS_TO_ANSWER = 60
_LONGEST_TAG = 250
_PRECISIONS = ("precision", "mixed_precision", "dtype")
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


def records(source: str, request: Request | None = None, *, warn: Warn) -> list[RunRecord]:
    """Read the runs of a project, or of the offline runs in a folder.

    A project's second reading lists all its runs, and reads those that are new or whose state, name
    or last sign of life is another, and what ended less than `SETTLING_SECONDS` before the first.

    Args:
        source: `wandb://entity/project`, which may go on with `/run_id`; or a folder, searched at
            any depth; or one `.wandb` file.
        request: every metered run if left out.
        warn: takes one line for each file, and each segment, that cannot be read.

    Raises:
        SourceError: it is none of these, or a file given by name cannot be read.
        wandb.Error, ValueError: W&B cannot be reached, or has no such project.
    """
    wanted = request or Request()
    if source.startswith(SCHEME):
        return _online(source, wanted, warn)
    runs: dict[tuple[str | None, ...], list[OfflineRun]] = defaultdict(list)
    for file in _files(Path(source), warn):
        runs[file.entity, file.project, file.run_id].append(file)
    harvest = Harvest(wanted)
    for files in runs.values():
        harvest.take(files[0].run_id, _offline_record(files, wanted, warn))
    return harvest.records


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


def _offline_record(files: list[OfflineRun], request: Request, warn: Warn) -> Found | None:
    """Make one run of the files of its launches; None where no meter wrote to it, unless asked."""
    if any(_holds_a_page(file.config) for file in files):
        return None
    files.sort(key=lambda file: file.started or 0.0)
    entries = [_entry(file.summary) for file in files]
    first, last = files[0], files[-1]
    facts = {
        "run_id": full_id(last.entity, last.project, last.run_id),
        "source": str(last.path),
        "url": None,
        "name": last.name,
        "user": last.user,
        "project": last.project,
        "started": first.started,
        "ended": last.ended,
        "status": {None: "unknown", 0: "finished"}.get(last.exit_code, "failed"),
    }
    if any(entries):
        return _run_record(last.summary, entries, warn, **facts)
    if not request.unmetered:
        return None
    times = [_runtime(file.summary, file.started, file.ended) for file in files]
    known = [seconds for seconds in times if seconds is not None]
    device = Hardware(last.device_name, last.device_count, _precision(last.config))
    return _estimated(device, sum(known) if known else None, request, facts)


def _online(uri: str, request: Request, warn: Warn) -> list[RunRecord]:
    entity, project, run_id = split(uri)
    began, harvest, memory = time.time(), Harvest(request), request.memory
    with _folders_elsewhere():
        client = api()
        if run_id is None:
            place = f"{entity}/{project}"
            unchanged, runs = _sorted_runs(client, place, request)
            harvest.recall(unchanged)
        else:
            runs = iter([client.run(f"{entity}/{project}/{run_id}")])
        try:
            for run in runs:
                found = _online_record(run, project, redact(uri), request, warn)
                harvest.take(run.id, found, _stamp(run))
                request.progress(len(harvest.records), None)
        except Exception as error:
            if not harvest.records:
                raise
            reason = f"source that stopped: {redact(uri)} answers no more: {describe(error)}"
            request.skip(f"{reason}: what it had not told until then is missing", 1)
        else:
            memory.completed(began, None)
    return harvest.records


def _sorted_runs(client: Any, place: str, request: Request) -> tuple[list[str], Iterator[Any]]:
    """Return the ids of the runs that are as they were, and read the others."""
    # Not lazy: else each run's summary would be a call of its own.
    read_all = partial(client.runs, place, per_page=_RUNS_IN_A_PAGE, lazy=False)
    stamps, read_at = request.memory.stamps(), request.memory.read_at(None)
    if read_at is None or not stamps:
        return [], iter(read_all())
    changed: list[str] = []
    unchanged: list[str] = []
    for run in client.runs(place, per_page=_RUNS_IN_A_PAGE, lazy=True):
        alive, stamp = _seconds(run.heartbeat_at) or 0.0, _stamp(run)
        settled = stamp is not None and alive < read_at - SETTLING_SECONDS
        same = settled and stamps.get(run.id) == stamp
        (unchanged if same else changed).append(run.id)
    request.memory.forget(stamps.keys() - set(unchanged) - set(changed))
    lots = (changed[at : at + _RUNS_IN_A_PAGE] for at in range(0, len(changed), _RUNS_IN_A_PAGE))
    return unchanged, chain.from_iterable(read_all(filters={"name": {"$in": lot}}) for lot in lots)


def _stamp(run: Any) -> str | None:
    if _STATUS.get(run.state) in {None, "running"}:
        return None
    return f"{run.state} {run.heartbeat_at} {run.name}"


def _online_record(
    run: Any, project: str, source: str, request: Request, warn: Warn
) -> Found | None:
    if _holds_a_page(run.config):
        return None
    status = _STATUS.get(run.state, "unknown")
    summary = run.summary_metrics
    started, alive = _seconds(run.created_at), _seconds(run.heartbeat_at)
    facts = {
        "run_id": full_id(run.entity, project, run.id),
        "source": source,
        "url": redact(run.url),
        "name": run.name or "",
        "user": getattr(getattr(run, "user", None), "username", None),
        "project": project,
        "started": started,
        "ended": None if status in {"running", "unknown"} else alive,
        "status": status,
        "tags": _tags(run.tags),
    }
    if entry := _entry(summary):
        return _run_record(summary, [entry], warn, **facts)
    if not request.unmetered:
        return None
    told = run.metadata or {}  # a file of its own, and so a call for each such run
    device = Hardware(
        _text(told.get("gpu")) or None, whole(told.get("gpu_count")), _precision(run.config)
    )
    return _estimated(device, _runtime(summary, started, alive), request, facts)


def _estimated(
    device: Hardware, seconds: float | None, request: Request, facts: dict[str, Any]
) -> Found:
    assumed = request.assume_device
    fields = estimate(device, assumed_hardware(assumed) if assumed else None, seconds)
    return fields if isinstance(fields, str) else RunRecord(**facts, team=None, **fields)


def _runtime(
    summary: Mapping[str, Any], started: float | None, ended: float | None
) -> float | None:
    """Return W&B's own figure, which counts all launches of a run, else the time between."""
    own = summary.get("_wandb")
    for told in (own.get("runtime") if isinstance(own, Mapping) else None, summary.get("_runtime")):
        if seconds := number(told):
            return seconds
    return None if started is None or ended is None else ended - started


def _precision(config: Mapping[str, Any]) -> str | None:
    if switched := next((key for key in ("bf16", "fp16") if config.get(key) is True), None):
        return switched
    return next(filter(None, (stated_precision(config.get(key)) for key in _PRECISIONS)), None)


def _tags(tags: Iterable[Any]) -> dict[str, str]:
    """Take W&B's tags, which are words: "key=value" and "key:value" have a value for us."""
    words = (str(tag)[:_LONGEST_TAG].replace(":", "=", 1).partition("=") for tag in tags or ())
    return {key: value for key, _, value in words}


def _run_record(
    summary: Mapping[str, Any], entries: Iterable[Mapping[str, Any]], warn: Warn, **facts: Any
) -> SegmentedRun:
    """Make a run of its summary and of what each launch's entry tells of segments and names."""
    entries = list(entries)
    known = {key: value for entry in entries for key, value in entry.items()}

    def unreadable(segment: str) -> None:
        run = facts["run_id"]
        warn(f"W&B run {run}: the totals of segment {segment} cannot be read, left out")

    told = (segment_records(_mapping(entry.get("segment")), unreadable) for entry in entries)
    totals = add_up(chain.from_iterable(told))
    if not totals["parts"]:
        totals = latest(summary, verdict=known.get("verdict"), cause=known.get("cause"))
    count, _, device = _text(known.get("device")).partition(" x ")
    return SegmentedRun(
        **{
            **facts,
            "project": _text(known.get("project")) or facts["project"],
            "team": _text(known.get("team")) or None,
            "category": _text(known.get("category")) or None,
        },
        device_name=device or None,
        device_count=int(count) if count.isdecimal() else None,
        estimated=False,
        **totals,
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _entry(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(summary.get(ENTRY))


def _holds_a_page(config: Mapping[str, Any]) -> bool:
    return TREND in _mapping(config.get(ENTRY))


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
