"""Check on a CUDA device what cannot be checked without one.

    python benchmarks/gpu_check.py                   # all of it, in some minutes
    python benchmarks/gpu_check.py --only attention  # the checks with that in their name
    python benchmarks/gpu_check.py --device cpu      # a rehearsal: does the script work

Device time against wall time; kernels that GPUs alone have, compiled nets and CUDA graphs against
FLOPs derived by hand; matrix products against the table of peaks; what the meter costs a training
of GPT-2's size; counted FLOPs against the GPU's own counters (`ncu`); NVML's tensor activity.

A whole run on a CUDA device writes `benchmarks/results/gpu_check.{md,json}`, and without one the
page that says "not measured", unless a measured one is there. A part or a rehearsal writes where
`--out` says, or nothing. Needs torch, lightning and transformers. Ends with 1 where a check
differs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# As a script, Python looks for modules beside this file only.
sys.path[:0] = [str(ROOT), str(ROOT / "integrations")]

if TYPE_CHECKING:
    from benchmarks.gpu_check_parts.results import Check, Result, Setting

_BUDGET_SECONDS = 420.0


def all_checks() -> Mapping[str, Check]:
    """Return the checks by name, in the order in which they run: what may take long comes last."""
    from benchmarks.gpu_check_parts.compiled import AUTOTUNED, COMPILED
    from benchmarks.gpu_check_parts.counting import COUNTING
    from benchmarks.gpu_check_parts.gpt2 import GPT2
    from benchmarks.gpu_check_parts.hardware import HARDWARE
    from benchmarks.gpu_check_parts.timing import EVENTS, PRODUCTS

    return {**EVENTS, **COUNTING, **GPT2, **PRODUCTS, **COMPILED, **HARDWARE, **AUTOTUNED}


def run_all(checks: Mapping[str, Check], setting: Setting, budget: float) -> list[Result]:
    """Run checks one after the other.

    Args:
        checks: by name.
        setting: where they run.
        budget: seconds after which no further check begins.
    """
    results: list[Result] = []
    began = time.monotonic()
    for name, check in checks.items():
        in_time = time.monotonic() - began < budget
        found = run_one(name, check, setting) if in_time else [_too_late(name, budget)]
        for result in found:
            print(f"{result.verdict:>13}  {result.name}", file=sys.stderr, flush=True)
        results += found
        _clean_up(setting)
    return results


def run_one(name: str, check: Check, setting: Setting) -> Sequence[Result]:
    """Run a check; what goes wrong in it is its result."""
    from benchmarks.gpu_check_parts.results import NotAvailableError, Result

    try:
        return check(name, setting)
    except NotAvailableError as error:
        return [Result(name, "", "", "not available", str(error))]
    except Exception as error:  # noqa: BLE001 - one check must not end the others
        return [Result(name, "", "", "unknown", f"{type(error).__name__}: {error}")]


def _too_late(name: str, budget: float) -> Result:
    from benchmarks.gpu_check_parts.results import Result

    return Result(name, "", "", "not available", f"not begun within {budget:g} s")


def _clean_up(setting: Setting) -> None:
    import torch

    gc.collect()
    if setting.cuda:
        torch.cuda.empty_cache()


def not_measured(checks: Mapping[str, Check]) -> list[Result]:
    """Return the results where there is no GPU."""
    from benchmarks.gpu_check_parts.results import Result

    return [Result(name, "", "", "not measured") for name in checks]


def chosen(checks: Mapping[str, Check], only: str | None) -> Mapping[str, Check]:
    """Return the checks that have a text in their name.

    Raises:
        ValueError: there is none.
    """
    found = {name: check for name, check in checks.items() if only is None or only in name}
    if not found:
        raise ValueError(f"--only {only!r} is in no check's name; these are: {'; '.join(checks)}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    given = _parser().parse_args(arguments)
    import torch

    from benchmarks.gpu_check_parts import report
    from benchmarks.gpu_check_parts.results import Setting

    try:
        checks = chosen(all_checks(), given.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    whole = given.device == "cuda" and given.only is None and not given.quick
    folder = given.out or (RESULTS if whole else None)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        # What a GPU has shown stays; a machine without one has nothing to say about it.
        if folder is not None and not report.is_measured(folder):
            report.write(folder, report.environment(None), not_measured(checks))
        return 0
    setting = Setting(torch.device(given.device), given.quick)
    warnings.simplefilter("ignore")
    results = run_all(checks, setting, given.seconds)
    facts = report.environment(setting)
    print(report.as_markdown(facts, results))
    if folder is not None:
        report.write(folder, facts, results)
    return int(any(result.verdict == "differs" for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", metavar="TEXT", help="only the checks with this in their name")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the results there")
    parser.add_argument(
        "--seconds",
        type=float,
        default=_BUDGET_SECONDS,
        help=f"begin no check after this time (default: {_BUDGET_SECONDS:g})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
