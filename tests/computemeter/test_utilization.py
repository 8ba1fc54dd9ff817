"""NVML's tensor activity: its real Python module, with a driver that the tests put under it."""

import ctypes
import math
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from computemeter.utilization import TensorActivity

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

UUID = "GPU-11111111-2222-3333-4444-555555555555"


class Driver:
    """NVML's C functions, as `libnvidia-ml.so` would have them; one Hopper GPU.

    A sample is the address of a pair (seconds, seconds of tensor activity).
    """

    def __init__(self):
        self.time = self.active = 0.0
        self.supported, self.mig = 1, 0
        self.samples = {}
        self.open = 0
        self.errors = {}
        self.metric_return, self.value = 0, None

    def __call__(self, name):
        function = getattr(self, name)

        def call(*args):
            return self.errors.get(name) or function(*args) or pynvml.NVML_SUCCESS

        return call

    def work(self, seconds, activity):
        self.time += seconds
        self.active += seconds * activity

    def nvmlDeviceGetHandleByUUID(self, uuid, device):  # noqa: N802
        if uuid.value.decode() != UUID:
            return pynvml.NVML_ERROR_NOT_FOUND
        device._obj.contents = pynvml.struct_c_nvmlDevice_t()
        return None

    def nvmlGpmQueryDeviceSupport(self, device, support):  # noqa: N802
        assert support._obj.version == pynvml.NVML_GPM_SUPPORT_VERSION
        support._obj.isSupportedDevice = self.supported

    def nvmlDeviceGetMigMode(self, device, current, pending):  # noqa: N802
        current._obj.value = self.mig

    def nvmlGpmSampleAlloc(self, sample):  # noqa: N802
        sample._obj.contents = pynvml.struct_c_nvmlGpmSample_t()
        self.samples[address(sample._obj)] = None

    def nvmlGpmSampleFree(self, sample):  # noqa: N802
        del self.samples[address(sample)]

    def nvmlGpmSampleGet(self, device, sample):  # noqa: N802
        assert address(sample) in self.samples
        self.samples[address(sample)] = self.time, self.active

    def nvmlGpmMetricsGet(self, request):  # noqa: N802
        request = request._obj
        assert request.version == pynvml.NVML_GPM_METRICS_GET_VERSION
        assert request.numMetrics == 1
        metric = request.metrics[0]
        assert metric.metricId == pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL == 5
        began, was_active = self.samples[address(request.sample1)]
        ended, is_active = self.samples[address(request.sample2)]
        metric.nvmlReturn = self.metric_return
        share = 100 * (is_active - was_active) / (ended - began)
        metric.value = share if self.value is None else self.value


def address(pointer):
    return ctypes.cast(pointer, ctypes.c_void_p).value


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()

    def init():
        driver.open += 1

    def shutdown():
        driver.open -= 1

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", driver)
    monkeypatch.setattr(pynvml, "nvmlInit", init)
    monkeypatch.setattr(pynvml, "nvmlShutdown", shutdown)
    return driver


def watch(driver, device=UUID):
    activity = TensorActivity.open(device)
    activity._now, activity._at = lambda: driver.time, driver.time
    return activity


def why_not(device=UUID):
    said = []
    assert TensorActivity.open(device, said.append) is None
    (why,) = said
    return why


def test_a_sample_is_the_share_of_time_since_the_last_one(driver):
    activity = watch(driver)
    driver.work(2.0, activity=0.5)
    driver.work(2.0, activity=0.1)
    assert activity.sample() == pytest.approx(0.3)  # (2 * 0.5 + 2 * 0.1) / 4

    driver.work(1.0, activity=0.9)
    assert activity.sample() == pytest.approx(0.9)
    assert activity.problem is None


def test_an_idle_device_is_a_measured_zero(driver):
    activity = watch(driver)
    driver.work(1.0, activity=0.0)

    assert activity.sample() == 0.0


def test_samples_too_close_together_are_unknown_and_the_next_one_reaches_further_back(driver):
    activity = watch(driver)
    driver.work(0.05, activity=1.0)
    assert activity.sample() is None

    driver.work(0.15, activity=0.0)
    assert activity.sample() == pytest.approx(0.25)  # 0.05 of 0.2 s


