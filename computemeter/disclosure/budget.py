"""How far off a model's compute may be, line by line, against the 30 % that the guidelines allow.

Nothing is estimated here: what is not known stays open, and with an open line nobody can say that
the whole is within 30 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from computemeter.disclosure.entries import Base, Counting, Entry
from computemeter.disclosure.totals import Disclosure
from computemeter.wording import called, counted, name_ops, percent

MARGIN = 0.30
"""The overall error that the guidelines' annex allows around the estimate that is reported."""

_DEVIATIONS = 1.96
"""Standard errors on either side that hold 95 % of a normal distribution."""
_SECONDS_UNRECORDED = 10.0
"""Of training that a killed launch may have done after its last record, see docs/ledger.md."""
_NO_END = frozenset({"unknown", "running"})
"""How a run stands whose last launch was killed, or still runs."""
_PUBLIC_RUNS = "public tables put 0.33 within 1.3x for only 37-51 % of runs"


@dataclass(frozen=True, slots=True)
class Line:
    """One cause of error.

    Attributes:
        entry: whose (untrusted text).
        cause: a few words.
        text: what is known of it.
        share: at most so much of the entry's compute; 0 where there is none.
        open: its size is not known.
        lower_bound: what is not known can only be missing from the figure.
    """

    entry: str
    cause: str
    text: str
    share: float | None = None
    open: bool = False
    lower_bound: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a figure is within 30 %, with the reason.

    Attributes:
        within: None where it cannot be said.
        text: one sentence.
    """

    within: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Budget:
    """All lines and what they come to.

    Attributes:
        lines: of the entries that count, then of the bases.
        known: the sizes that are known, added up over all that counts, as a share of it; None
            where there is nothing to be a share of.
        own: for what was done here.
        total: for the same with the base models.
        gpu_time: for method 2.
    """

    lines: tuple[Line, ...]
    known: float | None
    own: Finding
    total: Finding
    gpu_time: Finding


def budget(disclosure: Disclosure) -> Budget:
    """Say how far off a model's compute may be."""
    lines = [(entry, line) for entry in disclosure.counted for line in _lines(entry)]
    own = [line for _, line in lines]
    of_bases = [_base_line(base) for base in disclosure.bases]
    known = _known(disclosure, lines)
    with_bases = _known(disclosure, lines, of_bases)
    return Budget(
        lines=(*own, *of_bases),
        known=known,
        own=_finding(own, known),
        total=_finding([*own, *of_bases], with_bases),
        gpu_time=_gpu_time_finding(disclosure),
    )


def _known(
    disclosure: Disclosure,
    lines: Sequence[tuple[Entry, Line]],
    of_bases: Sequence[Line] = (),
) -> float | None:
    # Added up as if all erred the same way: the widest it can be.
    parts = [((line.share or 0.0) * (entry.flops or 0)) for entry, line in lines]
    whole = disclosure.own.flops
    if of_bases:
        bases = zip(of_bases, disclosure.bases, strict=True)
        parts += [(line.share or 0.0) * (base.flops or 0) for line, base in bases]
        whole = disclosure.total.flops
    return sum(parts) / whole if whole else None


def _finding(lines: Sequence[Line], known: float | None) -> Finding:
    if known is None:
        return Finding(None, "there is no figure")
    if known > MARGIN:
        return Finding(False, f"the lines below add up to {percent(known)}")
    open_lines = [line for line in lines if line.open]
    if open_lines:
        bound = "the figure is a lower bound: " if any(x.lower_bound for x in open_lines) else ""
        causes = ", ".join(dict.fromkeys(line.cause for line in open_lines))
        return Finding(None, f"{bound}the size of these is not known: {causes}")
    return Finding(True, f"the lines below add up to {_size(known)}")


def _size(share: float) -> str:
    return percent(share) if share >= 1e-4 else "less than 0.01 %" if share else "0"


def _gpu_time_finding(disclosure: Disclosure) -> Finding:
    entries = [entry for entry in disclosure.counted if entry.gpu_time is not None]
    if not entries:
        return Finding(None, "there is no figure by GPU time")
    metered = [entry for entry in entries if entry.origin != "manual"]
    if not metered:
        return Finding(None, "it is as good as the utilisation given by hand")
    return Finding(False, f"its utilisation is assumed, not measured: {_PUBLIC_RUNS}")


def _lines(entry: Entry) -> list[Line]:
    if entry.origin == "manual":
        return [_stated(entry.name, entry.error, entry.source)]
    if entry.by_gpu_time:
        text = f"method 1 has no figure, so method 2 stands for it: {_PUBLIC_RUNS}"
        return [Line(entry.name, "assumed utilisation", text, open=True)]
    if entry.flops is None:
        text = "neither method has a figure: it is not in the sum"
        return [Line(entry.name, "no figure", text, open=True, lower_bound=True)]
    counting = entry.counting or Counting()
    made: list[Line | None] = [
        _operators(entry, counting),
        *(rule(entry, counting) for rule in _RULES),
    ]
    if counting.estimated_steps is None:
        text = _unsaid(entry, counting)
        made.append(Line(entry.name, "recount drift and estimated steps", text, open=True))
    return [line for line in made if line is not None]


