"""The command line: options, help and exit codes.

What a command does is in `computemeter.commands`, one module each, imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from computemeter._version import __version__
from computemeter.commands import CommandError

app = typer.Typer(
    name="computemeter",
    help="How much compute training runs used, by two methods, and whether they agree.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def main() -> None:
    """Run the command line; exits with 0, with 1 after an error, with 2 for a wrong option."""
    app(prog_name="computemeter")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"computemeter {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options that come before the command."""


@app.command(
    "doctor",
    short_help="What the meter sees and counts on this machine.",
    epilog="Example: computemeter doctor --devices --measure",
)
def doctor_command(
    *,
    ops: Annotated[
        bool,
        typer.Option("--ops", help="List every operator: formula, parts, zero or uncounted."),
    ] = False,
    devices: Annotated[
        bool,
        typer.Option(
            "--devices",
            help="List what PyTorch, JAX, TensorFlow and NVIDIA's driver see; takes seconds.",
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Time large matrix products on PyTorch's device, and compare with its peaks.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print versions, the device with its peaks, and which PyTorch operators have a formula.

    A device of your own, or a better figure, goes into a TOML file in the form of
    computemeter/data/peaks.toml, which the environment variable COMPUTEMETER_PEAKS names.
    """
    from computemeter.commands.doctor import doctor

    _print(lambda: doctor(ops=ops, devices=devices, measure=measure, as_json=as_json))


def _print(command: Callable[[], str]) -> None:
    """Print what a command returns, or its error in one line, and exit with 1."""
    try:
        typer.echo(command())
    except CommandError as error:
        typer.echo(f"computemeter: {error}", err=True)
        raise typer.Exit(1) from None
