"""Device time against wall time, and products against the table of peaks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from benchmarks.gpu_check_parts.results import Check, NotAvailableError, Result, Setting, Verdict
from computemeter.commands.measure import Product, measure_products
from computemeter.devices import torch_device
from computemeter.event_clock import EventPairs
from computemeter.units import format_flops

_SIZE = 4096
_PRODUCTS = 20  # to a step: some ms, so that the queue never runs dry
_LEAST_OF_PEAK = 0.5


def events_without_gaps(name: str, setting: Setting) -> Sequence[Result]:
    """Check that a queue that never runs dry is busy all the time, within 2 %."""
    setting.need_cuda("a CUDA event")
    steps = 50 if setting.quick else 300
    busy, wall, _ = _time_steps(setting, steps, idle_seconds=0.0)
    verdict: Verdict = "ok" if abs(busy - wall) <= 0.02 * wall else "differs"
    return [Result(name, f"{wall:.4f} s of wall time +- 2 %", f"{busy:.4f} s busy", verdict)]


def events_with_gaps(name: str, setting: Setting) -> Sequence[Result]:
    """Check that the time in which the device waits for the next step is idle, within 5 %."""
    setting.need_cuda("a CUDA event")
    steps = 20 if setting.quick else 60
    busy, wall, slept = _time_steps(setting, steps, idle_seconds=0.01)
    expected = wall - slept
    verdict: Verdict = "ok" if abs(busy - expected) <= 0.05 * expected else "differs"
    detail = f"wall time {wall:.4f} s less {slept:.4f} s asleep with an empty queue"
    return [Result(name, f"{expected:.4f} s +- 5 %", f"{busy:.4f} s busy", verdict, detail)]


def _time_steps(setting: Setting, steps: int, idle_seconds: float) -> tuple[float, float, float]:
    """Return busy, wall and slept seconds of some steps of matrix products."""
    left, right = (
        torch.randn(_SIZE, _SIZE, device=setting.device, dtype=setting.dtype) for _ in range(2)
    )
    out = torch.empty_like(left)
    pairs = EventPairs.on(setting.device)
    assert pairs is not None
    for _ in range(2 * _PRODUCTS):  # the clock of an idle GPU takes a while to rise
        torch.mm(left, right, out=out)
    setting.synchronize()
    slept, began = 0.0, time.perf_counter()
    for _ in range(steps):
        pairs.begin()
        for _ in range(_PRODUCTS):
            torch.mm(left, right, out=out)
        pairs.end()
        if idle_seconds:
            setting.synchronize()
            slept += _sleep(idle_seconds)
    setting.synchronize()
    wall = time.perf_counter() - began
    busy = pairs.busy_seconds()
    if busy is None:
        raise RuntimeError(pairs.problem)
    return busy, wall, slept


def _sleep(seconds: float) -> float:
    began = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began


def products(name: str, setting: Setting) -> Sequence[Result]:
    """Check what matrix products reach at each precision: never above the peak, nor far below."""
    if not setting.cuda and torch.accelerator.is_available():
        raise NotAvailableError("products are measured on the accelerator, if there is one")
    device = torch_device(setting.device)
    found = measure_products(device, lambda _line: None)
    return [_judge(f"{name}, {each.precision}", each, setting) for each in found]


def _judge(name: str, product: Product, setting: Setting) -> Result:
    reached = product.flops_per_second
    peak = format_flops(product.peak, "FLOP/s") if product.peak else "no peak is known"
    if reached is None:
        return Result(name, peak, "", "not available", product.problem)
    detail = f"n = {product.size}, the fastest of several"
    got = format_flops(reached, "FLOP/s")
    if product.share is None:
        return Result(name, peak, got, "unknown", detail)
    got += f", {product.share:.0%} of it"
    # A virtual CPU may well be slower than its model's name says.
    least = _LEAST_OF_PEAK if setting.cuda else 0.0
    verdict: Verdict = "ok" if least <= product.share <= 1 else "differs"
    if product.share > 1:
        detail += "; the peak in the table is too low"
    return Result(name, f"{least:.0%} to 100% of {peak}", got, verdict, detail)


EVENTS: Mapping[str, Check] = {
    "events, full queue": events_without_gaps,
    "events, idle between steps": events_with_gaps,
}
PRODUCTS: Mapping[str, Check] = {"product": products}
