"""Where runs are read from: ledgers, receipts, folders of offline W&B runs, and trackers.

A tracker's reader is found by name through the entry-point group `computemeter.sources`; each entry
is a function `records(source, request, *, warn) -> list[RunRecord]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from computemeter.ledger_runs import records_from_ledgers
from computemeter.reading import Request
from computemeter.receipt import ComputeReceipt, read_receipt
from computemeter.records import RunRecord
from computemeter.segments import (
    SegmentedRun,
    SegmentRecord,
    a_cause,
    a_verdict,
    add_up,
    merge,
)
from computemeter.sinks import describe, redact
from computemeter.units import SECONDS_PER_HOUR

SOURCES = "computemeter.sources"
DESTINATIONS = "computemeter.destinations"

_SQLITE = b"SQLite format 3\0"
"""What every SQLite database begins with."""
_TRACKER_OF = {
    "sqlite": "mlflow",
    "postgresql": "mlflow",
    "mysql": "mlflow",
    "mssql": "mlflow",
    "http": "mlflow",
    "https": "mlflow",
    "wandb": "wandb",
}

Warn = Callable[[str], None]


class SourceError(ValueError):
    """A source that cannot be read, or a destination; the message is one line for the user."""


def records(
    sources: Iterable[str | Path], *, warn: Warn = lambda _message: None
) -> list[RunRecord]:
    """Read the runs of all sources, each run once, in the order they started.

    Args:
        sources: ledgers, receipts, offline W&B runs (`*.wandb`), folders of these, and URIs of
            trackers (`sqlite:///mlflow.db`, `https://host`, `wandb://entity/project`).
        warn: takes one line for each file, run or value that was left out.

    Raises:
        SourceError: for what is no source or cannot be read.
    """
    request = Request()
    return merge(record for source in sources for record in read(str(source), request, warn=warn))


def read(source: str, request: Request, *, warn: Warn) -> list[RunRecord]:
    """Read the runs of one source; a run that it has twice may be there twice.

    Args:
        source: see `records`; also a CSV file that `computemeter.csv_files` wrote.
        request: for readers of trackers and of offline W&B runs; ledgers, receipts and CSV files
            hold no other runs than metered ones.
        warn: takes one line for each file, run or value that was left out.

    Raises:
        SourceError: for what is no source or cannot be read.
    """
    tracker = tracker_of(source)
    if tracker is not None:
        found: list[RunRecord] = ask_tracker(SOURCES, tracker, source, request, warn=warn)
        return found
    if "://" in source:
        known = ", ".join(f"{scheme}://" for scheme in _TRACKER_OF)
        raise SourceError(f"{redact(source)}: no tracker that is known here; known are {known}")
    try:
        return _read_path(Path(source).expanduser(), request, warn)
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"{source}: {error.strerror or describe(error)}") from None
    except (ValueError, RuntimeError) as error:  # LedgerError, ReceiptError; no home for a "~"
        raise SourceError(redact(str(error))) from None


def tracker_of(uri: str) -> str | None:
    """Name the tracker that a URI belongs to; None for what is no URI of a tracker.

    A scheme that is not listed here is the name of an entry point that another package brings.

    >>> tracker_of("postgresql+psycopg2://host/db"), tracker_of("runs/compute_ledger")
    ('mlflow', None)
    """
    scheme, separator, _ = uri.partition("://")
    name = scheme.partition("+")[0].lower()
    return _TRACKER_OF.get(name) or _installed(name) if separator else None


def _installed(name: str) -> str | None:
    found = any(entry_points(group=group, name=name) for group in (SOURCES, DESTINATIONS))
    return name if found else None


def ask_tracker(group: str, tracker: str, uri: str, *arguments: Any, warn: Warn) -> Any:
    """Call a tracker's entry point with a URI and more.

    Raises:
        SourceError: where the tracker is not installed, or whatever it raises, in one line.
    """
    ours = tracker in _TRACKER_OF.values()
    points = entry_points(group=group, name=tracker)
    if not points:
        cure = ": install computemeter anew" if ours else ""
        raise SourceError(f"no {group} is named {tracker!r}{cure}")
    try:
        return next(iter(points)).load()(uri, *arguments, warn=warn)
    except SourceError:
        raise
    except ImportError as error:
        # Another module that lacks is the user's to install, and its error says which.
        if not ours or (error.name or tracker).partition(".")[0] != tracker:
            raise SourceError(f"{redact(uri)}: {describe(error)}") from None
        command = f"pip install 'computemeter[{tracker}]'"
        raise SourceError(f"{redact(uri)}: {tracker} is not installed: {command}") from None
    except Exception as error:  # noqa: BLE001 - trackers raise whatever they like
        raise SourceError(f"{redact(uri)}: {describe(error)}") from None


def _read_path(path: Path, request: Request, warn: Warn) -> list[RunRecord]:
    if not path.exists():
        raise SourceError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _read_folder(path, request, warn)
    if path.suffix == ".wandb":
        return _offline_runs(path, request, warn)
    if path.suffix == ".json":
        return [_receipt_record(path, read_receipt(path))]
    if path.suffix == ".csv":
        from computemeter.csv_files import read_csv

        return read_csv(path, warn=warn)
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) == _SQLITE:
            raise SourceError(f"{path}: a database, to be given as sqlite:///{path}")
    return records_from_ledgers([path], warn=warn)


def _read_folder(folder: Path, request: Request, warn: Warn) -> list[RunRecord]:
    ledgers, offline = (any(folder.rglob(f"*.{kind}")) for kind in ("jsonl", "wandb"))
    if not ledgers and not offline:
        raise SourceError(f"{folder}: neither a ledger (*.jsonl) nor an offline W&B run in it")
    found = records_from_ledgers([folder], warn=warn) if ledgers else []
    return [*found, *(_offline_runs(folder, request, warn) if offline else [])]


def _offline_runs(path: Path, request: Request, warn: Warn) -> list[RunRecord]:
    found: list[RunRecord] = ask_tracker(SOURCES, "wandb", str(path), request, warn=warn)
    return found


def _receipt_record(path: Path, receipt: ComputeReceipt) -> RunRecord:
    """Make a run of a receipt, which has totals of all segments and none of each."""
    hours = receipt.device_hours
    totals = {
        "steps": receipt.steps,
        "model_flops": receipt.model_flops,
        "gpu_time_flops": receipt.gpu_time_flops,
        "device_seconds": None if hours is None else SECONDS_PER_HOUR * hours,
        "run_flops": receipt.run_flops,
        "lineage_flops": receipt.lineage_flops,
        "assumed_utilization": receipt.assumed_utilization,
    }
    run = SegmentedRun(
        run_id=receipt.run,
        source=str(path),
        url=None,
        name=receipt.name,
        user=None,
        project=receipt.project,
        team=receipt.team,
        started=None,
        ended=receipt.created,
        status=receipt.status,
        device_name=receipt.device_name,
        device_count=receipt.device_count,
        estimated=False,
        category=receipt.category,
        **add_up([SegmentRecord.from_totals(receipt.run, totals)]),
    )
    return replace(
        run,
        spent_flops=receipt.spent_flops,
        verdict=a_verdict(receipt.verdict),
        cause=a_cause(receipt.cause),
        segments=len(receipt.segments),
        # By their ids the run is known again in other sources; the totals of each are not here.
        parts=tuple(SegmentRecord(segment) for segment in receipt.segments),
    )
