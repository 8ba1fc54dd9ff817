"""Checks a command that a page shows: program, options, extras, targets; and runs ours."""

import os
import subprocess
import tomllib
from importlib import import_module

import click
import typer
from documents import ROOT, Command, DocumentError
from packaging.requirements import Requirement
from typer.exceptions import TyperException
from typer.testing import CliRunner

from computemeter.cli import app

OURS = typer.main.get_command(app)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
THEIRS = {"mlflow": "mlflow.cli:cli", "wandb": "wandb.cli.cli:cli"}
"""Where other programs keep their command line."""
SCRIPTS = {"train.py"}
"""What pages call a script of the user's."""


def check(command: Command, *, named: bool = False):
    """See whether a command would be understood: by the program's own command line.

    Args:
        command: what to check.
        named: whether it is named in a sentence: only what is named has to be there, not what
            the command lacks.

    Raises:
        DocumentError: it would not; says where it is and why.
    """
    program, arguments = command.program, command.arguments
    if program in {"computemeter", *THEIRS}:
        known = OURS if program == "computemeter" else _theirs(program)
        (_options_exist if named else _parse)(known, command, arguments)
    elif program == "pip":
        _extras_exist(command, arguments)
    elif program == "make":
        _targets_exist(command, arguments)
    elif program in {"python", "torchrun"}:
        _file_exists(command, arguments)


def _theirs(program):
    module, _, name = THEIRS[program].partition(":")
    return getattr(import_module(module), name)


def _command(known, command, arguments):
    """Go down to the command that is meant; return it with the arguments that are its own."""
    while arguments and hasattr(known, "commands") and not arguments[0].startswith("-"):
        found = known.get_command(None, arguments[0])  # knows aliases, too: `mlflow ui`
        if found is None:
            raise DocumentError(f"{command.place}: no such command: {arguments[0]}")
        known, arguments = found, arguments[1:]
    return known, arguments


def _parse(known, command, arguments):
    known, arguments = _command(known, command, list(arguments))
    if hasattr(known, "commands"):
        _options_exist(known, command, arguments)
        return
    try:
        known.make_context(command.text, arguments)
    except (TyperException, click.ClickException) as error:
        raise DocumentError(f"{command.place}: {error.format_message()}") from None


def _options_exist(known, command, arguments):
    known, arguments = _command(known, command, list(arguments))
    options = options_of(known)
    for word in arguments:
        if word.startswith("-") and word.partition("=")[0] not in options:
            raise DocumentError(f"{command.place}: no such option: {word}")


def options_of(known):
    """Return all options of a command, "--help" included."""
    own = (option for each in known.params for option in (*each.opts, *each.secondary_opts))
    return {"--help", "-h", *own}


def _extras_exist(command, words):
    for word in words:
        if not word.startswith("computemeter"):
            continue
        if missing := Requirement(word).extras - set(EXTRAS):
            raise DocumentError(f"{command.place}: no such extra: {', '.join(sorted(missing))}")


def _targets_exist(command, words):
    targets = [word for word in words if "=" not in word and not word.startswith("-")]
    # `make test` runs this too, and hands its own flags on.
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    asked = subprocess.run(
        ["make", "--dry-run", *targets],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=own | {"LC_ALL": "C"},
    )
    if asked.returncode:
        raise DocumentError(f"{command.place}: {asked.stderr.strip()}")


def _file_exists(command, words):
    script = next((word for word in words if word.endswith(".py")), None)
    if script and script not in SCRIPTS and not (ROOT / script).is_file():
        raise DocumentError(f"{command.place}: no such file: {script}")


def run_ours(command):
    """Run a command of ours, here.

    Raises:
        DocumentError: it fails, where its page shows no error; or what the page shows beneath it
            is not in what it prints.
    """
    refused = any(line.startswith("computemeter: ") for line in command.shown)
    answer = CliRunner().invoke(app, command.arguments)
    if answer.exit_code != int(refused):
        raise DocumentError(f"{command.place}: {command.text}: {answer.output}{answer.exception!r}")
    printed = {" ".join(line.split()) for line in answer.output.splitlines()}
    for line in command.shown:
        if " ".join(line.split()) not in printed:
            raise DocumentError(f"{command.place}: it does not print: {line}")
