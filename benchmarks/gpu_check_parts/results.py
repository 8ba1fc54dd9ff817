"""What a check says, and what all checks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from computemeter.counters.torch_counter import TorchCounter
from computemeter.records import Count

Verdict = Literal["ok", "differs", "unknown", "not available", "not measured"]


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the report.

    Attributes:
        verdict: "unknown" where what is checked says itself that it does not know.
    """

    name: str
    expected: str
    got: str
    verdict: Verdict
    detail: str = ""


class NotAvailableError(Exception):
    """This machine cannot do what the check is about; the message says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the checks run.

    Attributes:
        quick: take fewer repeats.
    """

    device: torch.device
    quick: bool = False

    @property
    def cuda(self) -> bool:
        """Whether this is the real thing and no rehearsal on a CPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What nets compute in: on a CPU nothing that might be emulated."""
        return torch.bfloat16 if self.cuda else torch.float32

    def need_cuda(self, what: str) -> None:
        """Leave the check where there is no CUDA device."""
        if not self.cuda:
            raise NotAvailableError(f"{what} only exists on a CUDA device")

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


Check = Callable[[str, Setting], Sequence[Result]]
"""Takes its own name and the setting; may raise whatever it likes."""


@dataclass(frozen=True, slots=True)
class Expected:
    """FLOPs by hand.

    Attributes:
        recomputed: what a fused kernel computes once more, hardware FLOPs only.
        dtype: of all the contractions, as the counter names it; "" for any.
    """

    model: int
    recomputed: int = 0
    dtype: str = ""

    def judge(self, count: Count | None) -> Verdict:
        """Compare with a count; where that says it is not complete, it is "unknown"."""
        if count is None:
            return "unknown"
        same = (
            count.model_flops == self.model
            and count.hardware_flops == self.model + self.recomputed
            and (not self.dtype or set(count.by_dtype) == {self.dtype})
        )
        if same and not count.uncounted_ops:
            return "ok"
        complete = not count.uncounted_ops or count.model_flops > self.model
        return "differs" if complete else "unknown"

    def __str__(self) -> str:
        more = f" + {self.recomputed:,} recomputed" if self.recomputed else ""
        return f"{self.model:,}{more} FLOP" + (f" in {self.dtype}" if self.dtype else "")


def counted(step: Callable[[], Any]) -> Count | None:
    """Count one call as the meter does; None where the meter would say that it does not know."""
    counter = TorchCounter(warn=lambda _line: None)
    counter.start()
    try:
        step()
        return counter.stop()
    finally:
        counter.off()


def check_count(
    name: str, expected: Expected, step: Callable[[], Any], times: int = 1, detail: str = ""
) -> Sequence[Result]:
    """Count a step some times over and compare each count with the one by hand."""
    counts = [counted(step) for _ in range(times)]
    verdicts = {expected.judge(count) for count in counts}
    verdict = next(v for v in _WORST_FIRST if v in verdicts)
    got = dict.fromkeys(show_count(count, expected) for count in counts)
    return [Result(name, str(expected), "; ".join(got), verdict, detail)]


_WORST_FIRST: Sequence[Verdict] = ("differs", "unknown", "ok")


def show_count(count: Count | None, expected: Expected) -> str:
    """Write a count as the expected one is written, and what is not in it."""
    if count is None:
        return "unknown"
    recomputed = count.hardware_flops - count.model_flops
    dtype = "+".join(sorted(count.by_dtype)) if expected.dtype else ""
    shown = str(Expected(count.model_flops, recomputed, dtype))
    if count.uncounted_ops:
        shown += f", listed as uncounted: {', '.join(count.uncounted_ops)}"
    return shown
