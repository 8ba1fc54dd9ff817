"""Published models to draw a team's runs against, from a CSV file that the user downloaded.

The form is that of Epoch AI's "Data on AI Models"; computemeter ships none of it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ATTRIBUTION = 'Epoch AI, "Data on AI Models", CC-BY 4.0, https://epoch.ai/data/ai-models'

_DATE, _COMPUTE = "Publication date", "Training compute (FLOP)"
_NAMES = ("Model", "System")
EARLIEST = datetime(2010, 1, 1, tzinfo=UTC).timestamp()
"""Older models are left out: a team's runs would be a spot at the end of seventy years."""

_LARGEST_CELL = 1 << 24
# Where a date is less exact than a day, its middle.
_FORMS = (("%Y-%m-%d", 0), ("%Y-%m", 14), ("%Y", 182))


class ReferenceFileError(ValueError):
    """A file that is no such table; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class ReferencePoint:
    """One published model.

    Attributes:
        name: as the file has it (untrusted text).
        when: seconds since the epoch.
        flops: training compute.
        organization: who trained it (untrusted text).
        confidence: how sure the file's makers are of the compute (untrusted text).
    """

    name: str
    when: float
    flops: float
    organization: str = ""
    confidence: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """The models of one file.

    Attributes:
        points: those since 2010 with a compute above 0.
        left_out: how many are older, or lack a date or compute.
        file: its name, without folders.
        attribution: to be shown beside the points.
    """

    points: tuple[ReferencePoint, ...]
    left_out: int
    file: str
    attribution: str = ATTRIBUTION


def read_reference(path: str | Path) -> Reference:
    """Read the models of a CSV file with columns such as "Model" and "Training compute (FLOP)".

    Raises:
        ReferenceFileError: there is no such table in it, or it cannot be read.
    """
    path = Path(path).expanduser()
    try:
        csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))  # abstracts are long
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            _check(path, table.fieldnames or ())
            points = [_point(row) for row in table]
    except OSError as error:
        raise ReferenceFileError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ReferenceFileError(f"{path}: not a CSV file in UTF-8: {error}") from None
    known = tuple(point for point in points if point is not None)
    return Reference(known, len(points) - len(known), path.name)


def _check(path: Path, columns: Iterable[str]) -> None:
    there = set(columns)
    lacking = [name for name in (_DATE, _COMPUTE) if name not in there]
    if not there.intersection(_NAMES):
        lacking.insert(0, _NAMES[0])
    if lacking:
        raise ReferenceFileError(
            f"{path}: no column {', '.join(map(repr, lacking))}; expected is a CSV file in the "
            "form of Epoch AI's"
        )


def _point(row: Mapping[str, str | None]) -> ReferencePoint | None:
    when, flops = _date(row.get(_DATE) or ""), _flops(row.get(_COMPUTE) or "")
    if when is None or when < EARLIEST or flops is None:
        return None
    return ReferencePoint(
        name=next((row[name] for name in _NAMES if row.get(name)), None) or "",
        when=when,
        flops=flops,
        organization=row.get("Organization") or "",
        confidence=row.get("Confidence") or "",
    )


def _date(text: str) -> float | None:
    for form, days in _FORMS:
        try:
            start = datetime.strptime(text.strip(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return start.timestamp() + 86_400 * days
    return None


def _flops(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
