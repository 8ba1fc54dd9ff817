"""`doctor --measure`: products of the right size and precision, on a clock that is told."""

from types import SimpleNamespace

import pytest

from computemeter import Meter
from computemeter.commands import measure
from computemeter.commands.measure import Product, largest_in_time, measure_products
from computemeter.records import Device

torch = pytest.importorskip("torch")

CPU = torch.device("cpu")


class Machine:
    """Takes 2 n^3 / speed seconds for a product; its memory holds matrices up to `most`."""

    def __init__(self, flops_per_second, most=10**9):
        self.speed, self.most, self.calls = flops_per_second, most, []

    def __call__(self, size, times):
        self.calls.append((size, times))
        if size > self.most:
            raise RuntimeError("out of memory")
        return 2 * size**3 / self.speed


def test_sizes_double_while_the_next_product_is_within_half_a_second():
    machine = Machine(1e9)
    # 128: 4.2 ms; 256: 34 ms; 512: 268 ms; 1024 would take 2.1 s. 0.6 s hold two of 268 ms.
    assert largest_in_time(machine, 8192) == (512, 2 * 512**3 / 1e9)
    assert machine.calls == [(128, 1), (256, 1), (512, 1), (512, 2)]


def test_a_fast_machine_stops_at_the_largest_and_repeats_at_most_a_hundred_times():
    machine = Machine(1e15)  # 2048: 17 us
    assert largest_in_time(machine, 2048)[0] == 2048
    assert machine.calls[-2:] == [(2048, 1), (2048, 100)]


def test_a_slow_machine_multiplies_once():
    machine = Machine(1e6)  # 128: 4.2 s
    assert largest_in_time(machine, 8192) == (128, pytest.approx(4.194304))
    assert machine.calls == [(128, 1)]


def test_memory_that_runs_out_ends_the_growth():
    machine = Machine(1e12, most=300)
    assert largest_in_time(machine, 8192)[0] == 256


def test_what_was_reached_is_two_n_cubed_over_the_seconds():
    product = Product("fp32", 1000, 0.01, 400e9)
    assert product.flops_per_second == pytest.approx(200e9)  # 2e9 FLOP in 10 ms
    assert product.share == pytest.approx(0.5)
    assert Product("fp32", 1000, 0.01).share is None
    assert Product("fp32", problem="no").flops_per_second is None


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("fp64", "float64"),
        ("fp32", "float32"),
        ("fp16", "float16"),
        ("bf16", "bfloat16"),
        ("fp8", "float8_e4m3fn"),
    ],
)
def test_a_product_is_one_of_that_precision(precision, dtype):
    multiply = measure._product(precision, CPU, 16)
    assert dict(Meter.count(multiply).by_dtype) == {dtype: 2 * 16**3}
    left, right = (tensor.double() for tensor in multiply.args[:2])
    torch.testing.assert_close(multiply().double(), left @ right, rtol=0.02, atol=0.05)


def test_every_precision_is_measured_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)
    monkeypatch.setitem(measure._LARGEST_SIZE, "cpu", 128)
    monkeypatch.setattr(measure, "_MOST", 2)
    said = []
    products = measure_products(Device("x", "cpu", {"fp32": 1e12}), said.append)
    assert [product.precision for product in products] == ["fp64", "fp32", "fp16", "bf16", "fp8"]
    assert said[0] == "multiplying matrices in fp64"
    for product in products:
        assert (product.size, product.problem) == (128, "")
        assert product.seconds > 0
        assert (product.peak, product.share is not None) == (
            (1e12, True) if product.precision == "fp32" else (None, False)
        )


def test_a_precision_that_fails_is_a_line_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)
    monkeypatch.setitem(measure._LARGEST_SIZE, "cpu", 128)
    monkeypatch.setattr(measure, "_MOST", 1)
    real = measure._product

    def no_fp64(precision, target, size):
        if precision == "fp64":
            raise TypeError("Cannot convert to float64\nand a trace")
        return real(precision, target, size)

    monkeypatch.setattr(measure, "_product", no_fp64)
    first, *others = measure_products(Device("x", "mps", {}), lambda _: None)
    assert first == Product("fp64", problem="not supported: Cannot convert to float64")
    assert [product.problem for product in others] == [""] * 4


def test_tf32_is_asked_for_and_put_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    matmul = torch.backends.cuda.matmul
    before, during = matmul.fp32_precision, []

    def timed(precision, _target, size, _times):
        during.append((precision, matmul.fp32_precision))
        return 2 * size**3 / 1e6  # slow: one product each

    monkeypatch.setattr(measure, "_time", timed)
    for precision in ("tf32", "fp32"):
        assert measure._measure(precision, torch.device("cuda"), None).problem == ""
    assert during == [("tf32", "tf32"), ("fp32", "ieee")]
    assert matmul.fp32_precision == before


def test_a_gpu_before_ampere_has_no_tf32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    product = measure._measure("tf32", torch.device("cuda"), 8e12)
    assert product.problem == "not supported: this GPU computes in fp32 instead"


def test_a_gpu_is_timed_by_its_own_events_and_the_fastest_counts(monkeypatch):
    log, took = [], iter([4.0, 2.0, 3.0])  # milliseconds

    class Event:
        def __init__(self, enable_timing=False):
            assert enable_timing

        def record(self):
            log.append("record")

        def elapsed_time(self, _end):
            return next(took)

    monkeypatch.setattr(
        torch, "cuda", SimpleNamespace(Event=Event, synchronize=lambda: log.append("wait"))
    )
    assert measure._time_cuda(lambda: log.append("mm"), 3) == pytest.approx(0.002)
    # Nothing waits between the products, so that the GPU is never idle.
    assert log == ["wait", *["record", "mm", "record"] * 3, "wait"]
