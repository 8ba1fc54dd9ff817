"""The meter on a training of GPT-2's size: its count, what it costs, and what NVML says."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_check_parts.results import (
    Check,
    Expected,
    NotAvailableError,
    Result,
    Setting,
    Verdict,
    check_count,
    counted,
)
from computemeter import Meter
from computemeter.utilization import TensorActivity

_TARGET = 1.005  # 75 us on a step of 15 ms, as in benchmarks/overhead.py
_WARM_UP = 12  # steps; the meter counts 1, 2, 4 and 8
_NEARNESS = 0.10  # of NVML's share to HFU


class Gpt2:
    """GPT-2 small with random weights, 8 examples of 1,024 tokens; on a CPU a toy of its kind.

    Attributes:
        batch: token ids; their own labels.
    """

    def __init__(self, setting: Setting) -> None:
        import transformers

        self._setting = setting
        sizes = (
            {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
            if setting.cuda
            else {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 16, "vocab_size": 101}
        )
        self._sizes = sizes
        no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = transformers.GPT2Config(**sizes, **no_dropout, bos_token_id=0, eos_token_id=0)
        self.model: Any = transformers.GPT2LMHeadModel(config).to(setting.device).train()
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=setting.cuda)
        shape = (8, sizes["n_positions"])
        self.batch = torch.randint(sizes["vocab_size"], shape, device=setting.device)

    def flops(self) -> Expected:
        """Return the FLOPs of a step by hand.

        Per layer 12 d^2 weights (queries, keys, values 3 d^2, projection d^2, feed-forward 8 d^2)
        and attention, whose scores and sums are T * d multiply-adds each per token; then d * V of
        the head. Backward is twice as much: the embedding below needs its gradient. The fused
        backward of attention computes the scores once more.
        """
        examples, tokens = self.batch.shape
        rows, width = examples * tokens, self._sizes["n_embd"]
        layer = 2 * rows * 12 * width**2 + 2 * rows * 2 * tokens * width
        forward = self._sizes["n_layer"] * layer + 2 * rows * width * self._sizes["vocab_size"]
        scores = self._sizes["n_layer"] * 2 * rows * tokens * width
        return Expected(3 * forward, scores, "bfloat16")

    def step(self) -> None:
        """Train on the batch once more."""
        with torch.autocast(self._setting.device.type, torch.bfloat16):
            loss = self.model(self.batch, labels=self.batch).loss
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def metered_step(self, meter: Meter) -> None:
        """Train on the batch once more, metered."""
        with meter.step(self.batch):
            self.step()

    def seconds(self, step: Callable[[], object], times: int) -> float:
        """Return the seconds of a step, the device's share of it included."""
        self._setting.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            step()
        self._setting.synchronize()
        return (time.perf_counter() - began) / times


def count(name: str, setting: Setting) -> Sequence[Result]:
    """Check the count of a step."""
    net = Gpt2(setting)
    return check_count(name, net.flops(), net.step)


def overhead(name: str, setting: Setting) -> Sequence[Result]:
    """Measure what the meter adds to a step, in turns with nothing and with nothing again."""
    net = Gpt2(setting)
    turns, steps = (3, 2) if setting.quick or not setting.cuda else (15, 6)
    for _ in range(3):
        net.step()
    with (
        tempfile.TemporaryDirectory() as folder,
        Meter(ledger=Path(folder), trackers=None, verbose=0) as meter,
    ):
        for _ in range(_WARM_UP):
            net.metered_step(meter)
        arms = {"nothing": net.step, "again": net.step, "meter": lambda: net.metered_step(meter)}
        times = _take_turns(net, arms, meter, turns, steps)
    counting = median(net.seconds(lambda: counted(net.step), 1) for _ in range(3))
    return [_judge_overhead(name, times, counting)]


def _take_turns(
    net: Gpt2, arms: Mapping[str, Callable[[], None]], meter: Meter, turns: int, steps: int
) -> Mapping[str, Sequence[float]]:
    """Return each arm's seconds of a step by turn; turns with a counted step are left out."""
    order = list(arms)
    shuffle = random.Random(20).shuffle  # noqa: S311 - an order, not a secret
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(turns):
        shuffle(order)
        before = meter.summary().counted_steps
        turn = {arm: net.seconds(arms[arm], steps) for arm in order}
        if meter.summary().counted_steps == before:
            for arm, seconds in turn.items():
                times[arm].append(seconds)
    return times


