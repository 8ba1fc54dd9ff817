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


@app.command(
    "report",
    short_help="What a run's weights cost, as a block for its model card.",
    epilog="Example: computemeter report checkpoints/last.ckpt --card",
)
def report_command(
    path: Annotated[
        str,
        typer.Argument(help="A receipt, a checkpoint or folder with one, or a ledger."),
    ],
    *,
    card: Annotated[  # noqa: ARG001 - there is no other form yet
        bool, typer.Option("--card", help="A block of Markdown for a model card, the default.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the compute of a run: by both methods, spent and with its base model.

    It is read from the run's compute_receipt.json, else added up from its ledgers.
    """
    from computemeter.commands.report import report

    _print(lambda: report(path, as_json=as_json))


@app.command(
    "runs",
    short_help="The runs of a tracker or folder, each with its compute by both methods.",
    epilog="Example: computemeter runs sqlite:///mlflow.db runs/compute_ledger",
)
def runs_command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            show_default="./compute_ledger",
            help="A ledger, a receipt, a folder of ledgers or offline W&B runs, or a URI: "
            "sqlite:///FILE, postgresql://..., mysql://..., https://HOST (MLflow), "
            "wandb://ENTITY/PROJECT.",
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Print every run once, whatever sources tell of it, and what all of them spent.

    "run compute" is the work in a run's final weights, "spent" all it burned, also what a crash
    threw away; both methods and their ratio are over all that was spent.
    """
    from computemeter.commands.runs import runs

    _print(lambda: runs(sources or (), as_json=as_json, warn=_warn))


@app.command(
    "push",
    short_help="Send ledgers to a tracker that was down, or never there.",
    epilog="Example: computemeter push runs/compute_ledger --to http://localhost:5000",
)
def push_command(
    ledgers: Annotated[
        list[str], typer.Argument(metavar="LEDGER", help="A ledger, or a folder of them.")
    ],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="URI", help="sqlite:///FILE, https://HOST (MLflow), wandb://ENTITY/PROJECT, ..."
        ),
    ],
    run_id: Annotated[
        str | None,
        typer.Option(help="The tracker's run; else the ledger's own, or one that is made for it."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the tracker.")
    ] = 600,
) -> None:
    """Send every value of the ledgers, under its own step and time, and the tags of the run.

    It may be repeated: what the tracker has is not stored again. A user name and a password for
    the tracker go into the URI, or into the environment as it wants them.
    """
    from computemeter.commands.push import push

    _print(lambda: push(ledgers, to=to, run_id=run_id, timeout=timeout, say=typer.echo, warn=_warn))


def _warn(message: str) -> None:
    from computemeter.table import printable

    typer.echo(f"computemeter: {printable(message)}", err=True)


def _print(command: Callable[[], str]) -> None:
    """Print what a command returns, or its error in one line, and exit with 1."""
    try:
        typer.echo(command())
    except CommandError as error:
        typer.echo(f"computemeter: {error}", err=True)
        raise typer.Exit(1) from None
