"""The worked examples of the sources, worked out again: what is printed, and what follows.

The appendix of "AI and compute" (`computemeter.appendix`), and ResNet-50 of You et al., "ImageNet
Training in Minutes", 2017 (arXiv:1709.05011).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from computemeter.appendix import (
    AppendixEntry,
    GpuTimeFactors,
    OperationFactors,
    PrintedFigure,
    load_appendix,
)
from computemeter.planning.factors import Method
from computemeter.planning.machine import Machine
from computemeter.planning.worked import Estimate, by_gpu_time, by_operations, compare
from computemeter.units import PF, SECONDS_PER_DAY

FOLLOWS_WITHIN = 0.05
"""How far a printed figure may be from its factors and still follow: most have two digits."""

RESNET_50_MACHINE = Machine(200e15, utilization=1)
"""The machine of the second source, taken at its peak."""


@dataclass(frozen=True, slots=True)
class Printed:
    """One printed figure beside its factors.

    Attributes:
        method: the factors worked out; None where none are printed.
        figure: as printed.
    """

    method: Method | None
    figure: PrintedFigure

    @property
    def shares(self) -> tuple[float, ...]:
        """What is printed over what the factors give, in PF and in pfs-days; empty without any."""
        if self.method is None:
            return ()
        days = self.figure.pfs_days / self.method.pfs_days
        pf = self.figure.pf
        return (days,) if pf is None else (pf * PF / self.method.flops, days)

    @property
    def follows(self) -> bool | None:
        """Whether it follows from its factors; None where none are printed."""
        return all(abs(each - 1) <= FOLLOWS_WITHIN for each in self.shares) if self.shares else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for `json.dumps`."""
        return {
            "recomputed": self.method and self.method.to_dict(),
            "printed_pf": self.figure.pf,
            "printed_pfs_days": self.figure.pfs_days,
            "is_upper_bound": self.figure.is_upper_bound,
            "printed_over_recomputed": list(self.shares),
            "follows": self.follows,
        }


@dataclass(frozen=True, slots=True)
class Published:
    """One result of the appendix, worked out again.

    Attributes:
        entry: as printed.
        operations: method 1; None where it is not printed.
        gpu_time: method 2; None where it is not printed.
        total: the figure where neither method's factors are printed.
    """

    entry: AppendixEntry
    operations: Printed | None
    gpu_time: Printed | None
    total: Printed | None

    @property
    def estimate(self) -> Estimate | None:
        """Both methods by their factors, set against each other; None unless both are printed."""
        if self.operations is None or self.gpu_time is None:
            return None
        return compare(self.operations.method, self.gpu_time.method)

    @property
    def printed_ratio(self) -> float | None:
        """Method 2 / method 1 of the printed pfs-days; None unless both are printed."""
        one, two = self.entry.printed_operations, self.entry.printed_gpu_time
        return two.pfs_days / one.pfs_days if one and two else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for `json.dumps`."""
        found = self.estimate
        return {
            "name": self.entry.name,
            "group": self.entry.group,
            "operations": self.operations and self.operations.to_dict(),
            "gpu_time": self.gpu_time and self.gpu_time.to_dict(),
            "total": self.total and self.total.to_dict(),
            "ratio": found and found.ratio,
            "printed_ratio": self.printed_ratio,
            "verdict": found.verdict if found else "unknown",
            "note": self.entry.note,
        }


def appendix_again() -> tuple[Published, ...]:
    """Return the 17 results of the appendix, in its order."""
    return tuple(_published(entry) for entry in load_appendix())


def resnet_50(*, passes: float = 1) -> Method:
    """Return the second source's ResNet-50; with 1 pass as printed, with 3 as training costs.

    7.72e9 operations, adds and multiplies both counted, for one image; 90 epochs of 1.28 million.
    """
    return by_operations(7.72e9, 1.28e6, 90, flops_per_add_multiply=1, passes=passes)


def _published(entry: AppendixEntry) -> Published:
    one, two, total = entry.printed_operations, entry.printed_gpu_time, entry.printed_total
    return Published(
        entry,
        Printed(_operations(entry.operations), one) if entry.operations and one else None,
        Printed(_gpu_time(entry.gpu_time), two) if entry.gpu_time and two else None,
        Printed(None, total) if total else None,
    )


def _operations(factors: OperationFactors) -> Method:
    return by_operations(
        factors.add_multiplies_per_pass,
        factors.examples,
        factors.epochs,
        flops_per_add_multiply=factors.flops_per_add_multiply,
        passes=factors.passes,
    )


def _gpu_time(factors: GpuTimeFactors) -> Method:
    machine = Machine(factors.peak_flops, factors.devices, factors.utilization, factors.device)
    days = factors.days * SECONDS_PER_DAY
    return by_gpu_time(machine, days, extra_factor=factors.extra_factor)
