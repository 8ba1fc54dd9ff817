"""A receipt, a ledger, and `computemeter report` called on what there is."""

from typer.testing import CliRunner

from computemeter.cli import app
from computemeter.ledger import LedgerHeader
from computemeter.ledger_writer import LedgerWriter
from computemeter.receipt import ComputeReceipt

VALUES = {
    "created": 1773480720.0,  # 2026-03-14, 09:32 UTC
    "run": "8c2b",
    "segments": ("a", "b"),
    "name": "small",
    "status": "finished",
    "steps": 1500,
    "run_flops": 864 * 10**17,
    "spent_flops": 1296 * 10**17,
    "lineage_flops": 1728 * 10**17,
    "model_flops": 1296 * 10**17,
    "gpu_time_flops": 2592 * 10**17,
    "ratio": 2.0,
    "verdict": "warn",
    "cause": "low_utilization",
    "diagnosis": "the methods differ 2x",
    "device_hours": 4.5,
    "device_name": "NVIDIA H100 80GB HBM3",
    "device_count": 8,
    "peak_flops": 989.4e12,
    "assumed_utilization": 0.33,
    "precision": "bf16",
    "uncounted_ops": {"aten::mv": 20},
    "base_model": "llama",
    "base_flops": 864 * 10**17,
    "parents": ("sha256:ab",),
    "project": "speech",
    "energy_joules": 1.134e8,
    "version": "0.1.0",
}
TOTALS = {
    "steps": 10,
    "model_flops": 100,
    "gpu_time_flops": 300,
    "training_seconds": 1800.0,
    "device_seconds": 3600.0,
    "run_flops": 100,
    "spent_flops": 100,
    "lineage_flops": 100,
    "verdict": "alarm",
    "cause": "count_suspect",
    "mfu": 0.1,
    "peak_flops": 1e12,
    "assumed_utilization": 0.5,
}


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)], prog_name="computemeter")


def receipt(**changes):
    return ComputeReceipt(**{**VALUES, **changes})


def write_ledger(folder, segment, *, run="r", ended=True, header=None, metrics=None, **totals):
    """Write a segment with one progress record."""
    facts = {"device_name": "Z9", "device_count": 2, "name": "small", **(header or {})}
    writer = LedgerWriter.open(folder, LedgerHeader(segment=segment, run=run, started=1.0, **facts))
    with writer:
        writer.event("verdict", 2.0, verdict="alarm", cause="count_suspect", diagnosis="3x apart")
        writer.progress(10, 5.0, {**TOTALS, **totals}, metrics or {})
        if ended:
            writer.end("finished", 6.0, {"precision": "bf16", "uncounted_ops": {"aten::mv": 2}})
    return writer.path


def refused(*arguments):
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("computemeter: ")
    assert result.stderr.count("\n") == 1
    return result.stderr
