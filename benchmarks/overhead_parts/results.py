"""What follows from the rounds, and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.measuring.estimates import Estimate, Target
from benchmarks.measuring.machine import load, processor, software
from benchmarks.measuring.report import Facts, table, targets_table, written_by
from benchmarks.overhead_parts.arms import AGAIN, LOG_EVERY, NOTHING, Workload
from benchmarks.overhead_parts.once import Growth
from benchmarks.overhead_parts.turns import ArmRound


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm over all rounds; see `ArmRound`."""

    step_us: float
    ratio: Estimate
    added_us: Estimate
    added_in_all_us: Estimate
    logging_added_us: Estimate
    counted_ratio: Estimate | None

    @classmethod
    def of(cls, rounds: Sequence[ArmRound]) -> ArmResult:
        counted = [one.counted_ratio for one in rounds]
        return cls(
            step_us=median(one.step_us for one in rounds),
            ratio=Estimate.of([one.ratio for one in rounds]),
            added_us=Estimate.of([one.added_us for one in rounds]),
            added_in_all_us=Estimate.of([one.added_in_all_us for one in rounds]),
            logging_added_us=Estimate.of([one.logging_added_us for one in rounds]),
            counted_ratio=Estimate.of(counted) if any(counted) else None,
        )


def targets_of(workload: Workload, results: Mapping[str, ArmResult]) -> list[Target]:
    meter, again = results[workload.meter], results[AGAIN]
    most, title = workload.target_us, workload.title
    found = [
        Target(f"{title}: µs added", most, meter.added_us, again.added_us.farthest),
        Target(
            f"{title}: µs added, with the share of the logging",
            most,
            meter.added_in_all_us,
            again.added_in_all_us.farthest,
        ),
    ]
    if meter.counted_ratio:
        spread = again.added_us.farthest / results[NOTHING].step_us
        found.append(Target(f"{title}: counted step / plain", 4.0, meter.counted_ratio, spread))
    return found


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured."""

    environment: Facts
    workloads: dict[str, dict[str, ArmResult]]
    targets: list[Target]
    growth: Growth
    step_alone_us: dict[int, float]
    rounds: dict[str, dict[str, list[ArmRound]]]


def environment(rounds: int) -> Facts:
    """Describe the machine and the versions."""
    threads = {"threads": torch.get_num_threads(), **load(), "rounds": rounds}
    return {**software("torch", "lightning"), **processor(), **threads}


_READING = """\
All arms of a round take turns; each is compared with the "nothing" of the same turns. Medians over
the rounds; in brackets the bootstrap 95 % interval. Counted steps are apart, and so are the steps
that log, one in 50, unless it says otherwise.
"""


def as_markdown(report: Report) -> str:
    parts = [
        "# What the meter costs\n",
        written_by("overhead", report.environment),
        _READING,
        "## Targets\n",
        targets_table(report.targets),
        _growth_line(report.growth),
    ]
    for title, results in report.workloads.items():
        parts += [f"## {title}\n", _arms_table(results)]
    parts += ["## `Meter.step` around nothing, caches warm\n", _alone_table(report)]
    return "\n".join(parts)


def _growth_line(growth: Growth) -> str:
    return (
        f"Memory over {growth.steps:,} metered steps, from a tenth of them to the end: "
        f"{growth.rss_mib:+.2f} MiB resident, {growth.blocks:+,} Python blocks "
        f"({growth.us_per_step:.1f} µs a step, logging included; {growth.ledger_mib:.1f} MiB of "
        f"ledger, a record for every {LOG_EVERY} steps).\n"
    )


def _arms_table(results: Mapping[str, ArmResult]) -> str:
    rows = [
        (
            arm,
            f"{result.step_us:.0f}",
            result.ratio.show(3),
            result.added_us.show(1, "+"),
            result.added_in_all_us.show(1, "+"),
            f"{result.logging_added_us.value:+.0f}",
            result.counted_ratio.show(2) if result.counted_ratio else "",
        )
        for arm, result in results.items()
        if arm != NOTHING
    ]
    nothing = (NOTHING, f"{results[NOTHING].step_us:.0f}", "1", "", "", "", "")
    header = (
        "",
        "µs a step",
        "ratio",
        "µs added",
        "with the share of the logging",
        "to a logging step",
        "counted step, ratio",
    )
    return table(header, [nothing, *rows])


def _alone_table(report: Report) -> str:
    rows = [(str(count), f"{us:.1f}") for count, us in report.step_alone_us.items()]
    return table(("parameters", "µs"), rows)
