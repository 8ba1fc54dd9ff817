"""A disclosure in Markdown.

Texts of users are untrusted: none becomes markup, a link or an order to the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from computemeter.disclosure.budget import MARGIN, Budget, Finding, budget
from computemeter.disclosure.card import escape
from computemeter.disclosure.digits import (
    UNKNOWN,
    both,
    cells,
    day,
    days,
    exact_seconds,
    ratio,
    share,
    table,
    two_digits,
    two_digits_of_time,
)
from computemeter.disclosure.energy import energy_text
from computemeter.disclosure.entries import Base, Entry, added
from computemeter.disclosure.inputs import gpu_time, operations
from computemeter.disclosure.totals import THRESHOLDS, Amount, Disclosure, Modification, Third
from computemeter.units import SECONDS_PER_HOUR
from computemeter.wording import percent

GUIDELINES = "C(2025) 5045 of 18 July 2025, adopted as C(2025) 7719 in November 2025"
DRAFT = "Draft, not legal advice."

_CATEGORY = {"training": "training", "synthetic_data": "synthetic data", "excluded": "left out"}
_WITHIN = {True: "yes", False: "no", None: "cannot be said"}
_LOW_SHARE = 0.05
_COUNTED = (
    "Counted: all updates of the model's parameters, forward passes that made training data which "
    "is not public, and what had made the weights it started from. Not counted: evaluation, "
    "recomputation, and whatever is no entry here."
)
_ONE_THIRD = (
    "guidelines, section 3.2: paragraphs 63 and 64 as numbered in C(2025) 5045, read there; 60 and "
    "61 in C(2025) 7719, which was not read"
)
_UPDATES_ALONE = (
    "Synthetic data counts for models with systemic risk alone: it is left out of what is compared "
    "with 1e23, with a third of that, and with a third of an original below 1e25 (annex A.1)."
)
_ASSUMPTIONS = """\
A FLOP is one add or one multiply, at any precision; a multiply-add is 2.
Method 1 counts the contractions (matrix products, convolutions, attention, recurrent and sparse \
forms) of the forward and backward passes that ran. Pointwise work is not counted, as in the \
literature.
Attention is counted dense, whatever the mask.
Recomputation (activation checkpointing, the recomputed product of fused attention) is left out \
of every total, as the guidelines say; HFU includes it.
Validation, test and prediction are no training and are in no total.
Training time is from the first training step to the last, stalls, logging and compilation within \
it included, validation and checkpoint writing taken out.
Peaks are dense, without sparsity, of one device, at the precision that was used.
U is a share of that peak. Method 2 assumes one; the one that method 1 implies is the MFU.
Synthetic data counts with all that was run for it, discarded samples included; what is publicly \
accessible need not be counted.
Base models are taken to have no compute in common.
"""


def markdown(disclosure: Disclosure) -> str:
    """Write a disclosure as a document of its own."""
    found = budget(disclosure)
    parts = [
        _head(disclosure),
        _section("Compute", _result(disclosure)),
        _section("Scope", _scope(disclosure)),
        _section("Both estimates", _estimates(disclosure)),
        _section("Inputs of method 1, operations", operations(disclosure)),
        _section("Inputs of method 2, GPU time", gpu_time(disclosure)),
        _section(f"Error budget, against {percent(MARGIN)}", _budget(disclosure, found)),
        _section("Base models and the one-third test", _bases(disclosure)),
        _section("Thresholds", _thresholds(disclosure)),
        _section("Left out", _left_out(disclosure)),
        _section("Assumptions", [f"- {text}" for text in _ASSUMPTIONS.splitlines()]),
    ]
    return "\n\n".join(part for part in parts if part)


def _head(disclosure: Disclosure) -> str:
    made, filer = day(disclosure.created), escape(disclosure.filer) or "not named"
    return (
        f"# Training compute of {escape(disclosure.name)}\n\n"
        f"**{DRAFT}** Made by computemeter {escape(disclosure.version)} on {made}, after the "
        f"European Commission's guidelines on general-purpose AI models, annex ({GUIDELINES}).\n\n"
        f"Filed by: {filer}"
    )


def _section(title: str, lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    return f"## {title}\n\n{text}" if text else ""


# What it comes to.


def _result(d: Disclosure) -> list[str]:
    trained = bool(d.of("training"))
    rows = [("Training, in the final weights", d.training)] if trained else []
    rows += [("Synthetic data", d.synthetic_data)] if d.of("synthetic_data") else []
    rows += [("Base models", d.base)] if d.bases else []
    rows += [("**Cumulative training compute**", d.total)]
    rows += [("The same when all planned steps have run", d.projected)] if d.projected else []
    lost = ("Thrown away by crashes and restarts, in no sum", d.thrown_away)
    rows += [lost] if trained else []
    rows += [("Recomputed (activation checkpointing), in no sum", d.recomputed)]
    head = ("", "FLOP, 2 significant figures", "exact", "pfs-days")
    lines = table(head, ((name, *cells(amount)) for name, amount in rows))
    lines += ["", *_time_and_energy(d)]
    return lines


def _time_and_energy(d: Disclosure) -> list[str]:
    training = d.of("training")
    return [
        f"- Training time: {_sum_of_time(entry.training_seconds for entry in training)}"
        + (", the runs one after the other" if len(training) > 1 else ""),
        f"- Device time: {_sum_of_time(entry.device_seconds for entry in d.counted)}",
        f"- Energy: {energy_text(d.counted)}",
    ]


def _sum_of_time(seconds: Iterable[float | None]) -> str:
    listed = list(seconds)
    known = [each for each in listed if each is not None]
    if not known:
        return UNKNOWN if listed else "none"
    least = "at least " if len(known) < len(listed) else ""
    return f"{least}{two_digits_of_time(sum(known))} (exact: {exact_seconds(sum(known))})"


# What is in it.


def _scope(d: Disclosure) -> list[str]:
    head = ("entry", "counts as", "from", "run", "launches", "days (UTC)", "status")
    rows: list[tuple[str, ...]] = [
        (
            escape(entry.name),
            _CATEGORY[entry.category],
            f"{entry.origin}: {escape(entry.source)}",
            escape(entry.run or "none"),
            str(len(entry.segments)) if entry.segments else _launches(entry),
            days(entry.started, entry.ended),
            escape(entry.status) or "given by hand",
        )
        for entry in d.entries
    ]
    words = [escape(d.scope), ""] if d.scope else []
    told = [_COUNTED, ""]
    notes = [
        f"- {escape(entry.name)}: {escape(text)}" for entry in d.entries for text in entry.notes
    ]
    notes += [f"- {escape(note)}" for note in d.notes]
    return [*words, *told, *table(head, rows), *(["", *notes] if notes else [])]


def _launches(entry: Entry) -> str:
    return str(sum(period.launches for period in entry.periods)) if entry.run else "none"


def _estimates(d: Disclosure) -> list[str]:
    head = ("entry", "method 1", "method 2", "ratio 2 / 1", "implied U (MFU)", "HFU")
    rows: list[tuple[str, ...]] = [
        (
            escape(entry.name),
            both(entry.operations),
            both(entry.gpu_time),
            UNKNOWN if entry.ratio is None else ratio(entry.ratio),
            _utilization(entry.implied_utilization),
            share(entry.hardware_utilization),
        )
        for entry in d.counted
    ]
    told = ["Both over all launches of an entry, also what a crash threw away.", ""]
    comparable = [entry for entry in d.counted if entry.ratio is not None]
    if len(comparable) > 1:
        rows.append(_together(comparable))
    notes = [line for entry in d.counted for line in _judged(entry)]
    return [*told, *table(head, rows), *(["", *notes] if notes else [])] if rows else []


def _together(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Add up the entries that have both figures."""
    one = sum(entry.operations or 0 for entry in entries)
    two = sum(entry.gpu_time or 0 for entry in entries)
    possible = added(*(entry.possible for entry in entries))
    implied = one / possible if possible else None
    return ("all that have both", both(one), both(two), ratio(two / one), share(implied), "")


