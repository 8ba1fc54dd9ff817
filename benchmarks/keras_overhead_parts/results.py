"""What follows from the fits, and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.keras_overhead_parts.fits import (
    AGAIN,
    LOG_EVERY,
    METERS,
    NOTHING,
    WORKLOADS,
    Fit,
    Measured,
    Workload,
)
from benchmarks.measuring.estimates import Estimate, Target
from benchmarks.measuring.report import Facts, table, targets_table, written_by


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm over all turns, each against "nothing" in the same turn.

    Attributes:
        step_us: a step.
        ratio: of a step to one of "nothing".
        added_us: their difference.
        epoch_end_added_us: the difference at the end of an epoch, in all and not by step.
        first_added_ms: the difference of the first epoch.
    """

    step_us: float
    ratio: Estimate
    added_us: Estimate
    epoch_end_added_us: Estimate
    first_added_ms: Estimate

    @classmethod
    def of(cls, fits: Sequence[Fit], nothing: Sequence[Fit]) -> ArmResult:
        """Compare turn by turn."""
        pairs = list(zip(fits, nothing, strict=True))
        return cls(
            step_us=median(fit.step_us for fit in fits),
            ratio=Estimate.of(mine.step_us / plain.step_us for mine, plain in pairs),
            added_us=Estimate.of(mine.step_us - plain.step_us for mine, plain in pairs),
            epoch_end_added_us=Estimate.of(
                mine.epoch_end_us - plain.epoch_end_us for mine, plain in pairs
            ),
            first_added_ms=Estimate.of(mine.first_ms - plain.first_ms for mine, plain in pairs),
        )


def targets_of(backend: str, workload: Workload, results: Mapping[str, ArmResult]) -> list[Target]:
    """Hold both ways to log against the target."""
    spread = results[AGAIN].added_us.farthest
    return [
        Target(
            f"{backend}, {workload.title}, {arm}: µs added",
            workload.target_us,
            results[arm].added_us,
            spread,
        )
        for arm in METERS
    ]


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured; results by backend, workload and arm."""

    environment: Facts
    targets: list[Target]
    results: dict[str, dict[str, dict[str, ArmResult]]]
    measured: dict[str, Measured]


_READING = f"""\
All arms fit in turn, and each is compared with the "nothing" of that turn. Medians over the turns;
in brackets the bootstrap 95 % interval. A fit's first epoch is apart: there the meter starts, and
counts. With log_freq={LOG_EVERY} the logging is in the steps, else at the epoch's end.
"""


def as_markdown(report: Report) -> str:
    """Write the report."""
    parts = [
        "# What the meter costs under Keras\n",
        written_by("keras_overhead", report.environment),
        _READING,
        "## Targets\n",
        targets_table(report.targets),
    ]
    for backend, by_workload in report.results.items():
        for title, results in by_workload.items():
            parts += [f"## {backend}, {title}\n", _arms_table(results)]
        in_flight = report.measured[backend].in_flight
        if in_flight:
            counts = ", ".join(f"{arm} {count:g}" for arm, count in in_flight.items())
            title = WORKLOADS[-1].title
            parts.append(f"Steps in flight when one is dispatched, {title}, median: {counts}.\n")
    return "\n".join(parts)


def _arms_table(results: Mapping[str, ArmResult]) -> str:
    rows = [
        (
            arm,
            f"{result.step_us:.0f}",
            result.ratio.show(3),
            result.added_us.show(1, "+"),
            result.epoch_end_added_us.show(0, "+"),
            result.first_added_ms.show(0, "+"),
        )
        for arm, result in results.items()
        if arm != NOTHING
    ]
    nothing = (NOTHING, f"{results[NOTHING].step_us:.0f}", "1", "", "", "")
    header = (
        "",
        "µs a step",
        "ratio",
        "µs added",
        "µs added to an epoch's end",
        "ms added to the first epoch",
    )
    return table(header, [nothing, *rows])
