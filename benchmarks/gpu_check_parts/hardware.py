"""Counted FLOPs against the GPU's own counters, read by NVIDIA's `ncu`.

python -m benchmarks.gpu_check_parts.hardware net    # what runs under ncu
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.gpu_check_parts.results import (
    Check,
    Expected,
    NotAvailableError,
    Result,
    Setting,
    Verdict,
    counted,
)

_ROOT = Path(__file__).parents[2]
_SECONDS = 90
_NEARNESS = 0.05

# Operations on the tensor cores by operand and result: "# of math ops executed in Tensor path"
# (ncu --query-metrics), whose peak per cycle is what the peaks in FLOP/s are made of. "_sparsity_"
# splits the same operations once more.
_TENSOR = re.compile(r"sm__ops_path_tensor_src_(?!int)(?!\w*sparsity)(fp64|\w+_dst_\w+)")

# Instructions per thread on the other cores; a fused multiply-add is 2 FLOPs.
_THREAD = {
    f"smsp__sass_thread_inst_executed_op_{kind}{op}_pred_on": flops
    for kind in "hfd"
    for op, flops in (("add", 1), ("mul", 1), ("fma", 2))
}

_STEPS_OF_ONE = 2 * 2048 * 2048 * 2048
# 2,048 rows through 1024 -> 4096 -> 1024: two products forward, three backward.
_STEPS_OF_NET = 5 * (2 * 2048 * 1024 * 4096)


def against_counters(what: str, by_hand: int, name: str, setting: Setting) -> Sequence[Result]:
    """Compare what was counted of a step with what the GPU counted of it, within 5 %."""
    setting.need_cuda("a hardware counter")
    count = counted(STEPS[what]())
    if Expected(by_hand).judge(count) != "ok" or count is None:
        raise RuntimeError(f"the step was not counted as by hand ({by_hand:,}): {count}")
    tensor, other = _measure(what)
    near = abs(tensor + other - count.model_flops) <= _NEARNESS * count.model_flops
    verdict: Verdict = "ok" if near else "differs"
    got = f"{tensor + other:,.0f} FLOP ({(tensor + other) / count.model_flops:.3f}x)"
    detail = f"{tensor:,.0f} on tensor cores, {other:,.0f} beside them (pointwise work too)"
    return [Result(name, f"{count.model_flops:,} FLOP +- 5 %", got, verdict, detail)]


def _measure(what: str) -> tuple[float, float]:
    """Return the FLOPs of a step on the tensor cores and beside them."""
    ncu = shutil.which("ncu")
    if ncu is None:
        raise NotAvailableError("ncu (NVIDIA Nsight Compute) is not installed")
    tensor = tensor_metrics(_run([ncu, "--query-metrics"]))
    if not tensor:
        raise NotAvailableError("ncu has no counter of operations on this GPU's tensor cores")
    metrics = ",".join(f"{metric}.sum" for metric in (*tensor, *_THREAD))
    options = ["--csv", "--print-units", "base", "--profile-from-start", "off"]
    child = [sys.executable, "-m", "benchmarks.gpu_check_parts.hardware", what]
    sums = sums_of(_run([ncu, *options, "--metrics", metrics, *child]))
    if not sums:
        raise NotAvailableError("ncu saw no kernel")
    on_tensor_cores = sum(sums.get(f"{metric}.sum", 0.0) for metric in tensor)
    return on_tensor_cores, sum(n * sums.get(f"{metric}.sum", 0.0) for metric, n in _THREAD.items())


def _run(command: Sequence[str]) -> str:
    paths = [str(_ROOT), str(_ROOT / "integrations"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env=environment,
            cwd=_ROOT,
        )
    except subprocess.TimeoutExpired as error:
        raise NotAvailableError(f"ncu took more than {_SECONDS} s") from error
    said = run.stdout + run.stderr
    if run.returncode or "==ERROR==" in said:
        raise NotAvailableError(_complaint(said) or f"ncu ended with {run.returncode}")
    return run.stdout


def _complaint(said: str) -> str:
    if "ERR_NVGPUCTRPERM" in said:
        return "this user may not read the GPU's counters (ERR_NVGPUCTRPERM)"
    return next((line for line in said.splitlines() if "==ERROR==" in line), "")


def tensor_metrics(listing: str) -> list[str]:
    """Return the metrics of `ncu --query-metrics` that count operations on tensor cores."""
    names = (line.split(maxsplit=1)[0] for line in listing.splitlines() if line.strip())
    return sorted({name for name in names if _TENSOR.fullmatch(name)})


def sums_of(output: str) -> dict[str, float]:
    """Add each metric of `ncu --csv` up over all kernels; other lines are ncu's own words."""
    lines = [line for line in output.splitlines() if line.startswith('"')]
    sums: dict[str, float] = {}
    for row in csv.DictReader(lines):
        value = row["Metric Value"].replace(",", "")
        sums[row["Metric Name"]] = sums.get(row["Metric Name"], 0.0) + float(value)
    return sums


def _product() -> Callable[[], object]:
    left, right = (_random(2048, 2048) for _ in range(2))
    return lambda: left @ right


def _small_net() -> Callable[[], object]:
    net = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024))
    net = net.to("cuda", torch.bfloat16)
    x = _random(2048, 1024)

    def step() -> None:
        net(x).square().mean().backward()

    return step


def _random(*sizes: int) -> Tensor:
    return torch.randn(*sizes, device="cuda", dtype=torch.bfloat16)


STEPS: Mapping[str, Callable[[], Callable[[], object]]] = {"product": _product, "net": _small_net}

HARDWARE: Mapping[str, Check] = {
    # Its FLOPs are beyond doubt: this one says whether the counters mean what is assumed above.
    "hardware counters, one product": partial(against_counters, "product", _STEPS_OF_ONE),
    "hardware counters, small net": partial(against_counters, "net", _STEPS_OF_NET),
}


def main() -> None:
    """Run one step between the marks that `ncu --profile-from-start off` waits for."""
    step = STEPS[sys.argv[1]]()
    step()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
    step()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
