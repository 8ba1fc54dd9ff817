"""A judgement of one run by hand-made numbers, which tests change.

The base case is one device with a peak of 1 TFLOP/s and 100 s of training: it could do 1e14 FLOP,
method 2 assumes 33 % of them = 3.3e13, and a model of 3.3e13 FLOP makes both methods equal. So a
run that counts f FLOP uses f / 1e14 of peak and has ratio 3.3e13 / f.
"""

import dataclasses

from computemeter.evidence import Evidence
from computemeter.reconcile import judge

BASE = Evidence(
    model_flops=33 * 10**12,
    gpu_time_flops=33 * 10**12,
    hardware_flops=33 * 10**12,
    device_seconds=100.0,
    training_seconds=100.0,
    busy_seconds=95.0,
    steps=1_000,
    peak_flops=1e12,
    assumed_utilization=0.33,
    uncounted_ops={},
    settled=True,
    settle_steps=50,
    settle_seconds=30.0,
    no_peak_reason="",
    warn_at=2.0,
    alarm_at=3.0,
    device_kind="cuda",
)


def judged(**changes):
    # Recomputation is the exception: hardware FLOPs follow the model's where a test says nothing.
    if "model_flops" in changes:
        changes.setdefault("hardware_flops", changes["model_flops"])
    return judge(dataclasses.replace(BASE, **changes))
