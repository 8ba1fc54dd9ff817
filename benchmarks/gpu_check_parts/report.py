"""The report of all checks: JSON and a page."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check_parts.results import Result, Setting
from computemeter import __version__
from computemeter.devices import torch_device

_READING = """\
"ok": as expected. "differs": it is not, which is a defect, of the meter or of an assumption.
"unknown": the meter (or NVML) says itself that it does not know; never a wrong number. "not
available": this machine cannot do what the check is about. FLOPs are compared exactly, with the
number derived by hand in the check.
"""


def environment(setting: Setting | None) -> Mapping[str, str]:
    """Return what the results depend on.

    Args:
        setting: None where nothing was measured.
    """
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "computemeter": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": _version("lightning"),
        "transformers": _version("transformers"),
    }
    if setting is None:
        return facts
    device = torch_device(setting.device)
    found = {"device": device.name, "peaks": device.source}
    if setting.cuda:
        cudnn: Any = torch.backends.cudnn  # not annotated
        found["driver"] = _driver()
        found["CUDA"] = torch.version.cuda or torch.version.hip or "unknown"
        found["cuDNN"] = str(cudnn.version() or "none")
    return found | facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return "unknown"
    command = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return run.stdout.strip().partition("\n")[0] or "unknown"


def summary(results: Sequence[Result]) -> str:
    """Return how many checks have which verdict, in one line."""
    counts = Counter(result.verdict for result in results)
    return ", ".join(f"{times} {verdict}" for verdict, times in counts.most_common())


def as_markdown(facts: Mapping[str, str], results: Sequence[Result]) -> str:
    """Return the page."""
    what = "; ".join(f"{name} {value}" for name, value in facts.items())
    measured = "device" in facts
    headline = f"Written by `benchmarks/gpu_check.py`: {what}."
    if not measured:
        headline = f"Not measured: there was no CUDA device. {headline}"
    rows = [
        ("check", "expected", "got", "", ""),
        ("---",) * 5,
        *((r.name, r.expected, r.got, r.verdict, r.detail) for r in results),
    ]
    table = "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)
    parts = ["# What holds on a GPU", headline, _READING.strip(), f"{summary(results)}.", table]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def is_measured(folder: Path) -> bool:
    """Say whether the results in a folder come from a device."""
    try:
        record = json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))
        return "device" in record["environment"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(folder: Path, facts: Mapping[str, str], results: Sequence[Result]) -> None:
    """Write `gpu_check.json` and `gpu_check.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"environment": dict(facts), "results": [asdict(result) for result in results]}
    (folder / "gpu_check.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu_check.md").write_text(as_markdown(facts, results), encoding="utf-8")
