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
import os
import platform
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

RESULTS = Path(__file__).parent / "results"
SEED = 7
SIZES = (10_000, 100_000)
LARGEST_FOR_MLFLOW = 10_000  # at 100,000 it would take minutes and ten times the memory
LARGEST_FOR_HTTP = 10_000
CHANGED = 100  # runs between two incremental readings
SLOW_ROUNDS = 2  # of arms that take minutes
PROJECTS, USERS = 12, 25
FIRST, LAST = 1_546_300_800, 1_767_225_600  # 2019 to 2026
LOAD_BEFORE = os.getloadavg()[0]  # of the machine, in the minute before: it should be near 0

MLFLOW = "mlflow.search_runs"
COLD, WARM = "page, cold", "page, warm"
HTTP_COLD, HTTP_INCREMENTAL = "page over HTTP, cold", "page over HTTP, incremental"
SLOW = {MLFLOW, HTTP_COLD}
STAGES = ("collect", "fit", "page")


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


def to_page(uri: str, *, cache: bool) -> int:
    """Do what `computemeter trend` does; the stages' seconds are left in `SECONDS`."""
    command: Any = import_module("computemeter.commands.trend")
    pages: Any = import_module("computemeter.trend.page")
    read: list[Any] = []
    command.collect = _timed("collect", command.collect, read.append)
    command.fit_trend = _timed("fit", command.fit_trend)
    pages.page = _timed("page", pages.page)
    with TemporaryDirectory() as folder:
        output = Path(folder) / "trend.html"
        command.trend([uri], command.Wishes(output=str(output), cache=cache), warn=print)
        if output.stat().st_size > MOST_PAGE_BYTES:
            raise RuntimeError(f"{uri}: the page has {output.stat().st_size} bytes")
    return len(read[0].records)


SECONDS: dict[str, float] = defaultdict(float)


