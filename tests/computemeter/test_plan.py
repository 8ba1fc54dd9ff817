"""`computemeter.plan`: operations, iterations and times over batch sizes and devices."""

import io
import json
import sys

import numpy as np
import pytest
import torch

from computemeter import plan
from computemeter.cpu import cpu_device
from computemeter.planning.batch_size import (
    LIMITS,
    learning_rate_factor,
    limit_of,
    limit_warning,
)
from computemeter.planning.plan_plot import plot
from computemeter.planning.plan_table import render

RESNET = {"operations_per_pass": 7.72e9, "examples": 1.28e6, "epochs": 90}
SMALL = {"flops_per_example": 1e9, "examples": 1000, "batch_sizes": (10,), "devices": (1e12,)}


def resnet(**options):
    return plan(**{**RESNET, "batch_sizes": (256, 8192), "devices": (200e15,), **options})


def small(**options):
    return plan(**{**SMALL, **options})


# What the figures are.


def test_the_text_s_resnet_50_takes_five_seconds_without_the_factor_3():
    told = resnet(passes=1)
    # 7.72e9 x 90 x 1.28e6 = 8.893e17 ("10^18"); / 200e15 = 4.45 s ("5 seconds")
    assert told.flops == 7_720_000_000 * 90 * 1_280_000 == 889_344_000_000_000_000
    assert told.rows[0].ideal_seconds == pytest.approx(4.44672)
    assert "forward passes only: training costs 3 times as much" in told.notes
    whole = resnet()
    assert whole.flops == 3 * told.flops
    assert not any("forward passes only" in note for note in whole.notes)


def test_fixed_epochs_fix_the_operations_while_iterations_fall():
    rows = resnet(batch_sizes=(256, 512, 8192)).rows
    assert {row.flops for row in rows} == {3 * 889_344_000_000_000_000}
    assert len({row.expected_seconds for row in rows}) == 1
    # 1.28e6 / 256 = 5,000; / 512 = 2,500; / 8,192 = 156.25: 157 with the last, smaller batch
    assert [row.iterations for row in rows] == [90 * 5000, 90 * 2500, 90 * 157]


def test_ideal_and_expected_time_and_gpu_hours_by_hand():
    two, eight = small(devices=("A100@fp32",), counts=(2, 8), batch_sizes=(8,)).rows
    # 1e9 x 1000 = 1e12 FLOP; an A100 does 19.49e12 FLOP/s in fp32
    assert two.ideal_seconds == pytest.approx(1 / (2 * 19.49))
    assert two.expected_seconds == pytest.approx(1 / (2 * 19.49) / 0.33)
    assert eight.ideal_seconds == pytest.approx(two.ideal_seconds / 4)
    assert eight.device_hours == two.device_hours == pytest.approx(1 / 19.49 / 0.33 / 3600)


def test_the_cpu_is_assumed_at_17_percent_and_anything_else_if_asked():
    peak = cpu_device().peaks.get("fp32")
    if peak is None:
        with pytest.raises(ValueError, match="no known peak"):
            small(devices="cpu")
        return
    row = small(devices="cpu").rows[0]
    assert row.expected_seconds == pytest.approx(1e12 / peak / 0.17)
    assert small(devices=1e12, utilization=0.5).rows[0].expected_seconds == pytest.approx(2)


def test_the_four_ways_to_give_the_operations():
    def flops(**way):
        return small(**{"flops_per_example": None, **way}).flops

    assert flops(flops_per_example=6e9) == 6e12
    assert flops(operations_per_pass=2e9) == 6e12  # x 3 passes
    assert flops(add_multiplies_per_pass=1e9) == 6e12  # x 2 x 3
    assert flops(parameters=1e6, tokens=1e6) == 6e12  # 6PD, whatever the examples are


def test_a_language_model_s_batch_is_in_tokens():
    told = plan(parameters=3.8e9, tokens=3.3e12, batch_sizes=4e6, devices="A100", counts=512)
    assert told.flops == 6 * 3_800_000_000 * 3_300_000_000_000
    assert told.rows[0].iterations == 825_000  # 3.3e12 / 4e6
    assert not told.rows[0].past_limit  # reported of images
    assert told.in_tokens
    assert "batch, tokens" in str(told)


def test_an_epoch_may_be_a_part_and_a_sequence_one_value():
    row = small(epochs=0.25, batch_sizes=30).rows[0]
    assert row.iterations == 9  # ceil(1000 / 30) = 34, a quarter of it 8.5
    assert row.flops == 25 * 10**10


