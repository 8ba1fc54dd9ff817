"""`computemeter trend`: a team's runs as one trend, on a page, in a picture, as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from computemeter.cli_output import asking
from computemeter.commands import CommandError
from computemeter.csv_files import write_csv
from computemeter.sinks import describe, redact
from computemeter.sources import SourceError
from computemeter.table import printable
from computemeter.trend.collect import Collection, collect, parse_since
from computemeter.trend.curves import curves
from computemeter.trend.fit import TooFewDatesError, TrendFit, choose, fit_trend
from computemeter.trend.garbage import no_garbage
from computemeter.trend.page_data import Trend, fit_points, place
from computemeter.trend.publish import destination, publish
from computemeter.trend.reference import Reference, ReferenceFileError, read_reference
from computemeter.trend.rollups import RollUp, by_project, by_user, by_week, roll_up
from computemeter.trend.words import details, headline, left_out
from computemeter.wording import counted

FRONTIER = "largest-per-month"
"""Fitted unless asked otherwise: the small runs of sweeps are many, and say little of the trend."""

_INSTALL = "pip install 'computemeter[trend]'"
_LIBRARIES = {"": (), ".html": ("plotly",), ".png": ("matplotlib",), ".svg": ("matplotlib",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asks for; see `computemeter.trend.collect.collect` for what is read.

    Attributes:
        output: page (.html) or picture (.png, .svg); None for neither.
        csv: file for the runs as a table.
        as_json: print JSON.
        since: a day, or an age such as "90d".
        user: of whom.
        project: of which project.
        tags: "key=value" each.
        assume_device: of runs of which no tracker says what they ran on.
        frontier: see `computemeter.trend.fit.choose`.
        include_estimated: fit estimated runs too.
        seed: of the fit's resamples.
        cache: use and keep what trackers told before.
        appendix: open with the published results of 2018.
        thresholds: open with the lines of 1e23, 1e25 and 1e26 FLOP.
        reference: a CSV file of published models.
        curves: names or ids of runs whose loss against compute is drawn.
        title: of the page.
        publish: bring page and picture to a tracker.
        to: its URI; None for that of the first source that is a tracker.
    """

    output: str | None = None
    csv: str | None = None
    as_json: bool = False
    since: str | None = None
    user: str | None = None
    project: str | None = None
    tags: Sequence[str] = ()
    assume_device: str | None = None
    frontier: str = FRONTIER
    include_estimated: bool = False
    seed: int = 0
    cache: bool = True
    appendix: bool = False
    thresholds: bool = False
    reference: str | None = None
    curves: Sequence[str] = ()
    title: str = "Compute per training run"
    publish: bool = False
    to: str | None = None


@no_garbage()
def trend(sources: Sequence[str], wishes: Wishes, *, warn: Callable[[str], None]) -> str:
    """Collect, fit and draw; returns what is to be printed.

    Args:
        sources: see `computemeter.sources.records`.
        wishes: the options.
        warn: takes one line for whatever is left out.

    Raises:
        CommandError: for a wrong option, a source that cannot be read, a file that cannot be
            written, a library that is not installed, a tracker that does not take it.
    """
    output = _output(wishes)
    try:
        tracker = destination(sources, wishes.to) if wishes.publish else None
        since = None if wishes.since is None else parse_since(wishes.since)
        choose((), wishes.frontier)
        reference = None if wishes.reference is None else read_reference(wishes.reference)
        found = _collect(sources, wishes, since, warn)
    except (SourceError, ReferenceFileError, ValueError) as error:
        raise CommandError(printable(redact(str(error)))) from None
    drawn = _trend(found, sources, wishes, reference, warn)
    _write(wishes.csv, lambda path: write_csv(found.records, path))
    _write(output, lambda path: path.write_bytes(_figure(drawn, path.suffix.lower())))
    published = None if tracker is None else _publish(drawn, tracker, warn)
    if wishes.as_json:
        return json.dumps(_report(drawn, found) | {"published": published}, indent=2)
    lines = _printed(drawn, found, [name for name in (output, wishes.csv) if name])
    return "\n".join([*lines, *([f"published: {printable(published)}"] if published else [])])


def _output(wishes: Wishes) -> str | None:
    """Check what is asked for before anything is read, which may take minutes."""
    output = wishes.output
    if wishes.to is not None and not wishes.publish:
        raise CommandError(f"--to {printable(redact(wishes.to))}: is where to --publish")
    if output is None and not (wishes.csv or wishes.as_json or wishes.publish):
        output = "trend.html"
    suffix = Path(output).suffix.lower() if output else ""
    if suffix not in _LIBRARIES or (output and not suffix):
        raise CommandError(f"-o {printable(output or '')}: accepted is a .html, .png or .svg file")
    drawing = ("plotly", "matplotlib") if wishes.publish else _LIBRARIES[suffix]
    missing = [name for name in ("numpy", *drawing) if not find_spec(name)]
    if missing:
        raise CommandError(f"{' and '.join(missing)} not installed: {_INSTALL}")
    for name in filter(None, (output, wishes.csv)):
        if not Path(name).absolute().parent.is_dir():
            raise CommandError(f"{printable(name)}: there is no such folder")
    return output


