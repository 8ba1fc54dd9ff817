"""`computemeter runs`: the runs of a team, each with its compute by both methods."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from computemeter.cli_output import asking
from computemeter.commands import CommandError
from computemeter.reading import Request
from computemeter.records import RunRecord
from computemeter.segments import merge
from computemeter.sources import SourceError, read
from computemeter.table import STYLES, printable
from computemeter.units import format_compute, format_flops
from computemeter.wording import counted

_DEFAULT = "compute_ledger"
_UNKNOWN = "unknown"
_LONGEST_NAME = 40
_NARROWEST_NAME = 8
_GAP = 2
_MARK = "!"
# One column for `spent` and method 1: over all segments of a run, which the ratio is about, they
# are the same number.
_NAMES = ("run", "user", "device")
_TEXTS = ("run", "user", "started", "device")
_NUMBERS = ("steps", "run compute", "spent\n(method 1)", "GPU time\n(method 2)", "ratio")
_WORDS = ("verdict", "cause")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Which runs the user asks for; see `computemeter.trend.collect.collect`.

    Attributes:
        since: a day, or an age such as "90d".
        user: of whom.
        project: of which project.
        tags: "key=value", or "key", each.
    """

    since: str | None = None
    user: str | None = None
    project: str | None = None
    tags: Sequence[str] = ()


def runs(
    sources: Sequence[str],
    wishes: Wishes | None = None,
    *,
    as_json: bool = False,
    warn: Callable[[str], None],
) -> str:
    """Return the table of all runs in the sources.

    Args:
        sources: see `computemeter.sources.records`; ./compute_ledger where there are none.
        wishes: which of them; all if left out.
        as_json: the same as JSON.
        warn: takes one line for whatever is left out.

    Raises:
        CommandError: for what is no source or cannot be read, and for a wrong wish.
    """
    wishes = wishes or Wishes()
    chosen, wanted = sources or _default_source(), _filter(wishes)
    try:
        # To the error output, where it does not mix with what is printed.
        status = Console(stderr=True).status(f"reading {counted(len(chosen), 'source')}")
        with status, asking(chosen, warn):
            told = [run for source in chosen for run in read(source, Request(), warn=warn)]
    except SourceError as error:
        raise CommandError(printable(str(error))) from None
    every = merge(told)
    found = [run for run in every if wanted(run)]
    filtered, again = len(every) - len(found), len(told) - len(every)
    if as_json:
        return json.dumps({**_report(found), "filtered": filtered, "again": again}, indent=2)
    left_out = [*_left_out(every, filtered, wishes), *_again(len(told), again)]
    if not found:
        return "\n".join(left_out) or "no run in there was metered"
    return "\n".join([_drawn(found), "", *_totals(found), *left_out])


def _left_out(every: Sequence[RunRecord], filtered: int, wishes: Wishes) -> list[str]:
    from computemeter.trend.collect import nobodys

    lines = [f"{counted(filtered, 'run')} left out as asked for"] if filtered else []
    return [*lines, *map(printable, nobodys(every, user=wishes.user, project=wishes.project))]


def _again(told: int, again: int) -> list[str]:
    """Say of how many runs the sources tell, where that is more than there are."""
    if not again:
        return []
    same = "is a run" if again == 1 else "are runs"
    return [f"{told:,} were read, of which {again:,} {same} met before in another place"]


def _filter(wishes: Wishes) -> Callable[[RunRecord], bool]:
    from computemeter.trend.collect import is_wanted, parse_since, tag_pairs

    try:
        since = None if wishes.since is None else parse_since(wishes.since)
    except ValueError as error:
        raise CommandError(printable(str(error))) from None
    tags = tag_pairs(wishes.tags)
    return lambda run: is_wanted(run, since, wishes.user, wishes.project, tags)


def _default_source() -> Sequence[str]:
    if not Path(_DEFAULT).is_dir():
        raise CommandError(
            f"name a SOURCE, such as a folder of ledgers or sqlite:///mlflow.db: there is no "
            f"./{_DEFAULT} here"
        )
    return [_DEFAULT]