def test_a_sample_that_fails_is_unknown_and_the_next_one_reaches_further_back(driver):
    activity = watch(driver)
    driver.work(1.0, activity=0.2)
    driver.errors["nvmlGpmSampleGet"] = pynvml.NVML_ERROR_UNKNOWN
    assert activity.sample() is None
    assert "NVMLError" in activity.problem

    driver.errors.clear()
    driver.work(1.0, activity=0.6)
    assert activity.sample() == pytest.approx(0.4)
    assert activity.problem is None


@pytest.mark.parametrize("function", ["nvmlGpmSampleGet", "nvmlGpmMetricsGet"])
def test_a_gpu_that_is_lost_is_unknown(driver, function):
    activity = watch(driver)
    driver.work(1.0, activity=0.2)
    driver.errors[function] = pynvml.NVML_ERROR_GPU_IS_LOST

    assert activity.sample() is None
    assert activity.problem == "NVMLError_GpuIsLost: GPU is lost"


def test_a_metric_with_an_error_of_its_own_is_unknown(driver):
    activity = watch(driver)
    driver.work(1.0, activity=0.2)
    driver.metric_return = pynvml.NVML_ERROR_NOT_SUPPORTED

    assert activity.sample() is None
    assert activity.problem == "NVMLError_NotSupported: Not Supported"


@pytest.mark.parametrize("value", [math.nan, -1.0, 134.0])
def test_a_value_that_is_no_share_is_unknown(driver, value):
    activity = watch(driver)
    driver.work(1.0, activity=0.2)
    driver.value = value

    assert activity.sample() is None
    assert "NVML reports" in activity.problem


def test_closing_lets_go_of_everything_once(driver):
    activity = watch(driver)
    assert (driver.open, len(driver.samples)) == (1, 2)
    activity.close()
    activity.close()

    assert (driver.open, driver.samples) == (0, {})
    driver.work(1.0, activity=1.0)
    assert activity.sample() is None


def test_closing_after_the_device_was_lost_does_not_raise(driver):
    activity = watch(driver)
    driver.errors["nvmlGpmSampleFree"] = pynvml.NVML_ERROR_GPU_IS_LOST
    activity.close()

    assert driver.open == 0


def test_torchs_index_is_mapped_by_uuid(driver):
    # With CUDA_VISIBLE_DEVICES=3,1 torch's device 0 is NVML's device 3.
    cuda = SimpleNamespace(
        get_device_properties=lambda index: SimpleNamespace(
            uuid={0: UUID.removeprefix("GPU-"), 1: "99999999-0000-0000-0000-000000000000"}[index]
        )
    )
    with mock.patch.object(torch, "cuda", cuda):
        activity = watch(driver, device=0)
        why = why_not(device=1)

    driver.work(1.0, activity=0.7)
    assert activity.sample() == pytest.approx(0.7)
    assert "NVMLError_NotFound" in why
    assert driver.open == 1  # what was not available is closed again


def test_a_gpu_before_hopper_is_not_available(driver):
    driver.supported = 0

    assert why_not() == (
        f"tensor activity of device {UUID} is unknown: GPM needs a Hopper GPU or a newer one"
    )
    assert driver.open == 0


def test_a_mig_slice_is_not_given_the_whole_boards_activity(driver):
    assert "MIG" in why_not("MIG-11111111-2222-3333-4444-555555555555")
    driver.mig = 1
    assert "MIG" in why_not()
    assert driver.open == 0


def test_a_gpu_that_knows_no_mig_is_watched(driver):
    driver.errors["nvmlDeviceGetMigMode"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    activity = watch(driver)
    driver.work(1.0, activity=0.7)

    assert activity.sample() == pytest.approx(0.7)


def test_without_a_driver_it_is_not_available(monkeypatch):
    def no_library(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", no_library)

    assert "NVMLError_LibraryNotFound" in why_not()


def test_without_the_module_the_install_command_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert why_not().endswith("nvidia-ml-py is not installed: pip install nvidia-ml-py")


def test_an_old_module_is_told_apart(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=lambda: None))

    assert "too old" in why_not()
