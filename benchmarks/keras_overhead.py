"""What the meter costs a Keras training step, measured against doing nothing.

    python benchmarks/keras_overhead.py            # all of it; the machine should be otherwise idle
    python benchmarks/keras_overhead.py --quick    # does it work; prints, writes nothing

Each backend has a process, and each net one model there, compiled once and fitted again and again:
by every arm in turn, in a shuffled order. A fit's first epoch, in which the meter counts, is
apart. In every arm the same two callbacks, one before all others and one after them, read the
clock at the beginning and at the end of an epoch: Keras has waited for the device by then, so an
epoch's time is that of its steps. "Nothing" is there twice: how far it is from itself (A/A) is what
this machine cannot tell apart, and a target within that is "not resolved". One thread computes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

# As a script, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.keras_overhead_parts.fits import (
    BACKENDS,
    NOTHING,
    WORKLOADS,
    Fit,
    Measured,
    measure,
)
from benchmarks.keras_overhead_parts.results import ArmResult, Report, as_markdown, targets_of
from benchmarks.measuring import report as reports
from benchmarks.measuring.machine import load, processor, software
from benchmarks.measuring.running import answer_of


def measure_apart(backend: str, rounds: int) -> Measured:
    """Run all rounds of one backend in a fresh process."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    }
    options = ("--on", backend, "--rounds", str(rounds))
    found = answer_of("keras_overhead", options, environment)
    return Measured(
        {
            title: {arm: [Fit(**fit) for fit in fits] for arm, fits in by_arm.items()}
            for title, by_arm in found["rounds"].items()
        },
        found["in_flight"],
    )


def environment(rounds: int) -> reports.Facts:
    """Describe the machine and the versions."""
    packages = "computemeter", "keras", "jax", "jaxlib", "tensorflow-cpu", "torch"
    threads = {"computing threads": 1, **load(), "rounds": rounds}
    return {**software(*packages), **processor(), **threads}


def report_of(rounds: int) -> Report:
    """Measure on every backend."""
    measured = {backend: measure_apart(backend, rounds) for backend in BACKENDS}
    results = {
        backend: {
            title: {arm: ArmResult.of(fits, by_arm[NOTHING]) for arm, fits in by_arm.items()}
            for title, by_arm in found.rounds.items()
        }
        for backend, found in measured.items()
    }
    targets = [
        target
        for backend in BACKENDS
        for workload in WORKLOADS
        for target in targets_of(backend, workload, results[backend][workload.title])
    ]
    return Report(environment(rounds), targets, results, measured)


def main() -> None:
    """Measure and write the results, or be the process of a backend."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10, help="of all arms (default: 10)")
    parser.add_argument("--quick", action="store_true", help="two rounds; write nothing")
    parser.add_argument("--on", choices=BACKENDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be above 0")
    if given.on:
        print(json.dumps(asdict(measure(given.on, given.rounds))))
        return
    report = report_of(2 if given.quick else given.rounds)
    markdown = as_markdown(report)
    print(markdown)
    if not given.quick:
        reports.write("keras_overhead", markdown, asdict(report))


if __name__ == "__main__":
    main()
