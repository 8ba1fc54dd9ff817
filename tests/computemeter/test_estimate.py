"""The two methods on the worked examples of "AI and compute", expected numbers derived by hand.

1 PF is 1e15 operations, 1 pfs-day 86,400 PF. The appendix rounds freely, so each example states
the printed figure beside what the factors give; where they are far apart the test says so.
"""

import doctest
import math
import subprocess
import sys
from fractions import Fraction

import pytest

from computemeter import estimate
from computemeter.estimate import (
    CPU_UTILIZATION,
    GPU_UTILIZATION,
    flops_from_gpu_time,
    flops_from_operations,
    flops_from_parameters,
)

PF = 10**15
TERA = 10**12
DAY = 86_400


@pytest.mark.parametrize(
    ("factors", "flops", "printed_pf", "printed_over_factors"),
    [
        # 0.75e9 * 1.2e6 = 9e14; * 90 = 8.1e16; * 2 * 3 = 4.86e17
        pytest.param((7.5e8, 1.2e6, 90), 486 * PF, 470, 0.967, id="AlexNet"),
        # 2.5e6 * 1.6e8 = 4e14; * 6 = 2.4e15
        pytest.param((2.5e6, 1.6e8, 1), 2_400 * TERA, 2.3, 0.958, id="DQN"),
        # 3.8e8 * 6.52e8 = 2.4776e17; * 7.5 = 1.8582e18; * 6 = 1.11492e19: 1.53x the printed one
        pytest.param((3.8e8, 6.52e8, 7.5), 111_492 * PF // 10, 7_300, 0.655, id="Seq2Seq"),
        # 1.6e10 * 1.2e6 = 1.92e16; * 74 = 1.4208e18; * 6 = 8.5248e18
        pytest.param((1.6e10, 1.2e6, 74), 85_248 * PF // 10, 8_524, 1.000, id="VGG"),
        # 9.8e7 * 2.16e9 = 2.1168e17; * 20 = 4.2336e18; * 6 = 2.54016e19
        pytest.param((9.8e7, 2.16e9, 20), 254_016 * PF // 10, 26_000, 1.024, id="DeepSpeech2"),
        # 1.14e10 * 1.2e6 = 1.368e16; * 128 = 1.75104e18; * 6 = 1.050624e19
        pytest.param((1.14e10, 1.2e6, 128), 1_050_624 * PF // 100, 10_000, 0.952, id="ResNet-152"),
        # 1e10 * 6.4e8 = 6.4e18; * 50 = 3.2e20; * 6 = 1.92e21
        pytest.param((1e10, 6.4e8, 50), 1_920_000 * PF, 1_900_000, 0.990, id="NAS"),
    ],
)
def test_method_1_of_the_appendix(factors, flops, printed_pf, printed_over_factors):
    add_multiplies, examples, epochs = factors
    assert flops_from_operations(add_multiplies, examples, epochs) == flops
    assert printed_pf * PF / flops == pytest.approx(printed_over_factors, abs=5e-4)


@pytest.mark.parametrize(
    ("factors", "flops", "printed_pf", "printed_over_factors"),
    [
        # 2 * 5.5 d * 86,400 = 950,400 s; * 1.58e12 = 1.501632e18; * 0.33 = 4.9553856e17
        pytest.param((2, 5.5, 1.58e12, 0.33), 495_538_560 * 10**9, 500, 1.009, id="AlexNet"),
        # 4 * 86,400 = 345,600 s; * 1.54e12 = 5.32224e17; * 0.33 = 1.7563392e17
        pytest.param((1, 4, 1.54e12, 0.33), 175_633_920 * 10**9, 184, 1.048, id="Dropout"),
        # three times Dropout: 5.2690176e17
        pytest.param((1, 12, 1.54e12, 0.33), 526_901_760 * 10**9, 532, 1.010, id="Visualizing"),
        # 8 * 10 * 86,400 = 6,912,000 s; * 3.5e12 = 2.4192e19; * 0.33 = 7.98336e18
        pytest.param((8, 10, 3.5e12, 0.33), 798_336 * 10**13, 8_100, 1.015, id="Seq2Seq"),
        # 4 * 15 * 86,400 = 5,184,000 s; * 5.1e12 = 2.64384e19; * 0.33 = 8.724672e18
        pytest.param((4, 15, 5.1e12, 0.33), 8_724_672 * 10**12, 10_000, 1.146, id="VGG"),
        # 16 * 5 * 86,400 = 6,912,000 s; * 6e12 = 4.1472e19; * 0.50 = 2.0736e19
        pytest.param((16, 5, 6e12, 0.5), 20_736 * PF, 21_000, 1.013, id="DeepSpeech2"),
        # 60 * 30 * 86,400 = 1.5552e8 s; * 8.5e12 = 1.32192e21; * 0.33 = 4.362336e20
        pytest.param((60, 30, 8.5e12, 0.33), 4_362_336 * 10**14, 450_000, 1.032, id="Xception"),
        # 800 * 28 * 86,400 = 1.93536e9 s; * 4.2e12 = 8.128512e21; * 0.33 = 2.68240896e21
        pytest.param((800, 28, 4.2e12, 0.33), 268_240_896 * 10**13, 2_800_000, 1.044, id="NAS"),
    ],
)
def test_method_2_of_the_appendix(factors, flops, printed_pf, printed_over_factors):
    devices, days, peak, utilization = factors
    assert flops_from_gpu_time(devices, days * DAY, peak, utilization) == flops
    assert printed_pf * PF / flops == pytest.approx(printed_over_factors, abs=5e-4)


def test_gnmt_multiplies_by_an_extra_factor():
    # 96 * 9 * 86,400 = 74,649,600 s; * 8.5e12 = 6.345216e20; * 0.33 = 2.09392128e20,
    # times sqrt(10 * 100) = 31.6228 is 6.62156e21, printed 6.9e21 (1.042x)
    flops = flops_from_gpu_time(96, 9 * DAY, 8.5e12, extra_factor=math.sqrt(10 * 100))
    assert flops == pytest.approx(6.62156e21, rel=1e-5)
    assert 6.9e21 / flops == pytest.approx(1.042, abs=5e-4)


@pytest.mark.parametrize(
    ("flops", "factors_give", "printed"),
    [
        # 486 / 86,400; 11,149.2 / 86,400; 8,724.672 / 86,400; 10,506.24 / 86,400
        pytest.param(flops_from_operations(7.5e8, 1.2e6, 90), 0.005625, 0.0054, id="AlexNet"),
        pytest.param(flops_from_operations(3.8e8, 6.52e8, 7.5), 0.12904, 0.085, id="Seq2Seq"),
        pytest.param(flops_from_gpu_time(4, 15 * DAY, 5.1e12), 0.10098, 0.12, id="VGG by time"),
        pytest.param(flops_from_operations(1.14e10, 1.2e6, 128), 0.1216, 0.117, id="ResNet-152"),
    ],
)
def test_pfs_days_that_are_not_the_printed_ones(flops, factors_give, printed):
    pfs_days = flops / (86_400 * PF)
    assert pfs_days == pytest.approx(factors_give, rel=1e-4)
    assert pfs_days != pytest.approx(printed, rel=0.03)


def test_deepspeech2_reaches_its_printed_figure_only_at_half_of_peak():
    # 20,736 PF at 0.50 is the printed 21,000; 0.33 would give 13,685.76 PF
    assert flops_from_gpu_time(16, 5 * DAY, 6e12) == 1_368_576 * PF // 100


def test_six_per_parameter_and_token():
    # 6 * 3.8e9 * 3.3e12 = 7.524e22; one pass (inference) a third of it
    assert flops_from_parameters(3.8e9, 3.3e12) == 7_524 * 10**19
    assert flops_from_parameters(3.8e9, 3.3e12, passes=1) == 2_508 * 10**19


def test_passes_and_flops_per_add_multiply_multiply():
    # 10 * 4 * 1 epoch, a multiply-add as one operation, first layer dominating (1:1): * 1 * 2
    assert flops_from_operations(10, 4, flops_per_add_multiply=1, passes=2) == 80
    assert flops_from_operations(10, 4, extra_factor=2.5) == 600  # 10 * 4 * 2 * 3 * 2.5


def test_assumed_utilizations():
    assert (GPU_UTILIZATION, CPU_UTILIZATION) == (0.33, 0.17)
    # 1e12 * 100 s * 0.33 is the default; the binary float 0.33 would give 33,000,000,000,000.0016
    assert flops_from_gpu_time(1, 100, 1e12) == 33 * TERA
    assert flops_from_gpu_time(1, 100, 1e12, CPU_UTILIZATION) == 17 * TERA


def test_totals_beyond_float_precision_are_exact():
    # 10^15 + 1 devices * 10^10 s: a float product would drop the 1
    assert flops_from_gpu_time(10**15 + 1, 10**10, 1, 1.0) == 10**25 + 10**10
    # 0.1 and 0.2 mean tenths: 0.1 * 0.2 * 1e20 = 2e18, nothing in the last digits
    assert flops_from_gpu_time(0.1, 1e20, 1, 0.2) == 2 * 10**18


@pytest.mark.parametrize(("product", "rounded"), [(0.5, 0), (1.5, 2), (2.5, 2), (2.51, 3)])
def test_rounds_half_to_even(product, rounded):
    assert flops_from_gpu_time(1, product, 1, 1.0) == rounded


def test_rounds_once():
    # 1/3 * 3 is 1: rounding the factors first would give 0
    assert flops_from_gpu_time(Fraction(1, 3), 3, 1, 1) == 1


def test_returns_a_plain_int():
    numpy = pytest.importorskip("numpy")
    flops = flops_from_operations(numpy.float64(7.5e8), numpy.int64(1_200_000), numpy.float64(90))
    assert type(flops) is int
    assert flops == 486 * PF


NOT_POSITIVE = [0, -1, -0.5, math.nan, math.inf, -math.inf, "3", None, True, 1j, [2]]
OPERATIONS = {
    "add_multiplies_per_pass": 1,
    "examples": 1,
    "epochs": 1,
    "flops_per_add_multiply": 2,
    "passes": 3,
    "extra_factor": 1,
}
GPU_TIME = {"devices": 1, "seconds": 1, "peak_flops": 1, "utilization": 1, "extra_factor": 1}
PARAMETERS = {"parameters": 1, "tokens": 1, "passes": 3}


@pytest.mark.parametrize("bad", NOT_POSITIVE, ids=repr)
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (flops_from_operations, OPERATIONS),
        (flops_from_gpu_time, GPU_TIME),
        (flops_from_parameters, PARAMETERS),
    ],
    ids=["operations", "gpu_time", "parameters"],
)
def test_a_bad_argument_is_named_with_its_value(function, arguments, bad):
    for name in arguments:
        with pytest.raises(ValueError, match=f"^{name} must be .* above 0.*, got ") as raised:
            function(**{**arguments, name: bad})
        assert str(raised.value).endswith(f"got {bad!r}")


@pytest.mark.parametrize("bad", [33, 1.0000001, 2])
def test_utilization_is_a_share(bad):
    with pytest.raises(ValueError, match=r"utilization .* at most 1 \(0\.33, not 33\), got"):
        flops_from_gpu_time(1, 1, 1, bad)


def test_the_examples_of_the_docstrings_run():
    results = doctest.testmod(estimate)
    assert results.attempted > 0
    assert results.failed == 0


def test_imports_no_framework():
    modules = "computemeter.estimate, computemeter.appendix, computemeter.reconcile"
    heavy = "{'torch', 'lightning', 'jax', 'tensorflow', 'keras', 'numpy', 'mlflow', 'wandb'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
