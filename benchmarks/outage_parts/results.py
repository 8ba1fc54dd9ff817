"""What follows from the rounds, and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.measuring.estimates import Estimate, bootstrap
from benchmarks.measuring.report import Facts, table, written_by
from benchmarks.outage_parts.rounds import ARMS, BEFORE, NOTHING, PHASES, Plan, Round
from benchmarks.outage_parts.trainings import STEPS, Turn

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm in one phase, over all rounds.

    Attributes:
        median_us: of a step.
        p99_us: 99 % of the steps took less.
        ratio: of the medians of a turn, to those of "nothing" in the same turn.
        to_before: that ratio to the one before the outage; 1 is "unchanged".
    """

    median_us: float
    p99_us: float
    ratio: Estimate
    to_before: Estimate


def results_of(rounds: Sequence[Round]) -> dict[str, dict[str, ArmResult]]:
    """Compare each arm with "nothing" turn by turn; results by phase and arm."""
    turns = {phase: [turn for each in rounds for turn in each.turns[phase]] for phase in PHASES}
    return {
        phase: {arm: _arm_result(arm, turns[phase], turns[BEFORE]) for arm in ARMS}
        for phase in PHASES
    }


def _arm_result(arm: str, turns: Sequence[Turn], before: Sequence[Turn]) -> ArmResult:
    steps = [1e6 * seconds for turn in turns for seconds in turn[arm]]
    ratios, usual = _ratios(arm, turns), _ratios(arm, before)
    return ArmResult(
        median_us=median(steps),
        p99_us=quantiles(steps, n=100)[-1],
        ratio=bootstrap(median, ratios, resamples=RESAMPLES),
        to_before=bootstrap(
            lambda now, then: median(now) / median(then), ratios, usual, resamples=RESAMPLES
        ),
    )


def _ratios(arm: str, turns: Sequence[Turn]) -> list[float]:
    return [median(turn[arm]) / median(turn[NOTHING]) for turn in turns]


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured; results by phase and arm."""

    environment: Facts
    plan: Plan
    results: dict[str, dict[str, ArmResult]]
    rounds: list[Round]


_READING = """\
Three trainings took turns of {steps} steps, of which the metered one logs one to a real
`mlflow server`. After {plan.before:g} s the server was stopped for {plan.during:g} s and started
again; the training went on for {plan.after:g} s. Ratios are of the medians of a turn, to "nothing"
in the same turn; in brackets the bootstrap 95 % interval over turns. "To before" holds a phase's
ratio against the one before the outage: 1 is unchanged. The metered p99 holds a logging step's
cost, for one step in {steps} logs.
"""


def as_markdown(report: Report) -> str:
    """Write the report."""
    return "\n".join(
        [
            "# What an outage of the tracking server costs\n",
            written_by("outage", report.environment),
            _READING.format(plan=report.plan, steps=STEPS),
            _phases_table(report.results),
            "## What arrived\n",
            _arrivals_table(report.rounds),
        ]
    )


def _phases_table(results: Mapping[str, Mapping[str, ArmResult]]) -> str:
    rows = [
        (
            phase,
            arm,
            f"{found.median_us:.0f}",
            f"{found.p99_us:.0f}",
            "1" if arm == NOTHING else found.ratio.show(3),
            "" if arm == NOTHING or phase == BEFORE else found.to_before.show(3),
        )
        for phase, by_arm in results.items()
        for arm, found in by_arm.items()
    ]
    header = ("phase", "", "µs a step, median", "p99", "ratio", "to before")
    return table(header, rows, left=(0, 1))


def _arrivals_table(rounds: Sequence[Round]) -> str:
    rows = [
        (
            str(number),
            str(found.points),
            str(found.delivered),
            str(found.doubled),
            f"{found.closing_seconds:.1f}",
        )
        for number, found in enumerate(rounds, 1)
    ]
    header = ("round", "values in the ledger", "in MLflow", "besides", "s to close")
    return table(header, rows)


def without_steps(report: Report) -> dict[str, Any]:
    """Return the report with each turn's median and slowest step in place of all its steps."""
    plain = asdict(report)
    for found in plain["rounds"]:
        for phase, turns in found["turns"].items():
            found["turns"][phase] = [
                {
                    arm: {"median_us": 1e6 * median(steps), "slowest_us": 1e6 * max(steps)}
                    for arm, steps in turn.items()
                }
                for turn in turns
            ]
    return plain