def _unsaid(entry: Entry, counting: Counting) -> str:
    if counting.killed:
        return f"{_launches(counting.killed)} without an end did not say how steps were counted"
    if entry.origin == "ledger":
        return "the ledgers do not say how steps were counted"
    return f"its ledgers say how steps were counted, and none lie with the {entry.origin}"


def _operators(entry: Entry, counting: Counting) -> Line:
    ops, cause = counting.uncounted_ops, "operators without a formula"
    if ops is None:
        text = "not known: a launch was killed before it said, or the source does not say"
        return Line(entry.name, cause, text, open=True)
    if not called(ops):
        return Line(entry.name, cause, "none was called", share=0.0)
    text = f"{name_ops(ops)}: the figure is a lower bound"
    return Line(entry.name, cause, text, open=True, lower_bound=True)


def _drift(entry: Entry, counting: Counting) -> Line | None:
    error, flops = counting.standard_error, entry.operations
    if error is None or not flops:
        return None
    share = _DEVIATIONS * error / flops
    known = f"95 % interval of {error:.3g} FLOP standard error"
    what = known if error else _never_differed(counting.recounts)
    return Line(entry.name, "recount drift", what, share=share)


def _never_differed(recounts: int | None) -> str:
    if recounts is None:
        return "counts never differed"
    return (
        f"{counted(recounts, 'recount')}, none differed" if recounts else "none was counted twice"
    )


def _estimated(entry: Entry, counting: Counting) -> Line | None:
    estimated = counting.estimated_steps
    if estimated is None:
        return None
    cause, all_steps = "steps booked at a mean", _steps(counting)
    if not estimated:
        return Line(entry.name, cause, "none", share=0.0)
    told = f"{estimated:,} of {counted(all_steps, 'step')}"
    if counting.standard_error:
        return Line(entry.name, cause, f"{told}, their spread is in the recount drift", share=0.0)
    text = f"{told}: their share, as if the mean were wrong by all of it"
    return Line(entry.name, cause, text, share=estimated / all_steps)


def _steps(counting: Counting) -> int:
    c = counting
    return (c.counted_steps or 0) + (c.predicted_steps or 0) + (c.estimated_steps or 0)


def _killed(entry: Entry, counting: Counting) -> Line | None:
    if not counting.killed or not entry.training_seconds:
        return None
    text = (
        f"{_launches(counting.killed)} without an end: up to {_SECONDS_UNRECORDED:.0f} s of "
        "training each are in no record"
    )
    missing = counting.killed
    if entry.category == "training":
        # A launch goes on from a checkpoint, which carries the exact total.
        missing = int(entry.status in _NO_END)
        text += (
            ", and the last checkpoint may have less than the figure"
            if missing
            else ", and in no weights: the run went on from a checkpoint"
        )
    share = _SECONDS_UNRECORDED * missing / entry.training_seconds
    return Line(entry.name, "killed launches", text, share=min(1.0, share))


def _launches(number: int) -> str:
    return "1 launch" if number == 1 else f"{number:,} launches"


def _suspect(entry: Entry, _counting: Counting) -> Line | None:
    if entry.cause not in {"count_suspect", "peak_suspect"}:
        return None
    return Line(entry.name, entry.cause, entry.diagnosis or "the meter doubts its count", open=True)


def _lost_ledgers(entry: Entry, _counting: Counting) -> Line | None:
    spent, kept = entry.operations, entry.run_flops
    if entry.category != "training" or spent is None or kept is None or kept <= spent:
        return None
    text = "the run has more work in its weights than its ledgers here: earlier ones are elsewhere"
    return Line(entry.name, "missing ledgers", text, share=0.0)


_Rule = Callable[[Entry, Counting], Line | None]
_RULES: tuple[_Rule, ...] = (_drift, _estimated, _killed, _suspect, _lost_ledgers)


def _stated(name: str, error: float | None, source: str) -> Line:
    cause = "figure given by hand"
    if error is None:
        return Line(name, cause, f"no error is stated; source: {source}", open=True)
    return Line(name, cause, f"{percent(error)} is stated; source: {source}", share=error)


def _base_line(base: Base) -> Line:
    name, cause = base.name or "base without a name", "base model"
    if base.flops is None:
        text = "its compute is not known and not in the sum"
        return Line(name, cause, text, open=True, lower_bound=True)
    if base.error is None:
        return Line(name, cause, f"no error is stated; source: {base.source}", open=True)
    return Line(name, cause, f"{percent(base.error)} is stated", share=base.error)
