"""How every command of the command line answers: text or JSON, a warning, an error in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from computemeter.commands import CommandError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
"""The option of every command that prints a table."""


def warn(message: str) -> None:
    """Say something on the error stream, made printable."""
    from computemeter.table import printable

    typer.echo(f"computemeter: {printable(message)}", err=True)


def print_result(command: Callable[[], str]) -> None:
    """Print what a command returns, or its error in one line, and exit with 1."""
    try:
        typer.echo(command())
    except CommandError as error:
        typer.echo(f"computemeter: {error}", err=True)
        raise typer.Exit(1) from None
