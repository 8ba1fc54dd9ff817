"""The arms, each in a process of its own."""

from __future__ import annotations

import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measuring.running import answer_of, module_of_the_tests

MLFLOW = "mlflow.search_runs"
COLD, WARM = "page, cold", "page, warm"
HTTP_COLD, HTTP_INCREMENTAL = "page over HTTP, cold", "page over HTTP, incremental"
STAGES = ("collect", "fit", "page")
MOST_PAGE_BYTES = 15e6


def search_runs(uri: str) -> int:
    """Read as MLflow's users do: a table of pandas."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    return len(mlflow.search_runs(search_all_experiments=True, max_results=200_000))


def to_page(uri: str, *, cache: bool) -> int:
    """Do what `computemeter trend` does; the stages' seconds are left in `SECONDS`."""
    command: Any = import_module("computemeter.commands.trend")
    pages: Any = import_module("computemeter.trend.page")
    read: list[int] = []  # not the runs: they would be kept longer than the command keeps them
    command.collect = _timed(
        "collect", command.collect, lambda found: read.append(len(found.records))
    )
    command.fit_trend = _timed("fit", command.fit_trend)
    pages.page = _timed("page", pages.page)
    with TemporaryDirectory() as folder:
        output = Path(folder) / "trend.html"
        command.trend([uri], command.Wishes(output=str(output), cache=cache), warn=print)
        if output.stat().st_size > MOST_PAGE_BYTES:
            raise RuntimeError(f"{uri}: the page has {output.stat().st_size} bytes")
    return read[0]


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
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    return Measured(**answer_of("trend", ("--arm", arm, "--uri", uri), environment))


@contextmanager
def served(database: str, folder: Path) -> Iterator[str]:
    """Run `mlflow server` on a database."""
    with module_of_the_tests("mlflow_servers").running_server(folder, database) as server:
        yield server.uri
