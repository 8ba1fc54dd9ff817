"""The compute receipt: what a run's weights cost, in one small file that travels with them.

It is written at the end of a fit. A run that starts from these weights reads it through
`base_model=`, so its lineage is known without any tracker. docs/receipt.md describes every field.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from computemeter._version import __version__
from computemeter.peak_files import reason
from computemeter.sinks import redact
from computemeter.strict_json import plain
from computemeter.units import pfs_days

SCHEMA = 1
"""The schema this version writes, and the newest it reads."""

KIND = "computemeter receipt"
FILE_NAME = "compute_receipt.json"

# No receipt is longer; without a bound, a file of something else would be read to its end.
_LONGEST = 1 << 24


class ReceiptError(ValueError):
    """No receipt that this version can read or write; the message is one line for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeReceipt:
    """What a run computed, by both methods.

    Both methods are over the same segments: all that are named here. Credentials in texts are
    hidden, NaN and the infinities become None.

    Attributes:
        schema: of the file.
        kind: "computemeter receipt".
        run: the run's id.
        segments: ids of the segments (launches) that the totals cover.
        name: the run's name (untrusted text).
        status: "finished", "failed", "interrupted" or "unknown".
        steps: training steps of the whole run.
        run_flops: this run's work in the final weights.
        spent_flops: everything burned in this run's segments.
        lineage_flops: run plus the base it started from; None where the base is not known.
        model_flops: method 1 over the segments.
        gpu_time_flops: method 2 over the same segments.
        ratio: method 2 / method 1.
        verdict: "agree", "warn", "alarm" or "unknown".
        cause: one fixed word for why the methods differ.
        diagnosis: one sentence with the evidence.
        device_hours: training hours x devices.
        device_name: as the framework reports it.
        device_count: devices the run trained on.
        peak_flops: dense peak of one device in FLOP/s at the precision used.
        assumed_utilization: the share of peak that method 2 assumes.
        precision: precision of most of the FLOPs ("fp32").
        uncounted_ops: calls per operator that has no formula; None where it is not known.
        base_model: the name of the model this run started from (untrusted text).
        base_flops: compute of that model.
        parents: hashes of the receipts of the models this run started from.
        project: from `project=`.
        team: from `team=`.
        category: from `category=`; None in a receipt of before there were any.
        energy_joules: drawn by the GPUs, all segments; None where it was not measured in one.
        created: seconds since the epoch.
        version: of computemeter.
        extra: fields of the file that this version does not know.
        pfs_days: method 1 in petaflop/s-days.
        pfs_days_gpu_time: method 2 in petaflop/s-days.
        hash: "sha256:..." over all the rest, see `receipt_hash`.

    Raises:
        ReceiptError: a value has the wrong type.
    """

    schema: int = SCHEMA
    kind: str = KIND
    version: str = __version__
    created: float = field(default_factory=time.time)
    run: str
    segments: tuple[str, ...]
    name: str = ""
    status: str
    steps: int | None
    run_flops: int | None
    spent_flops: int | None
    lineage_flops: int | None
    model_flops: int | None
    pfs_days: float | None = field(init=False)
    gpu_time_flops: int | None
    pfs_days_gpu_time: float | None = field(init=False)
    ratio: float | None
    verdict: str
    cause: str
    diagnosis: str
    device_hours: float | None
    device_name: str | None
    device_count: int | None
    peak_flops: float | None
    assumed_utilization: float | None
    precision: str | None
    uncounted_ops: Mapping[str, int] | None = None
    base_model: str | None = None
    base_flops: int | None = None
    parents: tuple[str, ...] = ()
    project: str | None = None
    team: str | None = None
    category: str | None = None
    energy_joules: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.init:
                _set(self, each.name, _checked(each.name, str(each.type), getattr(self, each.name)))
        _set(self, "pfs_days", _to_days(self.model_flops))
        _set(self, "pfs_days_gpu_time", _to_days(self.gpu_time_flops))
        _set(self, "hash", receipt_hash(dict(self._entries())))

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds, fit for `json.dumps`."""
        return {**dict(self._entries()), "hash": self.hash}

    def _entries(self) -> Iterator[tuple[str, Any]]:
        for each in fields(self):
            if each.name not in {"extra", "hash"}:
                value = getattr(self, each.name)
                yield each.name, list(value) if isinstance(value, tuple) else value
        yield from self.extra.items()


_GIVEN = {each.name for each in fields(ComputeReceipt) if each.init} - {"extra"}
_LATER = {"category", "energy_joules"}  # what receipts of schema 1 did not have from the beginning
_NOT_GIVEN = {"pfs_days", "pfs_days_gpu_time"}  # they follow from what is given


def receipt_hash(content: Mapping[str, Any]) -> str:
    """Return the hash of a receipt's content, its own hash left out.

    It is SHA-256 over the canonical JSON: keys sorted, no spaces, ASCII. It is no signature: it
    shows that a file was changed, and lets a later run name this one exactly.

    Raises:
        ValueError: there is a NaN or an infinity.
    """
    rest = {name: value for name, value in content.items() if name != "hash"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def write_receipt(folder: str | Path, receipt: ComputeReceipt) -> Path:
    """Write `compute_receipt.json` into a folder, whole or not at all, and return its path.

    A receipt of the same run is replaced. One of another run, and a file that is none, is kept
    beside it as `compute_receipt-<first 12 digits of its hash>.json`.

    Raises:
        OSError: the folder or file cannot be written; what was there is as it was.
    """
    path = Path(folder) / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of our own: `tempfile` would make a file that only its owner may read.
    new = path.with_name(f".{FILE_NAME}.{secrets.token_hex(4)}.tmp")
    try:
        with new.open("xb") as file:
            file.write(json.dumps(receipt.to_dict(), indent=2, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _keep_other(path, receipt.run)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return path


def read_receipt(path: str | Path) -> ComputeReceipt:
    """Read a receipt, and check it against its hash.

    Raises:
        ReceiptError: it is missing, cut short, no receipt, changed, or of a newer schema.
    """
    try:
        content = _content(Path(path).expanduser())
        stated = content.pop("hash")
        unknown = content.keys() - _GIVEN - _NOT_GIVEN
        receipt = ComputeReceipt(
            **{name: content[name] for name in _GIVEN & content.keys()},
            extra={name: content[name] for name in sorted(unknown)},
        )
    except (ReceiptError, OSError, RuntimeError) as error:  # RuntimeError: no home for a "~"
        raise ReceiptError(redact(f"{path}: {reason(error)}")) from None
    # As in the file, also where this version would hide more of a text than the one that wrote it.
    _set(receipt, "hash", stated)
    return receipt


def _set(receipt: ComputeReceipt, name: str, value: object) -> None:
    object.__setattr__(receipt, name, value)


def _to_days(flops: int | None) -> float | None:
    return None if flops is None else pfs_days(flops)


def _keep_other(path: Path, run: str) -> None:
    """Give a file that is no earlier receipt of this run another name."""
    if not path.is_file():
        return
    try:
        there = read_receipt(path)
        digest = "" if there.run == run else there.hash.removeprefix("sha256:")
    except ReceiptError:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest:
        path.replace(path.with_name(f"compute_receipt-{digest[:12]}.json"))


def _content(path: Path) -> dict[str, Any]:
    """Read the JSON of a receipt of a schema that is known, its hash verified."""
    with path.open("rb") as file:
        data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise ReceiptError("too large for a compute receipt")
    try:
        content = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        begins = data.lstrip().startswith(b"{") and not data.rstrip().endswith(b"}")
        raise ReceiptError(
            "cut short, its JSON has no end" if begins else "corrupt, it is not JSON"
        ) from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ReceiptError("other JSON, not a compute receipt")
    schema = content.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise ReceiptError(
            f"written in schema {schema} by a newer computemeter, this version reads up to "
            f"{SCHEMA}: upgrade computemeter"
        )
    if not _hash_matches(content):
        raise ReceiptError("its hash does not match: it was changed after it was written")
    if missing := sorted(_GIVEN - _LATER - content.keys()):
        raise ReceiptError(f"it lacks {', '.join(missing)}")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _hash_matches(content: Mapping[str, Any]) -> bool:
    try:
        return receipt_hash(content) == content.get("hash")
    except (ValueError, RecursionError):  # 1e999 is read as an infinity
        return False


def _checked(name: str, kind: str, value: object) -> Any:
    """Return a field's value as it is stored; `kind` is its annotation."""
    stored = plain(value, redact)
    fits, accepted = _ACCEPTED[kind.removesuffix(" | None")]
    if not (stored is None and kind.endswith("| None")) and not fits(stored):
        shown = repr(stored)
        shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
        raise ReceiptError(f"{name} is {shown}, where {accepted} belongs")
    return stored


def _is_count(value: object) -> bool:
    # A float holds up to 1.8e308: past that there are no pfs-days, and no such run.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**300


def _is_number(value: object) -> bool:
    return _is_count(value) or (isinstance(value, float) and value >= 0)


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


def _are_calls(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


# By the annotation of the field, so that a field's type is written once.
_ACCEPTED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "a text"),
    "int": (_is_count, "a whole number, 0 or more,"),
    "float": (_is_number, "a number, 0 or more,"),
    "tuple[str, ...]": (_are_texts, "a list of texts"),
    "Mapping[str, int]": (_are_calls, "an object of whole numbers"),
    "Mapping[str, Any]": (lambda value: isinstance(value, dict), "an object"),
}
