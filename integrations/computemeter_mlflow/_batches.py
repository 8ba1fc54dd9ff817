"""What goes into one `log-batch` call to MLflow: how it looks and how large it may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from computemeter.sinks import redact

# MLflow's own limits. Tags go apart from values: together they may be 1000 and 1 MB.
_VALUES_IN_A_CALL = 1000
_TAGS_IN_A_CALL = 100
_LONGEST_TAG = 8000


class Value(NamedTuple):
    """A metric's value; `timestamp` in milliseconds since the epoch."""

    key: str
    value: float
    timestamp: int
    step: int


class Call(NamedTuple):
    """Values and tags for one call."""

    values: Sequence[Value]
    tags: Mapping[str, str]


def in_calls(values: Sequence[Value], tags: Mapping[str, str]) -> Iterator[Call]:
    """Cut values and tags into calls that MLflow accepts."""
    for start in range(0, len(values), _VALUES_IN_A_CALL):
        yield Call(values[start : start + _VALUES_IN_A_CALL], {})
    rest = iter(tags.items())
    while some := dict(islice(rest, _TAGS_IN_A_CALL)):
        yield Call((), some)


def as_tags(facts: Mapping[str, str]) -> dict[str, str]:
    """Write facts as tags that every store of MLflow holds, without credentials.

    PostgreSQL takes no NUL and no database a lone surrogate (a file name may bring one): the call
    would fail for ever, and whatever waits behind it.
    """
    return {f"computemeter.{key}": _storable(str(text)) for key, text in facts.items()}


def _storable(text: str) -> str:
    return redact(text.replace("\0", "").encode(errors="replace").decode())[:_LONGEST_TAG]
