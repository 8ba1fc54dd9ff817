"""A disclosure as plain values, fit for `json.dumps`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from computemeter.disclosure.budget import MARGIN, budget
from computemeter.disclosure.digits import day
from computemeter.disclosure.entries import Entry
from computemeter.disclosure.text import DRAFT, GUIDELINES
from computemeter.disclosure.totals import THRESHOLDS, Amount, Disclosure, Modification
from computemeter.units import pfs_days


def to_dict(disclosure: Disclosure) -> dict[str, Any]:
    """Return all that the document says, with exact figures; None is what is not known."""
    d = disclosure
    projected = d.projected
    return {
        "kind": "computemeter disclosure",
        "note": DRAFT,
        "guidelines": GUIDELINES,
        "version": d.version,
        "created": d.created,
        "name": d.name,
        "filer": d.filer or None,
        "scope": d.scope,
        "training": _amount(d.training),
        "synthetic_data": _amount(d.synthetic_data),
        "base_models": _amount(d.base),
        "total": _amount(d.total),
        "thrown_away": _amount(d.thrown_away),
        "recomputed": _amount(d.recomputed),
        "projected": None if projected is None else _amount(projected),
        "entries": [_entry(entry) for entry in d.entries],
        "bases": [_base(test) for test in d.modifications],
        "margin": MARGIN,
        "errors": asdict(budget(d)),
        "thresholds": [_threshold(d, limit, name) for limit, name in THRESHOLDS],
        "notes": list(d.notes),
    }


def _amount(amount: Amount) -> dict[str, Any]:
    flops = amount.flops
    return {
        "flops": flops,
        "pfs_days": None if flops is None else pfs_days(flops),
        "complete": amount.complete,
        "missing": list(amount.missing),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        **asdict(entry),
        "first_day": day(entry.started),
        "last_day": day(entry.ended),
        "flops": entry.flops,
        "by_gpu_time": entry.by_gpu_time,
        "thrown_away": entry.thrown_away,
        "ratio": entry.ratio,
        "mfu": entry.implied_utilization,
        "hfu": entry.hardware_utilization,
    }


def _base(test: Modification) -> dict[str, Any]:
    return {
        **asdict(test.base),
        "share": test.share,
        "one_third": [third.flops for third in test.thirds],
        "above_one_third": [third.above for third in test.thirds],
        "above_as_planned": [third.above_as_planned for third in test.thirds],
    }


def _threshold(disclosure: Disclosure, limit: int, name: str) -> dict[str, Any]:
    reached = disclosure.towards(limit)[0].flops
    return {
        "flops": limit,
        "name": name,
        "left": None if reached is None else limit - reached,
    }