def test_a_device_with_its_own_number_keeps_it():
    rows = small(devices=("4xA100", "A100"), counts=(1, 2), batch_sizes=(8,)).rows
    assert [row.devices for row in rows] == [4, 1, 2]


@pytest.mark.parametrize(
    "twice",
    [
        {"devices": ("A100", "1xA100")},
        {"devices": ("A100", "a100", "NVIDIA A100")},
        {"devices": (2e15, "2 PFLOP/s")},
        {"devices": "A100", "counts": (1, 1.0)},
        {"devices": "A100", "batch_sizes": (10, 10.0)},
    ],
)
def test_what_is_asked_for_twice_is_there_once(twice):
    told = small(**twice)
    assert len(told.rows) == len(told.batches) == 1
    assert sum(line.startswith("1 x ") for line in str(told).splitlines()) == 1


def test_a_device_has_one_name_in_every_number():
    rows = small(devices=("A100", "4xa100"), batch_sizes=8).rows
    assert [(row.device, row.devices) for row in rows] == [("A100 at bf16", 1), ("A100 at bf16", 4)]


def test_json_holds_every_row():
    counts, epochs, rate = np.array([1, 8]), np.int64(90), np.float32(0.1)
    plain = resnet(counts=counts, epochs=epochs, learning_rate=rate).to_dict()
    told = json.loads(json.dumps(plain))
    assert told["flops"] == 3 * 889_344_000_000_000_000
    assert [(row["batch_size"], row["devices"]) for row in told["rows"]] == [
        (256, 1),
        (8192, 1),
        (256, 8),
        (8192, 8),
    ]


# The batch size.


def test_linear_scaling_of_the_learning_rate():
    assert learning_rate_factor(8192, 256) == 32
    rows = resnet(learning_rate=0.1, base_batch=128).rows
    assert [row.learning_rate_factor for row in rows] == [2, 64]
    assert [row.learning_rate for row in rows] == pytest.approx([0.2, 6.4])
    assert resnet().base_batch == 256  # the smallest
    assert any("arXiv:1706.02677" in note for note in resnet().notes)
    with pytest.raises(ValueError, match="base_batch must be a finite number above 0, got 0"):
        learning_rate_factor(256, 0)


def test_limits_are_those_reported():
    assert [(limit.network, limit.batch_size) for limit in LIMITS] == [
        ("AlexNet", 1024),
        ("ResNet-50", 8192),
    ]
    assert limit_of("alexnet") is LIMITS[0]
    assert limit_of("resnet_50") is LIMITS[1]
    assert limit_of("ResNet-101") is limit_of(None) is None


@pytest.mark.parametrize(
    ("network", "batch", "said"),
    [
        ("AlexNet", 1024, ""),
        ("AlexNet", 1025, "batch 1,025 is past 1,024, above which AlexNet"),
        ("ResNet-50", 8192, ""),
        ("ResNet-50", 16_384, "arXiv:1706.02677"),
        (None, 8192, ""),
        (None, 8193, "the limit of other networks is not known"),
        ("GPT", 8193, "the limit of other networks is not known"),
    ],
)
def test_batches_past_what_was_reported_are_warned_of(network, batch, said):
    warning = limit_warning([256, batch], network)
    assert said in warning
    assert bool(said) == bool(warning)
    told = resnet(batch_sizes=(256, batch), network=network)
    assert [row.past_limit for row in told.rows] == [False, bool(said)]
    assert (warning in told.warnings) == bool(said)


def test_a_batch_that_does_not_divide_among_the_devices_is_told_of():
    told = small(batch_sizes=(100, 64), counts=(1, 8))
    assert [row.batch_per_device for row in told.rows] == [100, 64, None, 8]
    # 100 / 8 = 12.5
    assert any("100 does not divide among 8 devices (12.5 each)" in one for one in told.warnings)
    assert len(told.warnings) == 1


def test_a_batch_larger_than_an_epoch_is_told_of():
    assert (
        "batch 2,000 is larger than an epoch, which has 1,000 examples"
        in small(batch_sizes=2000).warnings
    )


