"""The command line: options, help and exit codes.

What a command does is in `computemeter.commands`, one module each, imported when it is called. The
options of what comes before a run, `estimate` and `plan`, are in `computemeter.cli_planning`; of
what is made of runs, `report`, `runs`, `push` and `trend`, in `computemeter.cli_runs`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from computemeter._version import __version__
from computemeter.cli_output import Json, print_result
from computemeter.cli_planning import estimate_command, plan_command
from computemeter.cli_runs import push_command, report_command, runs_command, trend_command

app = typer.Typer(
    name="computemeter",
    help="How much compute training runs used, by two methods, and whether they agree.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import it first: one of yours with operators or formulas; may be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print versions, the device with its peaks, and which PyTorch operators have a formula.

    A device of your own, or a better figure, goes into a TOML file in the form of
    computemeter/data/peaks.toml, which the environment variable COMPUTEMETER_PEAKS names.
    """
    from computemeter.commands.doctor import doctor

    print_result(
        lambda: doctor(
            ops=ops, devices=devices, measure=measure, modules=modules or (), as_json=as_json
        )
    )


app.command(
    "report",
    short_help="What a compute disclosure of a run or a model needs; a block for its model card.",
    epilog="Example: computemeter report checkpoints/last.ckpt --card",
)(report_command)
app.command(
    "runs",
    short_help="The runs of a tracker or folder, each with its compute by both methods.",
    epilog="Example: computemeter runs sqlite:///mlflow.db runs/compute_ledger",
)(runs_command)
app.command(
    "push",
    short_help="Send ledgers to a tracker that was down, or never there.",
    epilog="Example: computemeter push runs/compute_ledger --to http://localhost:5000",
)(push_command)
app.command(
    "trend",
    short_help="A team's runs over time: the fitted doubling time, on a page or in a picture.",
    epilog="Example: computemeter trend sqlite:///mlflow.db wandb://entity/project -o trend.html",
)(trend_command)
app.command(
    "estimate",
    short_help="A run's compute by hand: from its operations, its GPU time, or both.",
    epilog="Example: computemeter estimate --add-multiplies 750M --samples 1.2M --epochs 90 "
    "--peak '1.58 TFLOP/s' --devices 2 --time '5.5 days'",
)(estimate_command)
app.command(
    "plan",
    short_help="How long a training should take, over batch sizes and devices.",
    epilog="Example: computemeter plan --operations 7.72G --samples 1.28M --epochs 90 "
    "--batch '256 8192' --device A100 --count '1 8 64' --network ResNet-50 --plot plan.png",
)(plan_command)
