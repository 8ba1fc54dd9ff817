"""`computemeter plan`: how long a training should take, over batch sizes and devices."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from computemeter.commands import CommandError
from computemeter.planning.plan import Plan
from computemeter.planning.plan import plan as make_plan
from computemeter.planning.plan_table import render
from computemeter.planning.quantities import number, share
from computemeter.sinks import describe
from computemeter.table import printable

_Read = TypeVar("_Read")
_INSTALL = "pip install 'computemeter[trend]'"
_WAYS = "--operations, --add-multiplies, --flops-per-sample, or --parameters with --tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options, as they were typed; see `computemeter.plan` for what they mean.

    Attributes:
        batch: batch sizes, each text one or several with commas between them.
        device: names or peaks, one in each text.
        count: of devices, as the batch sizes.
        plot: file for a picture.
    """

    batch: Sequence[str]
    device: Sequence[str]
    count: Sequence[str] = ("1",)
    samples: str | None = None
    epochs: str = "1"
    operations: str | None = None
    add_multiplies: str | None = None
    flops_per_sample: str | None = None
    passes: str | None = None
    parameters: str | None = None
    tokens: str | None = None
    utilization: str | None = None
    learning_rate: str | None = None
    base_batch: str | None = None
    network: str | None = None
    plot: str | None = None


def plan(wishes: Wishes, *, as_json: bool = False) -> str:
    """Return the plan as text, and draw it if asked to.

    Args:
        wishes: the options.
        as_json: the same as JSON, with a row for every batch size on every number of devices.

    Raises:
        CommandError: something is missing, is no such quantity, or is absurd; the picture cannot
            be written, or the library that draws is not installed.
    """
    _check_plot(wishes.plot)
    try:
        made = _plan(wishes)
    except ValueError as error:
        raise CommandError(printable(str(error))) from None
    _draw(made, wishes.plot)
    if as_json:
        return json.dumps(made.to_dict(), indent=2)
    written = f"\n\nwritten: {printable(wishes.plot)}" if wishes.plot else ""
    return render(made, _columns()) + written


def _plan(wishes: Wishes) -> Plan:
    # Said here in the words of the command; the rest is said the same in both.
    figures = (wishes.operations, wishes.add_multiplies, wishes.flops_per_sample, wishes.parameters)
    if sum(each is not None for each in figures) != 1:
        raise ValueError(f"give the operations in one way: {_WAYS}")
    if wishes.samples is None and wishes.tokens is None:
        raise ValueError("--samples is missing: how many the training set has")
    if wishes.passes is not None and wishes.flops_per_sample is not None:
        raise ValueError("--flops-per-sample is of all passes: leave --passes out")
    return make_plan(
        examples=_read(wishes, "samples"),
        epochs=_read(wishes, "epochs") or 1,
        flops_per_example=_read(wishes, "flops_per_sample"),
        operations_per_pass=_read(wishes, "operations"),
        add_multiplies_per_pass=_read(wishes, "add_multiplies"),
        passes=_read(wishes, "passes"),
        parameters=_read(wishes, "parameters"),
        tokens=_read(wishes, "tokens"),
        batch_sizes=_several("batch", wishes.batch),
        devices=wishes.device,
        counts=_several("count", wishes.count),
        utilization=(
            None if wishes.utilization is None else _named("utilization", wishes.utilization, share)
        ),
        learning_rate=_read(wishes, "learning_rate"),
        base_batch=_read(wishes, "base_batch"),
        network=wishes.network,
    )


def _read(wishes: Wishes, name: str) -> int | float | None:
    text = getattr(wishes, name)
    return None if text is None else _named(name, text, number)


def _several(name: str, texts: Sequence[str]) -> list[int | float]:
    parts = [part for text in texts for part in text.split()]
    for part in parts:
        if "," in part:  # 256,512: two numbers, or one?
            raise ValueError(
                f'--{name}: "{part}" may be one number or several: write --{name} 256 --{name} '
                f'1024, or --{name} "256 1024"'
            )
    if not parts:
        raise ValueError(f"--{name} is empty: give one number or several")
    return [_named(name, part, number) for part in parts]


def _named(name: str, text: str, how: Callable[[str], _Read]) -> _Read:
    try:
        return how(text)
    except ValueError as error:
        raise ValueError(f"--{name.replace('_', '-')}: {error}") from None


def _check_plot(name: str | None) -> None:
    """Say what is wrong with the picture before anything is reckoned."""
    if name is None:
        return
    if Path(name).suffix.lower() not in {".png", ".svg"}:
        raise CommandError(f"--plot {printable(name)}: accepted is a .png or .svg file")
    if not Path(name).absolute().parent.is_dir():
        raise CommandError(f"--plot {printable(name)}: there is no such folder")
    if find_spec("matplotlib") is None:
        raise CommandError(f"matplotlib is not installed: {_INSTALL}")


def _draw(made: Plan, name: str | None) -> None:
    if name is None:
        return
    from computemeter.planning.plan_plot import plot

    try:
        Path(name).write_bytes(plot(made, "svg" if name.lower().endswith("svg") else "png"))
    except OSError as error:
        raise CommandError(f"{printable(name)}: {error.strerror or describe(error)}") from None


def _columns() -> int | None:
    """Return the columns of the terminal; None for a file or a pipe, which has room for all."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