def _report(found: Iterable[RunRecord]) -> dict[str, Any]:
    found = list(found)
    return {
        "runs": [{**asdict(run), "overclaims": run.overclaims} for run in found],
        "spent_flops": _spent(found),
        "not_added": {
            "overclaiming": sum(run.overclaims for run in found),
            "unknown": sum(run.spent_flops is None for run in found),
        },
    }


def _spent(found: Iterable[RunRecord]) -> int | None:
    """Add up what the runs spent; None where it is known of none."""
    known = [run.spent_flops for run in found if run.spent_flops is not None and not run.overclaims]
    return sum(known) if known else None


def _totals(found: Sequence[RunRecord]) -> list[str]:
    spent = _spent(found)
    amount = _UNKNOWN if spent is None else format_compute(spent)
    lines = [f"{counted(len(found), 'run')}, spent {amount}"]
    if unknown := sum(run.spent_flops is None for run in found):
        lines.append(f"not added: {counted(unknown, 'run')} of which the compute is not known")
    if claiming := sum(run.overclaims for run in found):
        each = "claims" if claiming == 1 else "claim"
        lines.append(
            f"not added: {counted(claiming, 'run')} marked {_MARK}, which {each} more than "
            "devices x time x peak allow: a count or a peak is wrong"
        )
    return lines


def _table(found: Iterable[RunRecord], room: int | None) -> Table:
    """Make the table, no wider than there is room, unless figures would be cut off."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    titles = (*_TEXTS, *_NUMBERS, *_WORDS)
    rows = [[Text(printable(text), style) for text, style in _cells(run)] for run in found]
    for title, width in _widths(titles, rows, room).items():
        side: JustifyMethod = "right" if title in _NUMBERS else "left"
        table.add_column(title, justify=side, overflow="fold", width=width)
    for row in rows:
        table.add_row(*row)
    return table


def _widths(
    titles: Sequence[str], rows: Sequence[Sequence[Text]], room: int | None
) -> dict[str, int]:
    """Return each column's width: names may take several lines, figures are never cut off.

    Not rich's own: it would look at every cell four times.
    """
    widths = {
        title: max(*map(len, title.splitlines()), 0, *(cell.cell_len for cell in column))
        for title, column in zip(titles, zip(*rows, strict=True), strict=True)
    }
    over = sum(widths.values()) + _GAP * (len(widths) - 1) - (room or sys.maxsize)
    for _ in range(over):
        widest = max(_NAMES, key=lambda title: widths[title])
        if widths[widest] <= _NARROWEST_NAME:
            break
        widths[widest] -= 1
    return widths


def _cells(run: RunRecord) -> list[tuple[str, str]]:
    mark = f" {_MARK}" if run.overclaims else ""
    plain = [
        _short(run.name or run.run_id),
        _short(run.user or _UNKNOWN),
        _date(run.started),
        _device(run),
        _UNKNOWN if run.steps is None else f"{run.steps:,}",
        _flops(run.run_flops),
        _flops(run.spent_flops) + mark,
        _flops(run.gpu_time_flops),
        _UNKNOWN if run.ratio is None else f"{run.ratio:.3g}",
    ]
    return [*((text, "") for text in plain), (run.verdict, STYLES[run.verdict]), (run.cause, "")]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."


def _date(started: float | None) -> str:
    if started is None:
        return _UNKNOWN
    try:
        return f"{datetime.fromtimestamp(started).astimezone():%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):  # no such year
        return _UNKNOWN


def _device(run: RunRecord) -> str:
    count = "" if run.device_count is None else f"{run.device_count:,} x "
    return f"{count}{_short(run.device_name or _UNKNOWN)}"


def _flops(flops: int | None) -> str:
    return _UNKNOWN if flops is None else format_flops(flops)


def _drawn(found: Iterable[RunRecord]) -> str:
    room = _terminal_width()
    # As wide as the table is, or lines would be broken a second time.
    console = Console(file=StringIO(), force_terminal=room is not None, width=10_000)
    console.print(_table(found, room))
    text: str = console.file.getvalue()  # type: ignore[attr-defined] # it is the StringIO
    return "\n".join(line.rstrip() for line in text.splitlines())


def _terminal_width() -> int | None:
    """Return the columns of the terminal; None for a file or a pipe, which has room for all."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
