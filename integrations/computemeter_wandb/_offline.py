"""Read the file in which W&B keeps a run on this machine, `wandb/*run-*/run-*.wandb`.

W&B no longer ships a reader. The file is a header of 7 bytes and a LevelDB log: blocks of 32 KiB
with fragments of protobuf records, each under a checksum. A file may be read while it is written.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from computemeter.sources import SourceError

_MAGIC = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK = 32 * 1024
_FRAGMENT = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4

# A value's names from the outside in, and its newest JSON; None for one that was removed. W&B
# writes the summary again with every row: only what is left in the end is parsed.
_Changes: TypeAlias = dict[tuple[str, ...], str | None]


class OfflineError(SourceError):
    """A file that is no W&B run; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class OfflineRun:
    """One launch of a run as its file tells it.

    Attributes:
        path: of the file.
        run_id: W&B's id; a run that was launched again has a file for each launch.
        name: the run's name (untrusted text).
        entity: whose project it is; None where the launch did not say.
        project: None where the launch did not say.
        user: the W&B user, or the name in the e-mail address that W&B knew (untrusted text).
        started: seconds since the epoch.
        ended: the same, to the second; None where it was killed or still runs.
        exit_code: None where it was killed or still runs.
        history: the rows in their order, a nested value under its names joined by dots.
        summary: nested as W&B keeps it.
        config: the same.
        metrics: for each metric that was defined, or pattern of them, the one it is drawn against.
        alerts: title and text.
        device_name: of the machine's GPUs, as W&B was told.
        device_count: how many it has.
        damaged: parts of the file that could not be read, a torn end not counted.
    """

    path: Path
    run_id: str
    name: str
    entity: str | None
    project: str | None
    user: str | None
    started: float | None
    ended: float | None
    exit_code: int | None
    history: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: Mapping[str, str | None]
    alerts: tuple[tuple[str, str], ...]
    damaged: int
    device_name: str | None = None
    device_count: int | None = None


def read_offline_run(path: str | Path, *, history: bool = True) -> OfflineRun:
    """Read a run's file, finished, killed or still being written.

    Args:
        path: of the file.
        history: read the rows, too; without, the history is empty.

    Raises:
        OfflineError: for a file that is no W&B run, or from which the run itself cannot be read.
        OSError: for a file that cannot be opened.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto.wandb_internal_pb2 import Record

    path = Path(path)
    data = path.read_bytes()
    if data[: len(_MAGIC)] != _MAGIC:
        raise OfflineError(f"{path}: not a W&B run, it does not begin as one")
    builder = _Builder(history=history)
    for raw in _records(data):
        try:
            builder.add(None if raw is None else Record.FromString(raw))
        except (DecodeError, ValueError):  # ValueError: a value that is no JSON
            builder.damaged += 1
    if builder.run is None:
        raise OfflineError(f"{path}: a W&B run cut short or damaged before it says which")
    return builder.build(path)


class _Builder:
    """Takes records in their order and holds what they add up to."""

    def __init__(self, *, history: bool) -> None:
        self.run: Any = None
        self.damaged = 0
        self._keeps_history = history
        self._user: str | None = None
        self._device: tuple[str | None, int | None] = None, None
        self._exit: Any = None
        self._history: list[Mapping[str, Any]] = []
        self._summary: _Changes = {}
        self._config: _Changes = {}
        self._metrics: dict[str, str | None] = {}
        self._alerts: list[tuple[str, str]] = []

    def add(self, record: Any) -> None:
        match record and record.WhichOneof("record_type"):
            case None:
                self.damaged += record is None
            case "run":
                self.run = record.run
                _note(self._config, record.run.config)
                _note(self._summary, record.run.summary)
            case "environment":
                self._look_at(record.environment)
            case "history" if self._keeps_history:
                row = record.history.item
                self._history.append(
                    {".".join(_names(item)): json.loads(item.value_json) for item in row}
                )
            case "summary":
                _note(self._summary, record.summary)
            case "config":
                _note(self._config, record.config)
            case "metric":
                metric = record.metric
                self._metrics[metric.name or metric.glob_name] = metric.step_metric or None
            case "alert":
                self._alerts.append((record.alert.title, record.alert.text))
            case "exit":
                self._exit = record.exit

    def _look_at(self, host: Any) -> None:
        """Take what one part of the description of the machine has."""
        self._user = host.username or host.email.partition("@")[0] or self._user
        if host.gpu_type:
            self._device = host.gpu_type, host.gpu_count or None

    def build(self, path: Path) -> OfflineRun:
        run, start = self.run, self.run.start_time
        started = start.seconds + start.nanos / 1e9 if start.seconds else None
        known = started is not None and self._exit is not None
        return OfflineRun(
            path=path,
            run_id=run.run_id,
            name=run.display_name,
            entity=run.entity or None,
            project=run.project or None,
            user=self._user,
            started=started,
            ended=started + self._exit.runtime if known else None,
            exit_code=self._exit.exit_code if self._exit is not None else None,
            history=tuple(self._history),
            summary=_made(self._summary),
            config=_made(self._config),
            metrics=self._metrics,
            alerts=tuple(self._alerts),
            damaged=self.damaged,
            device_name=self._device[0],
            device_count=self._device[1],
        )


def _note(changes: _Changes, record: Any) -> None:
    """Take what a summary or config record changes, after all that was changed before."""
    for item in record.update:
        path = _names(item)
        changes.pop(path, None)
        changes[path] = item.value_json
    for item in record.remove:
        path = _names(item)
        changes.pop(path, None)
        changes[path] = None


def _made(changes: _Changes) -> dict[str, Any]:
    """Make the changes in their order."""
    values: dict[str, Any] = {}
    for (*parents, last), text in changes.items():
        place = values
        for name in parents:
            if not isinstance(place.get(name), dict):
                place[name] = {}
            place = place[name]
        if text is None:
            place.pop(last, None)
        else:
            with suppress(ValueError):  # no JSON
                place[last] = json.loads(text)
    return values


def _names(item: Any) -> tuple[str, ...]:
    return tuple(item.nested_key) or (item.key,)


def _records(data: bytes) -> Iterator[bytes | None]:
    """Yield whole records, None in place of damage; what is torn off at the end is left out.

    Damage ends a block, as its lengths can no longer be trusted. A record goes on in the next block
    only from where it was whole.
    """
    parts: list[bytes] | None = None
    for kind, part in _fragments(data):
        if kind in {_FULL, _FIRST}:
            parts = []
        if kind is None or parts is None:
            # Of a damaged record the first part is told of, not the ones that follow it.
            if kind is None:
                yield None
            parts = None
            continue
        parts.append(part)
        if kind in {_FULL, _LAST}:
            yield b"".join(parts)
            parts = None


def _fragments(data: bytes) -> Iterator[tuple[int | None, bytes]]:
    """Yield each fragment's kind and content; kind None for the rest of a damaged block."""
    position = len(_MAGIC)
    while position < len(data):
        block_end = position - position % _BLOCK + _BLOCK
        start = position + _FRAGMENT.size
        if start > block_end:  # too little for a header: the rest of a block is filled up
            position = block_end
            continue
        if start > len(data):
            return
        checksum, length, kind = _FRAGMENT.unpack_from(data, position)
        end = start + length
        if end <= block_end and end > len(data):
            return  # torn
        # Over the kind and the content.
        if end > block_end or checksum != zlib.crc32(data[start - 1 : end]):
            yield None, b""
            position = block_end
            continue
        yield kind, data[start:end]
        position = end
