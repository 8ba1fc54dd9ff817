"""Seconds and memory from a tracker's runs to a team's trend.

    python benchmarks/trend.py            # all of it; the machine should be otherwise idle
    python benchmarks/trend.py --quick    # 1,000 runs: does it work; prints, writes nothing

The runs are made up and put into a real MLflow database, whose tables MLflow makes and whose rows
go in by SQL: 15 metrics, 15 parameters and 8 tags each, two segments every fifth time, and one in
ten without the meter. Every arm runs in a process of its own, which measures its peak of memory;
the time is that of the work, imports included. "Cold" has no cache, "warm" the one that a first
collection left. Arms take turns, so that a slow minute of the machine is every arm's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

RESULTS = Path(__file__).parent / "results"
SEED = 7
SIZES = (10_000, 100_000)
LARGEST_FOR_MLFLOW = 10_000  # at 100,000 it would take minutes and ten times the memory
PROJECTS, USERS = 12, 25
FIRST, LAST = 1_546_300_800, 1_767_225_600  # 2019 to 2026
LOAD_BEFORE = os.getloadavg()[0]  # of the machine, in the minute before: it should be near 0

MLFLOW = "mlflow.search_runs"
COLD, WARM = "collect, cold", "collect, warm"


# The runs.


def make_database(path: Path, runs: int) -> str:
    """Make a database of runs; return its URI."""
    import sqlalchemy
    from mlflow import MlflowClient

    uri = f"sqlite:///{path}"
    client = MlflowClient(uri)
    experiments = [client.create_experiment(f"project-{n}") for n in range(PROJECTS)]
    engine = sqlalchemy.create_engine(uri)
    with closing(engine.raw_connection()) as connection:
        chance = random.Random(SEED)  # noqa: S311 - made-up runs guard nothing
        for table, rows in _tables(chance, runs, experiments).items():
            marks = ", ".join("?" * len(rows[0]))
            text = f"insert into {table} values ({marks})"  # noqa: S608 - names of our own
            connection.cursor().executemany(text, rows)
        connection.commit()
    engine.dispose()
    return uri


def _tables(
    chance: random.Random, runs: int, experiments: Sequence[str]
) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of each table, in the order of its columns."""
    tables: dict[str, list[tuple[Any, ...]]] = {
        name: [] for name in ("runs", "tags", "params", "latest_metrics")
    }
    for _ in range(runs):
        run = f"{chance.getrandbits(128):032x}"
        start, hours = chance.uniform(FIRST, LAST), chance.lognormvariate(1, 1)
        began, ended = round(1000 * start), round(1000 * (start + 3600 * hours))
        name, place = f"run-{run[:6]}", chance.choice(experiments)
        known = (*("LOCAL", "", "", "", "FINISHED"), began, ended)
        tables["runs"].append((run, name, *known, "", "active", f"/nowhere/{run}", place, None))
        values = {f"metric/{n}": chance.random() for n in range(9)}
        metered = chance.random() < 0.9
        tags = _tags(chance, start, hours) if metered else {}
        if metered:
            values |= {"compute/flops": 1e18, "compute/ratio": 1.1, "compute/device_hours": 8.0}
        else:
            values |= {f"system/gpu_{n}_utilization_percentage": 80.0 for n in range(4)}
        tags |= {"mlflow.user": f"user-{chance.randrange(USERS)}", "sweep": f"s{run[0]}"}
        tables["latest_metrics"] += [(key, each, ended, 9, 0, run) for key, each in values.items()]
        tables["tags"] += [(key, text, run) for key, text in tags.items()]
        tables["params"] += [(f"param-{n}", str(chance.random()), run) for n in range(14)]
        tables["params"].append(("gpu_type", "NVIDIA A100-SXM4-80GB", run))
    return tables


def _tags(chance: random.Random, start: float, hours: float) -> dict[str, str]:
    """Return what a meter leaves: the trend grows tenfold in two years."""
    flops = 10 ** (17 + (start - FIRST) / (2 * 365.25 * 86_400) + chance.gauss(0, 1))
    peak, devices = 312e12, 2 ** chance.randrange(6)
    device_seconds = max(3600 * hours * devices, flops / (0.6 * peak))
    segments = {
        f"computemeter.segment.{_moment(start + n)}-{chance.getrandbits(32):08x}": json.dumps(
            {
                "steps": 1000,
                "model_flops": round(flops),
                "hardware_flops": round(1.2 * flops),
                "gpu_time_flops": round(0.33 * peak * device_seconds),
                "training_seconds": device_seconds / devices,
                "busy_seconds": None,
                "device_seconds": device_seconds,
                "run_flops": round(flops) * (n + 1),
                "spent_flops": round(flops) * (n + 1),
                "lineage_flops": None,
                "verdict": "agree",
                "cause": "none",
                "peak_flops": peak,
                "assumed_utilization": 0.33,
            }
        )
        for n in range(1 + (chance.random() < 0.2))
    }
    facts = {"schema": "1", "version": "1", "verdict": "agree", "cause": "none"}
    facts |= {"device": f"{devices} x NVIDIA A100-SXM4-80GB", "team": "blue"}
    return {**{f"computemeter.{key}": text for key, text in facts.items()}, **segments}


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%SZ}"


