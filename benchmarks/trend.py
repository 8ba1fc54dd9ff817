"""Seconds and memory from a tracker's runs to the page of a team's trend, and to open it.

    python benchmarks/trend.py            # all of it; the machine should be otherwise idle
    python benchmarks/trend.py --quick    # 1,000 runs: does it work; prints, writes nothing

The runs are made up and put into a real MLflow database, whose tables MLflow makes and whose rows
go in by SQL: 15 metrics, 15 parameters and 8 tags each, two segments every fifth time, and one in
ten without the meter. Every arm runs in a process of its own, which measures its peak of memory;
the time is that of the work, imports included. "Cold" has no cache, "warm" the one that a first
collection left; "incremental" is warm after some of the runs have changed. Arms take turns, so that
a slow minute of the machine is every arm's. A real `mlflow server` serves the same database.

The page is opened in a Chromium without a window or a graphics card: it draws WebGL by software.
Its runs have what makes a page long, of everything: names, addresses, users, flagged ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

# As a script, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import report as reports
from benchmarks.measuring.machine import load, processor, software
from benchmarks.trend_parts.arms import (
    ARMS,
    COLD,
    HTTP_COLD,
    HTTP_INCREMENTAL,
    MLFLOW,
    WARM,
    Measured,
    measure,
    measure_apart,
    served,
)
from benchmarks.trend_parts.browser import Opened, make_page, opened
from benchmarks.trend_parts.results import Row, as_markdown
from benchmarks.trend_parts.runs import change_some, make_database

SIZES = (10_000, 100_000)
LARGEST_FOR_MLFLOW = 10_000  # at 100,000 it would take minutes and ten times the memory
LARGEST_FOR_HTTP = 10_000
SLOW_ROUNDS = 2  # of arms that take minutes
SLOW = {MLFLOW, HTTP_COLD}


def rows_of(size: int, rounds: int) -> Iterator[Row]:
    """Make a database and have the arms take turns on it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        uri = make_database(folder / "mlflow.db", size)
        arms = [arm for arm in (MLFLOW, COLD, WARM) if arm != MLFLOW or size <= LARGEST_FOR_MLFLOW]
        yield from _in_turns(arms, uri, size, rounds, folder)
        if size <= LARGEST_FOR_HTTP:
            with served(uri, folder) as address:
                arms = [HTTP_COLD, HTTP_INCREMENTAL]
                yield from _in_turns(arms, address, size, rounds, folder)


def _in_turns(arms: Sequence[str], uri: str, size: int, rounds: int, folder: Path) -> Iterator[Row]:
    measure_apart(arms[-1], uri, folder)  # fills the cache, and the machine's of the file
    found: dict[str, list[Measured]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in arms:
            if arm in SLOW and number >= SLOW_ROUNDS:
                continue
            if arm == HTTP_INCREMENTAL:
                change_some(folder / "mlflow.db")
            found[arm].append(measure_apart(arm, uri, folder))
    yield from (Row.of(arm, size, each) for arm, each in found.items())


def opened_of(size: int, rounds: int) -> Opened | None:
    """Make a page and open it."""
    with TemporaryDirectory() as name:
        path = Path(name) / "trend.html"
        make_page(path, size)
        return opened(path, size, rounds)


def environment(rounds: int) -> reports.Facts:
    """Describe the machine and the versions."""
    versions = software("computemeter", "mlflow", "sqlalchemy", "plotly")
    return {**versions, **processor(), **load(), "rounds": rounds}


def main() -> None:
    """Measure and write the results, or be the process of an arm."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5, help="of all arms (default: 5)")
    parser.add_argument("--quick", action="store_true", help="1,000 runs, once; write nothing")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        print(json.dumps(asdict(measure(given.arm, given.uri))))
        return
    rounds = 1 if given.quick else given.rounds
    sizes = (1000,) if given.quick else SIZES
    rows = [row for size in sizes for row in rows_of(size, rounds)]
    pages = [page for size in sizes if (page := opened_of(size, rounds))]
    facts = environment(rounds)
    markdown = as_markdown(rows, pages, facts)
    print(markdown)
    if not given.quick:
        found = {"rows": [*map(asdict, rows)], "pages": [*map(asdict, pages)]}
        reports.write("trend", markdown, {"environment": facts, **found})


if __name__ == "__main__":
    main()
