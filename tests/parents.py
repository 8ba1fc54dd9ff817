"""What a run starts from, written by hand: receipts, and checkpoints as Lightning writes them."""

import torch

from computemeter.receipt import ComputeReceipt, write_receipt


def parent(folder, **changes):
    """Write the receipt of a run that did 30 of the 70 FLOP of its lineage."""
    values = {
        "run": "8c2b",
        "segments": ("20260314T0926Z-1f0e",),
        "name": "small",
        "status": "finished",
        "steps": 3,
        "run_flops": 30,
        "spent_flops": 40,
        "lineage_flops": 70,
        "model_flops": 40,
        "gpu_time_flops": None,
        "ratio": None,
        "verdict": "unknown",
        "cause": "no_peak",
        "diagnosis": "",
        "device_hours": 0.5,
        "device_name": None,
        "device_count": 1,
        "peak_flops": None,
        "assumed_utilization": None,
        "precision": None,
    }
    receipt = ComputeReceipt(**{**values, **changes})
    return write_receipt(folder, receipt), receipt


def checkpoint(path, run, *, content=None, **state):
    """Write what Lightning does; without a run no meter was attached.

    Args:
        path: a file.
        run: the id of the run whose weights they are.
        content: beside the weights and the callbacks' states.
        state: the meter's, beside the run.
    """
    callbacks = {"computemeter": {"schema": 1, "run": run, "segments": {}, **state}} if run else {}
    path.parent.mkdir(exist_ok=True)
    weights = {"state_dict": {"w": torch.ones(9)}, "callbacks": callbacks}
    torch.save({**weights, **(content or {})}, path)
    return path
