"""computemeter: how much compute a training run used, by two methods, and whether they agree.

    from computemeter.lightning import ComputeMeter  # for a Lightning Trainer
    from computemeter import Meter                   # for any PyTorch loop

Importing this package imports no framework and no tracker.
"""

from typing import TYPE_CHECKING, Any

from computemeter._version import __version__

if TYPE_CHECKING:
    from computemeter.counters.registry import register_formula
    from computemeter.estimate import (
        flops_from_gpu_time,
        flops_from_operations,
        flops_from_parameters,
    )
    from computemeter.history import interrupted_run
    from computemeter.meter import Meter
    from computemeter.planning.plan import plan
    from computemeter.records import Count, Device, Judgement, RunRecord, Snapshot, Summary
    from computemeter.units import PF, PFS_DAY, pfs_days

_HOMES = {
    "Count": "records",
    "Device": "records",
    "Judgement": "records",
    "Meter": "meter",
    "PF": "units",
    "PFS_DAY": "units",
    "RunRecord": "records",
    "Snapshot": "records",
    "Summary": "records",
    "flops_from_gpu_time": "estimate",
    "flops_from_operations": "estimate",
    "flops_from_parameters": "estimate",
    "interrupted_run": "history",
    "pfs_days": "units",
    "plan": "planning.plan",
    "register_formula": "counters.registry",
}

__all__ = [
    "PF",
    "PFS_DAY",
    "Count",
    "Device",
    "Judgement",
    "Meter",
    "RunRecord",
    "Snapshot",
    "Summary",
    "__version__",
    "flops_from_gpu_time",
    "flops_from_operations",
    "flops_from_parameters",
    "interrupted_run",
    "pfs_days",
    "plan",
    "register_formula",
]


def __getattr__(name: str) -> Any:
    """Import a public name where it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"computemeter.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
