"""The options of a meter, checked the moment they are given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, TypedDict

from computemeter.base_model import BaseModel
from computemeter.peak_files import PeakFile, reason
from computemeter.receipt import FILE_NAME
from computemeter.records import CATEGORIES
from computemeter.sinks import redact, validate_trackers

Ledger = str | Path | None


class OptionValues(TypedDict, total=False):
    """The options as keyword arguments, for type checkers; `Options` documents them."""

    peak_flops: float | str | Path | None
    assumed_utilization: float | None
    warn_at: float
    alarm_at: float
    settle_steps: int
    settle_seconds: float
    base_flops: float | None
    base_model: str | Path | None
    project: str | None
    team: str | None
    category: str
    ledger: Ledger
    trackers: Any
    alert: bool
    verbose: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may set on any meter.

    Attributes:
        peak_flops: dense peak of one device in FLOP/s, for a device the table does not know; or a
            TOML file in the form of `computemeter/data/peaks.toml`, whose rows win over the
            table's. It is read now, and kept as a `PeakFile`. Also `COMPUTEMETER_PEAKS`, and
            `peaks.toml` in the user's config folder, for files.
        assumed_utilization: share of peak that method 2 assumes; by default 0.33 for a GPU or TPU
            and 0.17 for a CPU.
        warn_at: divergence from which the verdict is "warn".
        alarm_at: divergence from which the verdict is "alarm".
        settle_steps: the verdict is "unknown" before this many steps...
        settle_seconds: ...and before this many seconds of training.
        base_flops: FLOP that made the weights this run starts from.
        base_model: what these weights are: a name; or a compute receipt, a checkpoint or a folder
            with one, from which `base_flops` is taken. It is read now, and kept as a `BaseModel`.
        project: groups runs; also `COMPUTEMETER_PROJECT`.
        team: also `COMPUTEMETER_TEAM`.
        category: what the compute is for: "training", or "synthetic_data" for a loop that only runs
            a model forward to make data; a compute disclosure lists them apart.
        ledger: "auto" (a folder `compute_ledger` beside the run), a folder, or None for no ledger;
            also `COMPUTEMETER_LEDGER`, where "off" is None.
        trackers: "auto" (the run's loggers, else the active MLflow and W&B runs), None for none,
            or a list of sinks and names of sinks, which are then the only ones.
        alert: raise one W&B alert, for a fault in the numbers or an alarm.
        verbose: 0 prints nothing but warnings; 1 a line at the start, one with the time left
            early on, and a table at the end; 2 also logs the time left to the trackers.

    Raises:
        ValueError: an option's value is not accepted; names option, value and what is accepted.
        TypeError: the type of `trackers` or `ledger` is not accepted.
    """

    peak_flops: float | str | Path | PeakFile | None = None
    assumed_utilization: float | None = None
    warn_at: float = 2.0
    alarm_at: float = 3.0
    settle_steps: int = 50
    settle_seconds: float = 30.0
    base_flops: float | None = None
    base_model: str | Path | BaseModel | None = None
    project: str | None = None
    team: str | None = None
    category: str = "training"
    ledger: Ledger = "auto"
    trackers: Any = "auto"
    alert: bool = False
    verbose: int = 1

    def __post_init__(self) -> None:
        # Read now: a wrong file is an error at once, and a run outlives changes to the file.
        object.__setattr__(self, "peak_flops", _checked_peak(self.peak_flops))
        _check_number(
            "assumed_utilization", self.assumed_utilization, "a share in (0, 1]", above=0, most=1
        )
        _check_number("warn_at", self.warn_at, "a factor above 1", above=1, optional=False)
        _check_number("alarm_at", self.alarm_at, "a factor above 1", above=1, optional=False)
        check_count("settle_steps", self.settle_steps, least=0)
        _check_number("settle_seconds", self.settle_seconds, "0 or more", least=0, optional=False)
        _check_number("base_flops", self.base_flops, "FLOP, 0 or more", least=0)
        object.__setattr__(self, "base_model", _checked_base(self.base_model, self.base_flops))
        if self.alarm_at < self.warn_at:
            raise ValueError(
                f"alarm_at={self.alarm_at!r} is below warn_at={self.warn_at!r}: "
                "accepted is a factor of at least warn_at"
            )
        if self.alert not in (True, False):
            raise ValueError(f"alert={self.alert!r}: accepted are True and False")
        if self.verbose not in (0, 1, 2):
            raise ValueError(f"verbose={self.verbose!r}: accepted are 0, 1 and 2")
        # Kept as a tuple: an iterator given here could be read only once.
        object.__setattr__(self, "trackers", validate_trackers(self.trackers))
        _check_ledger(self.ledger)
        _check_text("project", self.project)
        _check_text("team", self.team)
        if self.category not in CATEGORIES:
            raise ValueError(f"category={self.category!r}: accepted are {' and '.join(CATEGORIES)}")

    @classmethod
    def from_user(cls, given: Mapping[str, Any], also: tuple[str, ...] = ()) -> Options:
        """Build from keyword arguments; the environment fills what is not given.

        Args:
            given: the user's keyword arguments.
            also: options that the caller handles itself, named in the error.

        Raises:
            TypeError: an option that does not exist.
        """
        names = [option.name for option in fields(cls)]
        for name in given:
            if name not in names:
                raise TypeError(_unknown_option(name, [*names, *also]))
        return cls(**{**_from_environment(), **given})

    def again(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return keyword arguments for further meters: what was read is not read again.

        Args:
            given: the user's, from which this was built.
        """
        read = ("base_model", "peak_flops", "trackers")
        return {**given, **{name: getattr(self, name) for name in read if name in given}}

    @property
    def base(self) -> BaseModel | None:
        """What is known of the model this run starts from; None where it starts from none."""
        known = self.base_model if isinstance(self.base_model, BaseModel) else None
        if self.base_flops is None:
            return known
        return (known or BaseModel("")).with_flops(int(self.base_flops))


def _from_environment() -> dict[str, str | None]:
    """Read `COMPUTEMETER_PROJECT`, `_TEAM` and `_LEDGER`; empty means not set."""
    found: dict[str, str | None] = {}
    for option in ("project", "team", "ledger"):
        if value := os.environ.get(f"COMPUTEMETER_{option.upper()}", ""):
            found[option] = value
    if found.get("ledger") == "off":
        found["ledger"] = None
    return found


def _unknown_option(name: str, accepted: list[str]) -> str:
    close = get_close_matches(name, accepted, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown option {name!r}{hint}; accepted are {', '.join(accepted)}"


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check a whole number, such as `log_every`.

    Raises:
        ValueError: it is none, or below `least`.
    """
    whole = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    if not whole or value < least or value != int(value):
        raise ValueError(f"{name}={value!r}: accepted is a whole number of at least {least}")


def _check_number(
    name: str,
    value: Any,
    accepted: str,
    *,
    above: float = -float("inf"),
    least: float = -float("inf"),
    most: float = float("inf"),
    optional: bool = True,
) -> None:
    if value is None and optional:
        return
    number = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    if not number or not (above < value and least <= value <= most):
        raise ValueError(f"{name}={value!r}: accepted is {accepted}")


def _checked_peak(value: Any) -> float | PeakFile | None:
    accepted = "FLOP/s of one device above 0, or a TOML file of peaks"
    if isinstance(value, PeakFile):
        return value
    if isinstance(value, str | Path):
        try:
            return PeakFile.read(value)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home for a "~"
            raise ValueError(
                f"peak_flops={value!r}: accepted is {accepted} (the form is that of "
                f"computemeter/data/peaks.toml); {reason(error)}"
            ) from error
    _check_number("peak_flops", value, accepted, above=0)
    return value  # type: ignore[no-any-return]


def _checked_base(value: Any, flops: float | None) -> BaseModel | None:
    accepted = f"a name, or the path of a {FILE_NAME} or of a checkpoint or folder with one"
    if value is None:
        return None
    given = redact(str(value)) if isinstance(value, str) else value
    if not isinstance(value, str | Path | BaseModel) or not value:
        raise ValueError(f"base_model={given!r}: accepted is {accepted}, or None")
    try:
        base = value if isinstance(value, BaseModel) else BaseModel.read(value)
    except ValueError as error:
        raise ValueError(f"base_model={given!r}: accepted is {accepted}; {error}") from error
    if flops is not None:
        base.with_flops(int(flops))
    return base


def _check_ledger(value: Any) -> None:
    if value is not None and not isinstance(value, str | Path):
        raise TypeError(f"ledger={value!r}: accepted are 'auto', a folder, or None")
    if isinstance(value, str) and not value:
        raise ValueError("ledger='': accepted are 'auto', a folder, or None")


def _check_text(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{name}={value!r}: accepted is a text, or None")
