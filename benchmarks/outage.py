"""What an outage of the tracking server costs the training that logs to it: it should be nothing.

    python benchmarks/outage.py            # all of it; the machine should be otherwise idle
    python benchmarks/outage.py --quick    # does it work; prints, writes nothing

A round starts a real `mlflow server` and three trainings with a Lightning Trainer, each in a
process of its own: one metered, which logs to that server, and two that are not. They take turns of
some steps in an order shuffled for each turn, so that whatever drifts on the machine meets all of
them alike, and what the meter's thread does meets the metered one alone. In the middle the server
is stopped, and started again. Starting it loads the machine for seconds: these turns are apart.
"Nothing" is there twice: how far it is from itself (A/A) is what this machine cannot tell apart.
At the end every point of the ledger is looked for in MLflow. One thread computes.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

# As a script, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import report as reports
from benchmarks.measuring.estimates import SEED
from benchmarks.measuring.machine import load, processor, software
from benchmarks.measuring.running import counted_off
from benchmarks.outage_parts.results import Report, as_markdown, results_of, without_steps
from benchmarks.outage_parts.rounds import FULL, QUICK, one_round


def environment(rounds: int) -> reports.Facts:
    """Describe the machine and the versions."""
    versions = software("computemeter", "lightning", "mlflow", "torch")
    return {**versions, **processor(), "computing threads": 1, **load(), "rounds": rounds}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3, help="outages (default: 3)")
    parser.add_argument("--quick", action="store_true", help="a short one; write nothing")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be above 0")
    plan, count = (QUICK, 1) if given.quick else (FULL, given.rounds)
    chance = random.Random(SEED)  # noqa: S311 - an order, not a secret
    rounds = [one_round(plan, chance) for _ in counted_off(count)]
    report = Report(environment(count), plan, results_of(rounds), rounds)
    markdown = as_markdown(report)
    print(markdown)
    if not given.quick:
        reports.write("outage", markdown, without_steps(report))


if __name__ == "__main__":
    main()