def _timed(
    stage: str, work: Callable[..., Any], take: Callable[[Any], object] = lambda _: None
) -> Callable[..., Any]:
    def done(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        result = work(*given, **named)
        SECONDS[stage] += time.perf_counter() - began
        take(result)
        return result

    return done


ARMS: Mapping[str, Callable[[str], int]] = {
    MLFLOW: search_runs,
    COLD: lambda uri: to_page(uri, cache=False),
    WARM: lambda uri: to_page(uri, cache=True),
    HTTP_COLD: lambda uri: to_page(uri, cache=False),
    HTTP_INCREMENTAL: lambda uri: to_page(uri, cache=True),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One process.

    Attributes:
        seconds: of the work, with its imports.
        processor_seconds: what it computed meanwhile; far less than `seconds` on a busy machine.
        megabytes: the most memory it had.
        runs: that came out.
        stages: seconds of the parts, by name.
    """

    seconds: float
    processor_seconds: float
    megabytes: float
    runs: int
    stages: Mapping[str, float]


def measure(arm: str, uri: str) -> Measured:
    """Do the work of an arm, in this process."""
    began = time.perf_counter()
    runs = ARMS[arm](uri)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Measured(seconds, used.ru_utime + used.ru_stime, _most_megabytes(), runs, dict(SECONDS))


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


# A server.


@contextmanager
def served(database: str, folder: Path) -> Iterator[str]:
    """Run `mlflow server` on a database."""
    with _tests("mlflow_servers").running_server(folder, database) as server:
        yield server.uri


def _tests(name: str) -> Any:
    """Import a module of the tests."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    return import_module(name)


def change_some(database: Path) -> None:
    """End some of the runs now, each time the same, as if they had been going on."""
    with closing(sqlite3.connect(database, timeout=60)) as file, file:
        file.execute(
            "update runs set end_time = ? where run_uuid in "
            "(select run_uuid from runs order by run_uuid limit ?)",
            (round(1000 * time.time()), CHANGED),
        )


# A browser.


@dataclass(frozen=True, slots=True)
class Opened:
    """A page in a browser; the seconds of all rounds.

    Attributes:
        runs: on it.
        megabytes: of the file.
        opening: from the navigation's start until all is there.
        first_frame: until it was drawn, too.
        toggling: from a press on linear or log until it was drawn.
    """

    runs: int
    megabytes: float
    opening: Sequence[float]
    first_frame: Sequence[float]
    toggling: Sequence[float]


_WATCH = """new MutationObserver((_, watch) => {
    if (!document.body?.dataset.ready) return;
    watch.disconnect();
    const ready = performance.now();
    frame(() => (window.opened = [ready, performance.now()]));
}).observe(document, { subtree: true, childList: true, attributes: true });
// What was drawn in one frame is on the screen when the next begins.
const frame = (then) => requestAnimationFrame(() => requestAnimationFrame(then));
window.toggled = (scale) => new Promise((done) => {
    const pressed = performance.now();
    document.querySelector(`[data-scale=${scale}]`).click();
    frame(() => done(performance.now() - pressed));
});
"""
# A browser that is driven looks up which line of a script it is in, for which it reads all 4.8 MB
# of plotly.js again, three times; one that a person uses does not.
_BROWSER = ("--no-sandbox", "--js-flags=--no-enable-lazy-source-positions")


def opened(path: Path, runs: int, rounds: int) -> Opened | None:
    """Open a page again and again; None without a Chromium and Playwright."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        return None
    opening, toggling = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=_BROWSER)
        for _ in range(rounds):
            context = browser.new_context()
            page = context.new_page()
            page.add_init_script(_WATCH)
            page.goto(path.as_uri())
            page.wait_for_function("window.opened", timeout=120_000)
            opening.append(page.evaluate("window.opened"))
            toggling += [page.evaluate(f"toggled('{scale}')") for scale in ("linear", "log")]
            context.close()
        browser.close()
    ready, drawn = ([each / 1000 for each in times] for times in zip(*opening, strict=True))
    seconds = [each / 1000 for each in toggling]
    return Opened(runs, path.stat().st_size / 1e6, ready, drawn, seconds)


def make_page(path: Path, runs: int) -> None:
    """Write a page of runs that have everything."""
    from computemeter.trend.fit import fit_trend
    from computemeter.trend.page import page
    from computemeter.trend.page_data import Trend, fit_points, place

    records, frontier = _tests("trend_runs").generated(runs), "largest-per-month"
    dots, left_out = place(records)
    fit = fit_trend(fit_points(dots, include_estimated=False), frontier=frontier)
    path.write_bytes(
        page(Trend(dots=dots, left_out=left_out, records=records, frontier=frontier, fit=fit))
    )


# The report.

TARGETS = {
    (10_000, COLD): 3.0,
    (100_000, COLD): 20.0,
    (10_000, WARM): 2.0,
    (100_000, WARM): 2.0,
}
"""Seconds from the database to the page."""
MOST_MEGABYTES = 1024
MOST_PAGE_BYTES = 15e6
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


def environment(rounds: int) -> dict[str, str | int]:
    """Describe the machine and the versions."""
    from computemeter.cpu import cpu_device

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        **{
            package: version(package)
            for package in ("computemeter", "mlflow", "sqlalchemy", "plotly")
        },
        "cpu": cpu_device().name,
        "cores": os.cpu_count() or 0,
        "load before": f"{LOAD_BEFORE:.1f}",
        "rounds": rounds,
    }


def as_markdown(
    rows: Sequence[Row], pages: Sequence[Opened], facts: Mapping[str, str | int]
) -> str:
    """Write the report."""
    named = ", ".join(f"{name} {value}" for name, value in facts.items())
    return (
        "# From a database of runs to a trend\n\n"
        f"Written by `benchmarks/trend.py`: {named}.\n\n"
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
    return _table(
        ("", "runs", "rounds", *numbers, "target"),
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
    )


def _pages_table(pages: Sequence[Opened]) -> str:
    def written(times: Sequence[float]) -> str:
        return f"{median(times):.2f} ({max(times):.2f})"

    return _table(
        ("", "runs", "MB", "ready", "drawn", "toggled", "target"),
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
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 2), "---"], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "trend.md").write_text(markdown, encoding="utf-8")
        found = {"rows": [*map(asdict, rows)], "pages": [*map(asdict, pages)]}
        text = json.dumps({"environment": facts, **found}, indent=1)
        (RESULTS / "trend.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