# The arms, each in a process of its own.


def search_runs(uri: str) -> int:
    """Read as MLflow's users do: a table of pandas."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    return len(mlflow.search_runs(search_all_experiments=True, max_results=200_000))


def collected(uri: str, *, cache: bool) -> int:
    """Collect, with what no meter watched."""
    from computemeter.trend.collect import collect

    return len(collect([uri], cache=cache).records)


ARMS: Mapping[str, Callable[[str], int]] = {
    MLFLOW: search_runs,
    COLD: lambda uri: collected(uri, cache=False),
    WARM: lambda uri: collected(uri, cache=True),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One process.

    Attributes:
        seconds: of the work, with its imports.
        processor_seconds: what it computed meanwhile; far less than `seconds` on a busy machine.
        megabytes: the most memory it had.
        runs: that came out.
    """

    seconds: float
    processor_seconds: float
    megabytes: float
    runs: int


def measure(arm: str, uri: str) -> Measured:
    """Do the work of an arm, in this process."""
    began = time.perf_counter()
    runs = ARMS[arm](uri)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Measured(seconds, used.ru_utime + used.ru_stime, _most_megabytes(), runs)


def _most_megabytes() -> float:
    """Return the peak of memory; what `getrusage` says of it begins with that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def measure_apart(arm: str, uri: str, folder: Path) -> Measured:
    """Do the same in another, with the cache in a folder."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--arm", arm, "--uri", uri],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder)},
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


# The report.

TARGETS = {
    (10_000, COLD): 3.0,
    (100_000, COLD): 20.0,
    (10_000, WARM): 2.0,
    (100_000, WARM): 2.0,
}
"""Seconds, to the page; what is measured here is the collecting of it."""
MOST_MEGABYTES = 1024


@dataclass(frozen=True, slots=True)
class Row:
    """An arm on a number of runs: medians over the rounds, and the slowest and the most."""

    arm: str
    runs: int
    seconds: float
    slowest: float
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
            median(each.seconds for each in found),
            max(each.seconds for each in found),
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
        return f"{most:g} s to the page: {'within' if met else 'missed'}"


def rows_of(size: int, rounds: int) -> Iterator[Row]:
    """Make a database and have the arms take turns on it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        uri = make_database(folder / "mlflow.db", size)
        measure_apart(WARM, uri, folder)  # fills the cache, and the machine's of the file
        arms = [arm for arm in ARMS if arm != MLFLOW or size <= LARGEST_FOR_MLFLOW]
        found: dict[str, list[Measured]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            for arm in arms:
                found[arm].append(measure_apart(arm, uri, folder))
        yield from (Row.of(arm, size, each) for arm, each in found.items())


def environment(rounds: int) -> dict[str, str | int]:
    """Describe the machine and the versions."""
    from computemeter.cpu import cpu_device

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("computemeter", "mlflow", "sqlalchemy")},
        "cpu": cpu_device().name,
        "cores": os.cpu_count() or 0,
        "load before": f"{LOAD_BEFORE:.1f}",
        "rounds": rounds,
    }


def as_markdown(rows: Sequence[Row], facts: Mapping[str, str | int]) -> str:
    """Write the report."""
    header = ("", "runs", "seconds", "slowest", "processor seconds", "MB at most", "target")
    lines = [header, ["---", *["---:"] * 5, "---"]]
    lines += [
        (
            row.arm,
            f"{row.runs:,}",
            f"{row.seconds:.2f}",
            f"{row.slowest:.2f}",
            f"{row.processor_seconds:.2f}",
            f"{row.megabytes:,.0f}",
            row.verdict,
        )
        for row in rows
    ]
    named = ", ".join(f"{name} {value}" for name, value in facts.items())
    return (
        "# From a database of runs to a trend\n\n"
        f"Written by `benchmarks/trend.py`: {named}.\n\n"
        "Every arm in a process of its own, imports included; medians over the rounds. Where the "
        "processor seconds are far below the seconds, the machine was busy with other work.\n\n"
        + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    )


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
    facts = environment(rounds)
    markdown = as_markdown(rows, facts)
    print(markdown)
    if not given.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "trend.md").write_text(markdown, encoding="utf-8")
        text = json.dumps({"environment": facts, "rows": [asdict(row) for row in rows]}, indent=1)
        (RESULTS / "trend.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
