"""What other tools say of the same trainings, what they cost, and what they need.

    python benchmarks/comparison.py            # all of it; the machine should be otherwise idle
    python benchmarks/comparison.py --quick    # does it work; prints, writes nothing
    python benchmarks/comparison.py --counts   # counts alone; prints, writes nothing

Small trainings on scikit-learn's digits, each done once for each tool and counted by hand, layer by
layer (`comparison_parts/runs.py`); each tool is used as its documentation says
(`comparison_parts/tools.py`). Writes benchmarks/results/comparison.{md,json} and the table in
docs/comparison.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

# As a script, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.comparison_parts import tools
from benchmarks.comparison_parts.page import as_markdown, put_table
from benchmarks.comparison_parts.results import Energy, Report, Timed
from benchmarks.comparison_parts.runs import GPT2_RUN, RUNS
from benchmarks.comparison_parts.timing import in_turns, tracker_start, whole_fits
from benchmarks.measuring.report import RESULTS, Facts
from benchmarks.overhead_parts.results import environment

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"


def compare(rounds: int, turns: float, *, timed: bool = True) -> Report:
    """Count and time everything.

    Args:
        rounds: of all that is timed.
        turns: factor on the length of a round.
        timed: whether to time anything.
    """
    with _apart():
        counted = []
        for run in RUNS:
            print(run.name, file=sys.stderr, flush=True)
            counted.append(tools.count(run))
        energy = _energy()
        timings = _timings(rounds, turns) if timed else ()
    elsewhere = tools.lines_added(tools.computemeter_elsewhere, tools.plain_elsewhere)
    return Report(_environment(rounds), tuple(counted), timings, energy, tools.lines(), elsewhere)


def _energy() -> Energy:
    start = tracker_start()  # of the first one, before any other
    kilowatt_hours, cpu, ram = tools.codecarbon(tools.Job.of(GPT2_RUN))
    return Energy(GPT2_RUN.name, 1000 * kilowatt_hours, cpu, ram, start)


def _timings(rounds: int, turns: float) -> tuple[Timed, ...]:
    return *in_turns(rounds, turns), whole_fits(rounds, round(3000 * turns))


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Work in a folder that goes, and let no tool talk."""
    warnings.simplefilter("ignore")
    logging.disable()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield


def _environment(rounds: int) -> Facts:
    names = ("computemeter", "codecarbon", "transformers")
    return {**environment(rounds), **{name: version(name) for name in names}}


def main() -> None:
    """Compare; write or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--rounds", type=int, default=8, help="of what is timed (default: 8)")
    parser.add_argument("--quick", action="store_true", help="two short rounds; write nothing")
    parser.add_argument("--counts", action="store_true", help="time nothing; write nothing")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be above 0")
    torch.set_num_threads(1)
    rounds, turns = (2, 0.25) if given.quick else (given.rounds, 1.0)
    report = compare(rounds, turns, timed=not given.counts)
    markdown = as_markdown(report)
    print(markdown)
    if not (given.quick or given.counts):
        (RESULTS / "comparison.md").write_text(markdown, encoding="utf-8")
        (RESULTS / "comparison.json").write_text(report.to_json(), encoding="utf-8")
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(put_table(page, report), encoding="utf-8")


_Raw = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
