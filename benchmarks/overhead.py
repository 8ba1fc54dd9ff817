"""What the meter costs a training step, measured against doing nothing.

    python benchmarks/overhead.py            # all of it; the machine should be otherwise idle
    python benchmarks/overhead.py --quick    # does it work; prints, writes nothing

A round starts one training for each arm and lets them take turns of some steps, in an order
shuffled for each turn: whatever drifts on the machine meets every arm alike. Only the training
whose turn it is runs. Time is taken where a batch is fetched, by the same lines in every arm, and
compared within a turn. "Nothing" is there twice: how far it is from itself (A/A) is what this
machine cannot tell apart, and a target within that is "not resolved". One thread computes.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import torch

# As a script, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import report as reports
from benchmarks.measuring.estimates import Estimate, Target
from benchmarks.overhead_parts.arms import LOG_EVERY, WORKLOADS, Workload
from benchmarks.overhead_parts.once import import_seconds, memory_growth_apart, step_alone
from benchmarks.overhead_parts.results import (
    ArmResult,
    Report,
    as_markdown,
    environment,
    targets_of,
)
from benchmarks.overhead_parts.turns import counts_noted, run_rounds


def measure(rounds: int, turns: float, quick: bool) -> Report:
    """Measure everything.

    Args:
        rounds: of all workloads and arms.
        turns: factor on the turns of each round.
        quick: take few repeats of what is measured once.
    """
    workloads = [
        replace(w, turns=1 + max(_fewest_turns(w), round(turns * (w.turns - 1)))) for w in WORKLOADS
    ]
    with counts_noted():
        found = run_rounds(workloads, rounds)
    results = {
        title: {arm: ArmResult.of(mine) for arm, mine in arms.items()}
        for title, arms in found.items()
    }
    targets = [target for w in workloads for target in targets_of(w, results[w.title])]
    growth = memory_growth_apart(20_000 if quick else 1_000_000)
    targets += [
        Target("memory: MiB", 1.0, Estimate.of([growth.rss_mib]), 0.0),
        Target("`import computemeter`: s", 0.1, import_seconds(3 if quick else 25), 0.0),
    ]
    return Report(
        environment=environment(rounds),
        workloads=results,
        targets=targets,
        growth=growth,
        step_alone_us={count: step_alone(count) for count in (0, 10, 600)},
        rounds=found,
    )


def _fewest_turns(workload: Workload) -> int:
    """As many as a logging step takes to come round."""
    return max(1, LOG_EVERY // workload.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20, help="of all arms (default: 20)")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the steps (default: 1)")
    parser.add_argument("--quick", action="store_true", help="two short rounds; write nothing")
    given = parser.parse_args()
    if given.rounds < 1 or given.steps <= 0:
        parser.error("--rounds and --steps must be above 0")
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rounds, steps = (2, 0.25) if given.quick else (given.rounds, given.steps)
    report = measure(rounds, steps, given.quick)
    markdown = as_markdown(report)
    print(markdown)
    if not given.quick:
        reports.write("overhead", markdown, asdict(report))


if __name__ == "__main__":
    main()