def _judged(entry: Entry) -> list[str]:
    """Say what the meter made of it, and what it measured of the device."""
    instead = f"- {escape(entry.name)}: method 1 has no figure, method 2 stands for it in the sums"
    lines = [instead] if entry.by_gpu_time else []
    if entry.verdict:
        cause = f" ({escape(entry.cause)})" if entry.cause not in {"", "none"} else ""
        why = f": {escape(entry.diagnosis)}" if entry.diagnosis else ""
        lines.append(f"- {escape(entry.name)}, verdict {escape(entry.verdict)}{cause}{why}")
    measured = entry.counting.measured_utilization if entry.counting else None
    if measured is not None:
        lines.append(
            f"- {escape(entry.name)}: tensor pipes were active in {percent(measured)} of the "
            "training time (NVML), an upper bound of U"
        )
    return lines


def _utilization(part: float | None) -> str:
    low = part is not None and part < _LOW_SHARE
    return share(part) + (", below 5 %" if low else "")


# Errors.


def _budget(d: Disclosure, found: Budget) -> list[str]:
    own = "Training and synthetic data" if d.of("synthetic_data") else "Training"
    figures: list[tuple[str, Finding]] = [(own, found.own)]
    figures += [("Cumulative, with the base models", found.total)] if d.bases else []
    figures += [("Method 2 by itself", found.gpu_time)]
    verdicts = [
        f"- {name} within {percent(MARGIN)}: **{_WITHIN[finding.within]}**, {escape(finding.text)}."
        for name, finding in figures
    ]
    rows: list[tuple[str, ...]] = [
        (
            escape(line.entry),
            escape(line.cause),
            "not known" if line.share is None else _at_most(line.share),
            escape(line.text),
        )
        for line in found.lines
    ]
    told = (
        "Errors are added up as if all went the same way. What the counting leaves out by its "
        "definition (pointwise work, see the assumptions) is no error here."
    )
    return [*verdicts, "", told, "", *table(("entry", "cause", "at most", "what is known"), rows)]


