"""Ledgers written by hand, for the tests that read them."""

from computemeter.ledger import LedgerHeader
from computemeter.ledger_writer import LedgerWriter


def header(segment="seg-1", run="run-1", **fields):
    return LedgerHeader(**{"segment": segment, "run": run, "started": 1000.0, **fields})


def totals(**changes):
    values = {
        "steps": 10,
        "model_flops": 10**15,
        "hardware_flops": 10**15,
        "gpu_time_flops": 2 * 10**15,
        "training_seconds": 5.0,
        "busy_seconds": None,
        "device_seconds": 10.0,
        "run_flops": 10**15,
        "spent_flops": 10**15,
        "lineage_flops": None,
        "verdict": "warn",
        "cause": "low_utilization",
        "mfu": None,
    }
    return {**values, **changes}


def write(folder, head, *progress, status=None):
    with LedgerWriter.open(folder, head) as writer:
        for step, values in enumerate(progress):
            writer.progress(step, head.started + step, values, {})
        if status:
            writer.end(status, head.started + 100, {})
    return writer.path
