"""What follows from the rounds, and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.measuring.report import Facts, table, written_by
from benchmarks.trend_parts.arms import COLD, MOST_PAGE_BYTES, STAGES, WARM, Measured
from benchmarks.trend_parts.browser import Opened
from benchmarks.trend_parts.runs import CHANGED

TARGETS = {
    (10_000, COLD): 3.0,
    (100_000, COLD): 20.0,
    (10_000, WARM): 2.0,
    (100_000, WARM): 2.0,
}
"""Seconds from the database to the page."""
MOST_MEGABYTES = 1024
MOST_TO_OPEN = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """An arm on a number of runs: medians over the rounds, and the slowest and the most."""

    arm: str
    runs: int
    rounds: int
    seconds: float
    slowest: float
    stages: Mapping[str, float]
    processor_seconds: float
    megabytes: float

    @classmethod
    def of(cls, arm: str, size: int, found: Sequence[Measured]) -> Row:
        """Sum up the rounds.

        Raises:
            RuntimeError: an arm lost runs, and what is not read costs nothing.
        """
        if any(each.runs != size for each in found):
            raise RuntimeError(f"{arm}: {[each.runs for each in found]} of {size} runs")
        return cls(
            arm,
            size,
            len(found),
            median(each.seconds for each in found),
            max(each.seconds for each in found),
            {name: median(each.stages[name] for each in found) for name in found[0].stages},
            median(each.processor_seconds for each in found),
            max(each.megabytes for each in found),
        )

    @property
    def verdict(self) -> str:
        """Say whether the target is met."""
        most = TARGETS.get((self.runs, self.arm))
        if most is None:
            return ""
        met = self.seconds <= most and self.megabytes <= MOST_MEGABYTES
        return f"{most:g} s: {'within' if met else 'missed'}"


def as_markdown(rows: Sequence[Row], pages: Sequence[Opened], facts: Facts) -> str:
    """Write the report."""
    return (
        "# From a database of runs to a trend\n\n"
        f"{written_by('trend', facts)}\n"
        "## To the page\n\n"
        "Every arm in a process of its own, imports included; medians over the rounds. Collect, "
        "fit and page are parts of the seconds; the rest is imports and placing. Where the "
        "processor seconds are far below the seconds, the machine was busy with other work, or a "
        f"server worked. Incremental: {CHANGED} runs ended since the last reading.\n\n"
        f"{_rows_table(rows)}\n"
        "## To open it\n\n"
        "In a Chromium without a window or a graphics card, WebGL by software: seconds from the "
        "navigation's start until everything is there, until it has been drawn, and from a press "
        "on linear or log until that has been; medians, and the slowest in brackets.\n\n"
        f"{_pages_table(pages) if pages else 'Not measured: no Chromium or no Playwright.'}\n"
    )


def _rows_table(rows: Sequence[Row]) -> str:
    numbers = ("seconds", "slowest", *STAGES, "processor seconds", "MB at most")
    header = ("", "runs", "rounds", *numbers, "target")
    return table(
        header,
        [
            (
                row.arm,
                f"{row.runs:,}",
                str(row.rounds),
                f"{row.seconds:.2f}",
                f"{row.slowest:.2f}",
                *(f"{row.stages[name]:.2f}" if name in row.stages else "" for name in STAGES),
                f"{row.processor_seconds:.2f}",
                f"{row.megabytes:,.0f}",
                row.verdict,
            )
            for row in rows
        ],
        left=(0, len(header) - 1),
    )


def _pages_table(pages: Sequence[Opened]) -> str:
    def written(times: Sequence[float]) -> str:
        return f"{median(times):.2f} ({max(times):.2f})"

    header = ("", "runs", "MB", "ready", "drawn", "toggled", "target")
    return table(
        header,
        [
            (
                "Chromium",
                f"{page.runs:,}",
                f"{page.megabytes:.1f}",
                *map(written, (page.opening, page.first_frame, page.toggling)),
                f"{MOST_TO_OPEN:g} s, 15 MB: "
                + (
                    "within"
                    if max(median(page.opening), median(page.toggling)) <= MOST_TO_OPEN
                    and 1e6 * page.megabytes <= MOST_PAGE_BYTES
                    else "missed"
                ),
            )
            for page in pages
        ],
        left=(0, len(header) - 1),
    )
