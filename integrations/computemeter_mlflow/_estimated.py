"""What MLflow knows of the devices of a run that no meter watched.

System metrics tell how many GPUs each of its machines had, and no name. A name is taken from a tag
or a parameter of the usual names, where it is that of a device with a peak.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from computemeter.trend.estimated import Hardware, is_device, stated_precision

if TYPE_CHECKING:
    from computemeter_mlflow._stored import StoredRun

GPU_METRICS = "system/%gpu_%utilization_percentage"
"""The metrics that count GPUs, as SQL writes a pattern."""

DEVICE_KEYS = (
    "gpu",
    "gpu_name",
    "gpu_type",
    "gpus",
    "device",
    "device_name",
    "accelerator",
    "hardware",
)
COUNT_KEYS = ("gpu_count", "num_gpus", "n_gpus", "num_devices", "world_size")
PRECISION_KEYS = ("precision", "mixed_precision", "dtype", "bf16", "fp16")
KEYS = (*DEVICE_KEYS, *COUNT_KEYS, *PRECISION_KEYS)

_GPU = re.compile(r"system/(?:(?P<machine>.*)/)?gpu_(?P<index>\d+)_utilization_percentage")
_COUNTED = re.compile(r"\s*(?:(?P<count>\d{1,6})\s*[xX*]\s*)?(?P<name>.+?)\s*")


def hardware(run: StoredRun) -> Hardware:
    """Return the devices and the precision of a run, as far as it tells."""
    facts = {**run.params, **run.tags}
    name, count = _device(facts)
    return Hardware(name, count or _stated_count(facts) or _gpus(run.metrics), _precision(facts))


def _device(facts: Mapping[str, str]) -> tuple[str | None, int | None]:
    for text in _texts(facts, DEVICE_KEYS):
        parts = _COUNTED.fullmatch(text[:200])
        if parts and is_device(parts["name"]):
            return parts["name"], int(parts["count"] or 0) or None
    return None, None


def _stated_count(facts: Mapping[str, str]) -> int | None:
    counts = (text for text in _texts(facts, COUNT_KEYS) if re.fullmatch(r"[1-9]\d{0,5}", text))
    return next(map(int, counts), None)


def _gpus(metrics: Mapping[str, float]) -> int | None:
    found = {parts.groups() for name in metrics if (parts := _GPU.fullmatch(name))}
    return len(found) or None


def _precision(facts: Mapping[str, str]) -> str | None:
    # A switch of Hugging Face's Trainer: "bf16": "True".
    switches = (key for key in ("bf16", "fp16") if str(facts.get(key)).lower() == "true")
    words = map(stated_precision, _texts(facts, PRECISION_KEYS))
    return next(switches, None) or next(filter(None, words), None)


def _texts(facts: Mapping[str, str], keys: Iterable[str]) -> Iterable[str]:
    return (facts[key] for key in keys if facts.get(key))
