"""How every command of the command line answers: text or JSON, a warning, an error in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Annotated

import typer

from computemeter.commands import CommandError

_SECONDS_OF_SILENCE = 2.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
"""The option of every command that prints a table."""


def warn(message: str) -> None:
    """Say something on the error stream, made printable."""
    from computemeter.table import printable

    typer.echo(f"computemeter: {printable(message)}", err=True)


@contextmanager
def asking(sources: Iterable[str], warn: Callable[[str], None]) -> Iterator[None]:
    """Say which trackers are asked, once, where the answer is late and no terminal shows it.

    Args:
        sources: of which files and SQLite's databases answer at once.
        warn: takes the line, in another thread.
    """
    from rich.console import Console

    from computemeter.sinks import redact
    from computemeter.sources import tracker_of

    far = [each for each in sources if tracker_of(each) and not each.startswith("sqlite")]
    line = f"asking {', '.join(map(redact, far))}"
    timer = Timer(_SECONDS_OF_SILENCE, warn, [line])
    timer.daemon = True
    if far and not Console(stderr=True).is_terminal:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def print_result(command: Callable[[], str]) -> None:
    """Print what a command returns, or its error in one line, and exit with 1."""
    try:
        typer.echo(command())
    except CommandError as error:
        typer.echo(f"computemeter: {error}", err=True)
        raise typer.Exit(1) from None
