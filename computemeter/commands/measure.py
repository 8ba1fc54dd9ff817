"""How fast matrix products really run on torch's device, beside the peak it is said to have.

A product of two n x n matrices is 2 n^3 FLOP. The best of several is taken: what the device can do,
not what it does on average.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from computemeter.peaks import precision_peak
from computemeter.records import Device

if TYPE_CHECKING:
    import torch

MEASURED = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8")
"""The precisions that are measured; TF32 on NVIDIA's GPUs alone."""

_DTYPES = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}

_FIRST_SIZE = 128
_LARGEST_SIZE = {"cpu": 2048}
_LARGEST_SIZE_ELSEWHERE = 8192
_LONGEST_PRODUCT = 0.5  # seconds
_SECONDS_EACH = 0.6  # of products at the last size
_MOST = 100  # products at the last size

TimeAt = Callable[[int, int], float]
"""Seconds of the fastest of some products: (n, how many) -> seconds."""


@dataclass(frozen=True, slots=True)
class Product:
    """What matrix products of one precision reached.

    Attributes:
        precision: one of `MEASURED`.
        size: n of the n x n matrices; None where none could be multiplied.
        seconds: of the fastest product.
        peak: dense peak of the device at this precision in FLOP/s, None where it is not known.
        problem: why there is no figure, "" where there is one.
    """

    precision: str
    size: int | None = None
    seconds: float | None = None
    peak: float | None = None
    problem: str = ""

    @property
    def flops_per_second(self) -> float | None:
        """FLOP/s that were reached, 2 n^3 over the seconds; None where nothing was measured."""
        if self.size is None or not self.seconds:
            return None
        return 2 * self.size**3 / self.seconds

    @property
    def share(self) -> float | None:
        """What was reached over the peak; above 1 the peak is too low. None without either."""
        reached = self.flops_per_second
        return reached / self.peak if reached is not None and self.peak else None


def measure_products(device: Device, say: Callable[[str], object]) -> list[Product]:
    """Time matrix products of each precision on the device that torch uses by default.

    A few seconds in all. A precision that the device, or this PyTorch, does not multiply in gets a
    `problem`.

    Args:
        device: the same device, with its peaks.
        say: told what is being done now.
    """
    import torch

    target = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    products = []
    for precision in MEASURED:
        if precision != "tf32" or target.type == "cuda":
            say(f"multiplying matrices in {precision}")
            products.append(_measure(precision, target, precision_peak(device.peaks, precision)))
    return products


def largest_in_time(time_at: TimeAt, largest: int) -> tuple[int, float]:
    """Return the size of the largest products that are short enough, and the seconds of one.

    Doubles n, eightfold the work, while the next product would be within half a second; memory that
    runs out ends it too. The last size is timed several times over, unless that takes too long.

    Args:
        time_at: times products.
        largest: n to stop at.
    """
    size = _FIRST_SIZE
    seconds = time_at(size, 1)
    while size < largest and 8 * seconds <= _LONGEST_PRODUCT:
        try:
            seconds = time_at(2 * size, 1)
        except (RuntimeError, MemoryError):
            break
        size *= 2
    times = min(_MOST, int(_SECONDS_EACH / seconds))
    return size, min(seconds, time_at(size, times)) if times else seconds


def _measure(precision: str, target: torch.device, peak: float | None) -> Product:
    if precision == "tf32" and (problem := _without_tf32()):
        return Product(precision, peak=peak, problem=problem)
    largest = _LARGEST_SIZE.get(target.type, _LARGEST_SIZE_ELSEWHERE)
    try:
        with _rounding("tf32" if precision == "tf32" else "ieee"):
            size, seconds = largest_in_time(partial(_time, precision, target), largest)
    except Exception as error:  # noqa: BLE001 - what a device cannot do is a line, not a crash
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return Product(precision, peak=peak, problem=f"not supported: {first}")
    return Product(precision, size, seconds, peak)


def _without_tf32() -> str:
    import torch

    if torch.version.hip is not None:
        return "not measured: PyTorch on ROCm does not say whether it uses it"
    if torch.cuda.get_device_capability()[0] < 8:  # TF32 came with Ampere
        return "not supported: this GPU computes in fp32 instead"
    return ""


@contextmanager
def _rounding(precision: str) -> Iterator[None]:
    """Allow or forbid TF32 in CUDA's float32 products, and put it back as it was."""
    import torch

    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _time(precision: str, target: torch.device, size: int, times: int) -> float:
    multiply = _product(precision, target, size)
    multiply()  # kernels are chosen and loaded at the first call
    return _time_cuda(multiply, times) if target.type == "cuda" else _time_host(multiply, times)


def _time_cuda(multiply: Callable[[], Any], times: int) -> float:
    import torch

    event = partial(torch.cuda.Event, enable_timing=True)
    spans = [(event(), event()) for _ in range(times)]
    torch.cuda.synchronize()
    for begin, end in spans:
        begin.record()
        multiply()
        end.record()
    torch.cuda.synchronize()
    return float(min(begin.elapsed_time(end) for begin, end in spans)) / 1000  # from ms


def _time_host(multiply: Callable[[], Any], times: int) -> float:
    import torch

    has_accelerator = torch.accelerator.is_available()
    fastest = float("inf")
    for _ in range(times):
        if has_accelerator:
            torch.accelerator.synchronize()
        began = time.perf_counter()
        multiply()
        if has_accelerator:
            torch.accelerator.synchronize()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def _product(precision: str, target: torch.device, size: int) -> Callable[[], Any]:
    """Return a call that multiplies two matrices of random numbers.

    Of random numbers, because a GPU computes faster with zeros: they take less power.
    """
    import torch

    left, right = (torch.randn(size, size, device=target) for _ in range(2))
    if precision == "fp8":
        return _fp8_product(left, right)
    dtype = getattr(torch, _DTYPES[precision])
    left, right = left.to(dtype), right.to(dtype)
    return partial(torch.mm, left, right, out=torch.empty_like(left))


def _fp8_product(left: torch.Tensor, right: torch.Tensor) -> Callable[[], Any]:
    """Return a call that multiplies in fp8 and adds up in fp32, as the peaks mean it."""
    import torch

    dtype = torch.float8_e4m3fnuz if _is_mi300(left) else torch.float8_e4m3fn
    one = torch.ones((), device=left.device)
    # The second matrix must be column-major.
    operands = (left.to(dtype), right.to(dtype).t(), one, one)
    return partial(torch._scaled_mm, *operands, out_dtype=torch.bfloat16)  # noqa: SLF001 - it has no public name


def _is_mi300(tensor: torch.Tensor) -> bool:
    """Say whether this is AMD's gfx94x, which has an fp8 of its own ("fnuz")."""
    import torch

    if torch.version.hip is None or not tensor.is_cuda:
        return False
    return str(torch.cuda.get_device_properties(tensor.device).gcnArchName).startswith("gfx94")