# What is wrong.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": (312,)}, "312 FLOP/s is slower than any device; did you mean 312 TFLOP/s"),
        ({"devices": ("312",)}, "did you mean 312 TFLOP/s"),
        ({"devices": (312e24,)}, "faster than any machine"),
        ({"devices": ("NVIDIA A100-SXM4-41GB",)}, r"not in the table of peaks \(nearest: A100"),
        ({"devices": ("H100",)}, "ambiguous: it could be H100 SXM5 80GB"),
        ({"devices": (0,)}, "peak must be a finite number above 0, got 0"),
        ({"devices": (None,)}, "got None"),
        ({"devices": ()}, "devices are missing"),
        ({"batch_sizes": ()}, "batch_sizes are missing"),
        ({"batch_sizes": (2.5,)}, "a batch size must be a whole number above 0, got 2.5"),
        ({"batch_sizes": ("many",)}, "a batch size must be a finite number above 0, got 'many'"),
        ({"batch_sizes": None}, "batch_sizes must be a sequence, got None"),
        ({"counts": (0,)}, "a count must be a finite number above 0, got 0"),
        ({"counts": ()}, "counts are missing"),
        ({"counts": [[1]]}, r"a count must be a finite number above 0, got \[1\]"),
        ({"devices": [["A100"]]}, r"peak must be a finite number above 0, got \['A100'\]"),
        ({"network": 5}, "network must be a name, got 5"),
        ({"passes": 1}, "of all passes: leave passes out"),
        ({"examples": 1e20, "epochs": 1e30}, r"1.0e\+59 FLOP are a million times the largest"),
        ({"flops_per_example": 1, "examples": 1, "epochs": 0.1}, "less than one FLOP"),
        ({"epochs": -1}, "epochs must be a finite number above 0, got -1"),
        ({"epochs": float("nan")}, "epochs must be a finite number above 0, got nan"),
        ({"examples": True}, "examples must be a finite number above 0, got True"),
        ({"examples": None}, "examples are missing"),
        ({"examples": 1.5}, "examples must be a whole number above 0, got 1.5"),
        ({"flops_per_example": 0}, "flops_per_example must be a finite number above 0, got 0"),
        ({"flops_per_example": None}, "give the operations in one way, .* got none"),
        ({"parameters": 1e9, "tokens": 1e9}, "got flops_per_example and parameters"),
        ({"tokens": 1e9}, "tokens go with parameters"),
        ({"flops_per_example": None, "parameters": 1e9}, "tokens are missing"),
        ({"flops_per_example": None, "parameters": 3.8, "tokens": 1e9}, "did you mean 3.8B"),
        ({"utilization": 33}, r"share of peak above 0 and at most 1 \(0.33, not 33\)"),
        ({"learning_rate": 0}, "learning_rate must be a finite number above 0, got 0"),
        ({"base_batch": 0.5}, "base_batch must be a whole number above 0, got 0.5"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(options, said):
    with pytest.raises(ValueError, match=said) as caught:
        small(**options)
    assert "\n" not in str(caught.value)


def test_tokens_of_all_epochs_want_no_epochs():
    with pytest.raises(ValueError, match="leave epochs out"):
        plan(parameters=1e9, tokens=1e9, epochs=2, batch_sizes=1, devices=1e15)


def test_absurd_times_are_questioned():
    # 1e12 x 1e12 FLOP on 1e12 x 0.33 FLOP/s: 3.0303e12 s / (365.25 x 86,400) = 96,025 years
    assert (
        "96,025 years are expected: are the operations those of one example?"
        in small(flops_per_example=1e12, examples=10**12).warnings
    )
    # 1 x 1000 FLOP on the same: 3.03e-9 s
    assert any("lack a G or an M" in one for one in small(flops_per_example=1).warnings)
    assert small().warnings == ()


def test_an_option_of_the_probe_wants_a_model():
    with pytest.raises(TypeError, match="'epoch' only with a model"):
        small(epoch=3)
    with pytest.raises(ValueError, match="batch is missing"):
        plan(torch.nn.Linear(2, 2), examples=10)


# How it looks.


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(width):
    told = resnet(batch_sizes=(256, 1000, 65_536), devices=("NVIDIA H100 80GB HBM3@fp8", "A100"),
                  counts=(1, 8, 64), learning_rate=0.1, network="ResNet-50")  # fmt: skip
    lines = render(told, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("2.67 EFLOP" in line for line in lines) == 4  # the headline and three batches
    assert any(line.split()[:3] == ["65,536", "!", "1,800"] for line in lines)  # 20 x 90


def test_a_picture_is_drawn_and_is_the_same_again():
    from matplotlib.image import imread

    told = resnet(devices=("A100", 200e15), counts=(1, 8), network="AlexNet")
    assert plot(told, "svg") == plot(told, "svg")
    assert imread(io.BytesIO(plot(told))).shape == (840, 1620, 4)


def test_without_matplotlib_the_picture_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'computemeter\[trend\]'"):
        plot(small())
