"""How far the time left is off, on the demo: when it is first said, and at 10 % of the run.

    python benchmarks/eta.py            # 5 runs; the machine should be otherwise idle
    python benchmarks/eta.py --quick    # does it work; prints, writes nothing

Each run is `examples/lightning_digits.py` as `make demo` runs it, in a process and a folder of its
own, with `verbose=2`: then every logging step has its forecast in the ledger. The error of a
forecast is time left as forecast / time left as it became - 1, and that of the compute likewise.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# As a script, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import report as reports
from benchmarks.measuring.machine import load, processor, software
from benchmarks.measuring.running import counted_off
from computemeter.ledger import Ledger, read_ledger
from computemeter.units import pfs_days

ROOT = Path(__file__).resolve().parent.parent
SHARES = (0.1, 0.25, 0.5, 0.75)
AIM = 0.15
EPOCHS, QUICK_EPOCHS = 60, 10

_RUN = """
import functools, sys
sys.path.insert(0, {examples!r})
import lightning_digits
lightning_digits.ComputeMeter = functools.partial(lightning_digits.ComputeMeter, verbose=2)
lightning_digits.main({epochs})
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One forecast beside what became of it.

    Attributes:
        when: "first forecast", or a share of the run.
        step: training steps that had been run.
        seconds_left: as forecast.
        real_seconds_left: as it became.
        seconds_error: forecast / real - 1.
        compute_error: the same of the run's petaflop/s-days.
    """

    when: str
    step: int
    seconds_left: float
    real_seconds_left: float
    seconds_error: float
    compute_error: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the demo: its steps, its seconds, and what was said of them on the way."""

    steps: int
    seconds: float
    points: tuple[Point, ...]


def run_demo(epochs: int) -> Run:
    """Run the demo once and hold its forecasts against its end."""
    with tempfile.TemporaryDirectory() as folder:
        code = _RUN.format(examples=str(ROOT / "examples"), epochs=epochs)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"the demo failed:\n{done.stderr[-2000:]}")
        (path,) = Path(folder).rglob("*.jsonl")
        return judge(read_ledger(path))


def judge(ledger: Ledger) -> Run:
    """Pick the forecasts to report from a run's ledger."""
    if ledger.end is None:
        raise SystemExit("the demo's ledger has no end")
    summary = ledger.end.summary
    steps, flops = int(summary["steps"]), int(summary["run_flops"])
    found = []
    for record in ledger.progress:
        left = record.metrics.get("compute/eta_seconds")
        compute = record.metrics.get("compute/projected_pfs_days")
        if left is None or compute is None:
            continue
        real = ledger.end.time - record.time
        found.append(
            Point(
                when="",
                step=int(record.totals["steps"]),
                seconds_left=left,
                real_seconds_left=real,
                seconds_error=left / real - 1,
                compute_error=compute / pfs_days(flops) - 1,
            )
        )
    wanted = {"first forecast": 0} | {f"{share:.0%}": share * steps for share in SHARES}
    points = [
        _at(name, next(point for point in found if point.step >= step))
        for name, step in wanted.items()
    ]
    return Run(steps=steps, seconds=float(summary["wall_seconds"]), points=tuple(points))


def _at(when: str, point: Point) -> Point:
    return Point(**{**asdict(point), "when": when})


def environment() -> reports.Facts:
    """Describe the machine and the versions."""
    return {**software("computemeter", "lightning", "mlflow", "torch"), **processor(), **load()}


_READING = """\
Each row is one moment of {runs} runs of `examples/lightning_digits.py`, of {steps:,} steps each; it
logs every 10. The error is time left as forecast / time left as it became - 1; the worst is the
largest, whatever its sign. At the first forecast, 20 steps after the first logging step, no
validation has been seen, which the line printed there says. Aim: at 10 % of the run within
{aim:.0%} in every run: **{verdict}** (worst {worst:+.1%}).
"""


def as_markdown(facts: reports.Facts, runs: Sequence[Run]) -> str:
    """Write the report."""
    aimed = _worst([run.points[1].seconds_error for run in runs])
    verdict = "met" if abs(aimed) <= AIM else "missed"
    steps = runs[0].steps
    return "\n".join(
        [
            "# How far the time left is off\n",
            reports.written_by("eta", facts),
            _READING.format(runs=len(runs), steps=steps, aim=AIM, verdict=verdict, worst=aimed),
            _moments_table(runs),
            _runs_table(runs),
        ]
    )


def _moments_table(runs: Sequence[Run]) -> str:
    rows = []
    for moment in zip(*(run.points for run in runs), strict=True):
        errors = [point.seconds_error for point in moment]
        compute = _worst([point.compute_error for point in moment])
        when = f"{moment[0].when} (step {moment[0].step})"
        rows.append((when, f"{median(errors):+.1%}", f"{_worst(errors):+.1%}", f"{compute:+.1%}"))
    header = ("at", "error of the time left, median", "worst", "of the compute, worst")
    return reports.table(header, rows)


def _runs_table(runs: Sequence[Run]) -> str:
    rows = []
    for number, run in enumerate(runs, 1):
        at = run.points[1]
        seconds = (run.seconds, at.seconds_left, at.real_seconds_left)
        rows.append((str(number), *(f"{each:.1f}" for each in seconds)))
    header = ("run", "seconds", "left at 10 %, as forecast", "as it became")
    return reports.table(header, rows, left=())


def _worst(errors: Sequence[float]) -> float:
    return max(errors, key=abs)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5, help="of the demo (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one short run; write nothing")
    given = parser.parse_args()
    if given.runs < 1:
        parser.error("--runs must be above 0")
    count, epochs = (1, QUICK_EPOCHS) if given.quick else (given.runs, EPOCHS)
    runs = [run_demo(epochs) for _ in counted_off(count, "run")]
    facts = environment()
    markdown = as_markdown(facts, runs)
    print(markdown)
    if not given.quick:
        plain = {"environment": facts, "runs": [asdict(run) for run in runs]}
        reports.write("eta", markdown, plain)


if __name__ == "__main__":
    main()