def _collect(
    sources: Sequence[str], wishes: Wishes, since: float | None, warn: Callable[[str], None]
) -> Collection:
    with _progress(sources) as progress, asking(sources, warn):
        return collect(
            sources,
            since=since,
            user=wishes.user,
            project=wishes.project,
            tags=wishes.tags,
            assume_device=wishes.assume_device,
            cache=wishes.cache,
            warn=warn,
            progress=progress,
        )


@contextmanager
def _progress(sources: Sequence[str]) -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar for each source, on the error output and only where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bars: dict[str, Any] = {}
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        for source in map(redact, sources):  # before it answers, which may take long
            name = escape(printable(source)[:60])
            bars[source] = progress.add_task(f"reading {name}", total=None)

        def advance(source: str, done: int, total: int | None) -> None:
            progress.update(bars[source], completed=done, total=total)

        yield advance


def _trend(
    found: Collection,
    sources: Sequence[str],
    wishes: Wishes,
    reference: Reference | None,
    warn: Callable[[str], None],
) -> Trend:
    dots, unplaced = place(found.records)
    unplaced.update({each.reason: each.count for each in found.skipped})
    drawn, note = curves(found.records, sources, chosen=wishes.curves, warn=warn)
    filtered = counted(found.filtered, "run")
    notes = [f"{filtered} left out as asked for."] if found.filtered else []
    marked = left_out({each.reason: each.count for each in found.marked})
    return Trend(
        dots=dots,
        left_out=unplaced,
        records=found.records,
        frontier=wishes.frontier,
        include_estimated=wishes.include_estimated,
        fit=_fit(wishes, fit_points(dots, wishes.include_estimated)),
        notes=[*found.notes, *notes, *marked],
        sources=[redact(source) for source in sources],
        reference=reference,
        curves=drawn,
        curves_note=note,
        appendix=wishes.appendix,
        thresholds=wishes.thresholds,
        title=wishes.title,
    )


def _fit(wishes: Wishes, points: Sequence[Any]) -> TrendFit | str:
    try:
        return fit_trend(points, frontier=wishes.frontier, seed=wishes.seed)
    except TooFewDatesError as error:
        return str(error)


def _figure(drawn: Trend, suffix: str) -> bytes:
    if suffix == ".html":
        from computemeter.trend.page import page

        return page(drawn)
    from computemeter.trend.still import still

    return still(drawn, "svg" if suffix == ".svg" else "png")


def _publish(drawn: Trend, uri: str, warn: Callable[[str], None]) -> str:
    try:
        return publish(drawn, uri, warn=warn)
    except SourceError as error:
        raise CommandError(printable(redact(f"not published: {error}"))) from None


def _write(path: str | None, write: Callable[[Path], object]) -> None:
    try:
        if path is not None:
            write(Path(path))
    except OSError as error:
        raise CommandError(f"{printable(str(path))}: {error.strerror or describe(error)}") from None


def _printed(drawn: Trend, found: Collection, written: Sequence[str]) -> list[str]:
    once = ", each once" if len(drawn.sources) > 1 else ""
    return [
        headline(drawn.fit),
        *details(drawn.fit, drawn.frontier, include_estimated=drawn.include_estimated),
        f"{counted(_read(drawn, found), 'run')} read{once}, {len(drawn.dots):,} on the chart",
        *(f"left out: {printable(line)}" for line in left_out(drawn.left_out)),
        *(f"note: {printable(line)}" for line in drawn.notes),
        *(f"written: {printable(name)}" for name in written),
    ]


def _read(drawn: Trend, found: Collection) -> int:
    """Return how many runs there are: on the chart, left out with a reason or as asked for."""
    runs = [count for why, count in drawn.left_out.items() if not why.startswith("source")]
    return len(drawn.dots) + sum(runs) + found.filtered


def _report(drawn: Trend, found: Collection) -> dict[str, Any]:
    fit = drawn.fit
    return {
        "read": _read(drawn, found),
        "runs": len(found.records),
        "drawn": len(drawn.dots),
        "left_out": dict(drawn.left_out),
        "notes": list(drawn.notes),
        "frontier": drawn.frontier,
        "include_estimated": drawn.include_estimated,
        "fit": None if isinstance(fit, str) else _fields(fit),
        "no_fit": fit if isinstance(fit, str) else None,
        "per_project": _rows(roll_up(found.records, by_project)),
        "per_user": _rows(roll_up(found.records, by_user)),
        "per_week": _rows(roll_up(found.records, by_week)),
    }


def _fields(fit: TrendFit) -> dict[str, Any]:
    # The resampled lines are thousands of numbers that nobody reads.
    names = [each.name for each in fields(fit) if each.name != "lines"]
    values = {name: getattr(fit, name) for name in names}
    return {name: None if value == math.inf else value for name, value in values.items()}


def _rows(rollups: Sequence[RollUp]) -> list[dict[str, Any]]:
    return [asdict(each) for each in rollups]
