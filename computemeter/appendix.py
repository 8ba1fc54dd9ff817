"""The worked examples of "AI and compute" (OpenAI, 2018): eleven trend models, six modest ones.

They are the landmarks that a team's trend is drawn against, and the yardstick of both estimates:
`printed_*` is what the appendix says, `flops()` is what its own factors give.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

from computemeter.estimate import flops_from_gpu_time, flops_from_operations
from computemeter.units import SECONDS_PER_DAY


@dataclass(frozen=True, slots=True)
class PrintedFigure:
    """A total as the appendix prints it.

    Attributes:
        pfs_days: in petaflop/s-days.
        pf: in PF (1e15 operations); None where only petaflop/s-days are printed.
        is_upper_bound: true where the appendix says "less than" the figure.
    """

    pfs_days: float
    pf: float | None = None
    is_upper_bound: bool = False

    def __str__(self) -> str:
        return f"{'<' if self.is_upper_bound else ''}{self.pfs_days:g} pfs-days"


@dataclass(frozen=True, slots=True)
class OperationFactors:
    """The printed factors of method 1; see `computemeter.estimate.flops_from_operations`.

    Attributes:
        add_multiplies_per_pass: of one forward pass over one example.
        examples: in the training set; the appendix counts images, words, frames or timesteps.
        epochs: how often each was trained on.
        flops_per_add_multiply: 2 throughout.
        passes: cost of a training step in forward passes, 3 throughout.
    """

    add_multiplies_per_pass: float
    examples: float
    epochs: float
    flops_per_add_multiply: float
    passes: float

    def flops(self) -> int:
        """Return what the factors multiply to, in FLOP."""
        return flops_from_operations(
            self.add_multiplies_per_pass,
            self.examples,
            self.epochs,
            flops_per_add_multiply=self.flops_per_add_multiply,
            passes=self.passes,
        )


@dataclass(frozen=True, slots=True)
class GpuTimeFactors:
    """The printed factors of method 2; see `computemeter.estimate.flops_from_gpu_time`.

    Attributes:
        devices: how many trained at the same time.
        device: their name as printed.
        days: training time.
        peak_flops: of one device in FLOP/s, as printed (often at base clock).
        utilization: share of the peak assumed.
        extra_factor: anything else the example multiplies by.
    """

    devices: float
    device: str
    days: float
    peak_flops: float
    utilization: float
    extra_factor: float = 1.0

    def flops(self) -> int:
        """Return what the factors multiply to, in FLOP."""
        return flops_from_gpu_time(
            self.devices,
            self.days * SECONDS_PER_DAY,
            self.peak_flops,
            self.utilization,
            extra_factor=self.extra_factor,
        )


@dataclass(frozen=True, slots=True)
class AppendixEntry:
    """One model of the appendix.

    Attributes:
        name: as printed.
        paper_date: when the paper appeared.
        group: "trend" for the points of the trend, "modest" for results of modest compute.
        operations: factors of method 1, where they are printed.
        printed_operations: the figure printed for them.
        gpu_time: factors of method 2, where they are printed.
        printed_gpu_time: the figure printed for them.
        printed_total: the figure where neither method's factors are printed.
        note: where a figure does not follow from its factors, and other remarks.
    """

    name: str
    paper_date: date
    group: Literal["trend", "modest"]
    operations: OperationFactors | None = None
    printed_operations: PrintedFigure | None = None
    gpu_time: GpuTimeFactors | None = None
    printed_gpu_time: PrintedFigure | None = None
    printed_total: PrintedFigure | None = None
    note: str = ""

    @property
    def printed(self) -> PrintedFigure:
        """The one figure to plot: method 1 where it is printed, else method 2, else the total."""
        figure = self.printed_operations or self.printed_gpu_time or self.printed_total
        assert figure is not None, f"{self.name}: the appendix prints a figure for every model"
        return figure


@cache
def load_appendix() -> tuple[AppendixEntry, ...]:
    """Return the worked examples in the appendix's order; read once, at the first call.

    >>> alexnet = load_appendix()[0]
    >>> alexnet.name, alexnet.printed_operations.pf, alexnet.operations.flops()
    ('AlexNet', 470, 486000000000000000)
    >>> print(load_appendix()[-1].printed)
    <5.5e-06 pfs-days
    """
    text = files("computemeter").joinpath("data", "appendix_2018.toml").read_text("utf-8")
    return tuple(_entry(table) for table in tomllib.loads(text)["entry"])


def _entry(table: dict[str, Any]) -> AppendixEntry:
    operations, printed_operations = _method(OperationFactors, table.pop("operations", None))
    gpu_time, printed_gpu_time = _method(GpuTimeFactors, table.pop("gpu_time", None))
    total = table.pop("printed_total", None)
    return AppendixEntry(
        **table,
        operations=operations,
        printed_operations=printed_operations,
        gpu_time=gpu_time,
        printed_gpu_time=printed_gpu_time,
        printed_total=PrintedFigure(**total) if total else None,
    )


_Factors = TypeVar("_Factors", OperationFactors, GpuTimeFactors)


def _method(
    kind: type[_Factors], table: dict[str, Any] | None
) -> tuple[_Factors | None, PrintedFigure | None]:
    if table is None:
        return None, None
    printed = PrintedFigure(**table.pop("printed"))
    return kind(**table), printed