def _at_most(share: float) -> str:
    return "0" if not share else "below 0.01 %" if share < 1e-4 else percent(share)


# Bases and thresholds.


def _bases(d: Disclosure) -> list[str]:
    if not d.bases:
        return ["No base model is known: the test does not apply."]
    told = (
        "Whoever modifies another's model with more than a third of the compute that made it is, "
        f"by an indicative criterion, the provider of the modified model ({_ONE_THIRD})."
    )
    if d.of("synthetic_data"):
        told += f" {_UPDATES_ALONE}"
    head = (
        *("base model", "its compute", "source", "done here / its compute"),
        *("above one third", "left", "as planned"),
    )
    return [told, "", *table(head, (_base_row(test) for test in d.modifications))]


def _base_row(test: Modification) -> tuple[str, ...]:
    base = test.base
    source = escape(base.source) or "none"
    left = " or ".join(_left(third.done, third.flops) for third in test.thirds)
    planned = " or ".join(dict.fromkeys(map(_planned, test.thirds)))
    return (
        *(_base_name(base), both(base.flops), source, share(test.share)),
        *(_answers(test), left, planned),
    )


def _planned(third: Third) -> str:
    return "no plan given" if third.planned is None else _WITHIN[third.above_as_planned]


def _base_name(base: Base) -> str:
    return escape(base.name or "not named") + (f", {escape(base.receipt)}" if base.receipt else "")


def _answers(test: Modification) -> str:
    told = [
        f"{_WITHIN[third.above]} (a third is {two_digits(third.flops)})" for third in test.thirds
    ]
    if test.base.flops is not None:
        return told[0]
    return (
        "of the general-purpose threshold, where the original's compute is unknown and cannot be "
        f"estimated: {told[0]}; of the systemic one, if the original has such risk: {told[1]}"
    )


def _thresholds(d: Disclosure) -> list[str]:
    head = ("threshold", "", "reached", "left", "device time left at this rate", "as planned")
    rows = [_threshold_row(d, limit, name) for limit, name in THRESHOLDS]
    told = [_UPDATES_ALONE, ""] if d.of("synthetic_data") else []
    return [*told, *table(head, rows)]


def _threshold_row(d: Disclosure, limit: int, name: str) -> tuple[str, ...]:
    amount, planned = d.towards(limit)
    return (
        f"{limit:.0e}".replace("e+", "e"),
        name,
        _reached(amount, limit),
        _left(amount, limit),
        _time_left(d, amount, limit),
        "no plan given" if planned is None else _reached(planned, limit),
    )


def _reached(amount: Amount, limit: int) -> str:
    if amount.flops is None:
        return UNKNOWN
    least = "" if amount.complete else "at least "
    part = amount.flops / limit
    return f"{least}{share(part) if part >= 1e-4 else f'{two_digits(part)} of it'}"


def _left(amount: Amount, limit: int) -> str:
    if amount.flops is None:
        return UNKNOWN
    left = limit - amount.flops
    most = "" if amount.complete else "at most "
    return f"{most}{two_digits(left)}" if left > 0 else "none: it is above"


def _time_left(d: Disclosure, amount: Amount, limit: int) -> str:
    rate = d.device_seconds_per_flop
    if rate is None or amount.flops is None:
        return UNKNOWN
    left = (limit - amount.flops) * rate
    return two_digits(left / SECONDS_PER_HOUR) + " device-hours" if left > 0 else "none"


def _left_out(d: Disclosure) -> list[str]:
    head = ("entry", "FLOP", "reason")
    rows: list[tuple[str, ...]] = [
        (escape(entry.name), both(entry.flops), escape(entry.reason)) for entry in d.of("excluded")
    ]
    return table(head, rows)