def _judge_overhead(name: str, times: Mapping[str, Sequence[float]], counting: float) -> Result:
    if not times["meter"]:
        raise NotAvailableError("every turn had a counted step")
    nothing = median(times["nothing"])
    meter, again = (_Ratios.of(times[arm], times["nothing"]) for arm in ("meter", "again"))
    if again.spread > _TARGET - 1:
        verdict: Verdict = "unknown"  # the machine cannot tell such a difference
    elif meter.high <= _TARGET:
        verdict = "ok"
    else:
        verdict = "differs" if meter.low > _TARGET else "unknown"
    detail = (
        f"a step is {1e3 * nothing:.3f} ms; A/A {again}; a counted step {counting / nothing:.2f}x; "
        f"{len(times['meter'])} turns; medians with 95 % intervals"
    )
    return Result(name, f"at most {_TARGET}x", f"{meter}x", verdict, detail)


@dataclass(frozen=True, slots=True)
class _Ratios:
    """The median of an arm's times over those of nothing in the same turns, and its interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, mine: Sequence[float], nothing: Sequence[float]) -> _Ratios:
        ratios = sorted(own / plain for own, plain in zip(mine, nothing, strict=True))
        # The ranks of the 95 % interval of a median: n/2 -+ 1.96 sqrt(n)/2, from the binomial.
        reach = round(0.98 * len(ratios) ** 0.5)
        first = max(0, len(ratios) // 2 - reach)
        last = min(len(ratios) - 1, (len(ratios) - 1) // 2 + reach)
        return cls(median(ratios), ratios[first], ratios[last])

    @property
    def spread(self) -> float:
        return max(abs(self.low - 1), abs(self.high - 1))

    def __str__(self) -> str:
        return f"{self.median:.4f} [{self.low:.4f}, {self.high:.4f}]"


def tensor_activity(name: str, setting: Setting) -> Sequence[Result]:
    """Compare NVML's tensor activity with the meter's HFU over the same steps."""
    setting.need_cuda("NVML's tensor activity")
    said: list[str] = []
    watched = TensorActivity.open(setting.device.index or 0, said.append)
    if watched is None:
        raise NotAvailableError(said[0])
    try:
        net = Gpt2(setting)
        for _ in range(_WARM_UP):
            net.step()
        share, hfu, mfu = _train_watched(net, watched, 2.0 if setting.quick else 6.0)
    finally:
        watched.close()
    if share is None or hfu is None or mfu is None:
        why = watched.problem or "the meter has no peak for this device"
        return [Result(name, f"HFU {hfu}", f"activity {share}", "unknown", why)]
    verdict: Verdict = "ok" if abs(share - hfu) <= _NEARNESS else "differs"
    expected = f"HFU {hfu:.1%} +- {_NEARNESS:.0%}"
    return [Result(name, expected, f"{share:.1%}", verdict, f"MFU {mfu:.1%}; {watched.source}")]


def _train_watched(
    net: Gpt2, watched: TensorActivity, seconds: float
) -> tuple[float | None, float | None, float | None]:
    with Meter(ledger=None, trackers=None, verbose=0) as meter:
        for _ in range(_WARM_UP):  # counted steps are slow
            net.metered_step(meter)
        net.seconds(net.step, 1)
        watched.sample()
        before, began, steps = meter.summary(), time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            net.seconds(lambda: net.metered_step(meter), 5)
            steps += 5
        elapsed = time.perf_counter() - began
        share, after = watched.sample(), meter.summary()
    if after.peak_flops is None or after.model_flops is None or before.model_flops is None:
        return share, None, None
    capacity = elapsed * after.peak_flops
    assert after.hardware_flops is not None
    assert before.hardware_flops is not None
    hardware = after.hardware_flops - before.hardware_flops
    return share, hardware / capacity, (after.model_flops - before.model_flops) / capacity


GPT2: Mapping[str, Check] = {
    "GPT-2 small, count": count,
    "GPT-2 small, the meter's cost": overhead,
    "GPT-2 small, NVML tensor activity": tensor_activity,
}
