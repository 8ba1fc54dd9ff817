"""Estimates worked out by hand: quantities as typed, factors with units, both methods compared."""

import doctest
import importlib
import json
import math

import pytest
import torch

from computemeter import Meter
from computemeter.planning.frozen import Frozen
from computemeter.planning.machine import Machine
from computemeter.planning.published import RESNET_50_MACHINE, appendix_again, resnet_50
from computemeter.planning.quantities import flops_per_second, number, seconds, share
from computemeter.planning.worked import by_gpu_time, by_operations, by_parameters, compare

GTX_580 = Machine(1.58e12, 2, name="GTX 580")
ALEXNET = by_operations(750e6, examples=1.2e6, epochs=90)
DAYS_ON_GTX_580 = by_gpu_time(GTX_580, 5.5 * 86_400)


def test_alexnet_reads_like_the_appendix():
    # 7.5e8 x 2 x 3 = 4.5e9; x 1.2e6 = 5.4e15; x 90 = 4.86e17; / 8.64e19 = 0.005625
    assert ALEXNET.flops == 486 * 10**15
    assert str(ALEXNET) == (
        "750M add-multiplies per example x 2 FLOP per add-multiply x 3 passes (forward 1, backward "
        "2) x 1.2M examples x 90 epochs = 486 PFLOP = 0.00562 pfs-days"
    )
    assert list(ALEXNET.steps()) == [
        "750M add-multiplies per example",
        "x 2 FLOP per add-multiply = 1.5 GFLOP per example, forward",
        "x 3 passes (forward 1, backward 2) = 4.5 GFLOP per example, trained",
        "x 1.2M examples = 5.4 PFLOP per epoch",
        "x 90 epochs = 486 PFLOP",
        "/ 8.64e19 FLOP per pfs-day = 0.00562 pfs-days",
    ]


def test_gpu_time_reads_like_the_appendix():
    # 2 x 475,200 s x 1.58e12 = 1.501632e18; x 0.33 = 4.9553856e17
    assert DAYS_ON_GTX_580.flops == 495_538_560 * 10**9
    assert str(DAYS_ON_GTX_580) == (
        "2 x GTX 580 x 5.5 days of 86,400 s x 1.58 TFLOP/s peak x 0.33 utilisation = 496 PFLOP = "
        "0.00574 pfs-days"
    )


def test_the_two_methods_on_alexnet_agree():
    both = compare(ALEXNET, DAYS_ON_GTX_580)
    assert both.ratio == both.divergence == pytest.approx(495.53856 / 486)
    assert both.verdict == "agree"
    # 4.86e17 of the 1.501632e18 that the cards could have done
    assert both.implied_utilization == pytest.approx(0.486 / 1.501632)
    assert both.diagnosis == (
        "the methods are 1.02x apart: the operations would be 32 % of peak where 33 % is assumed"
    )
    json.dumps(both.to_dict())


@pytest.mark.parametrize(
    ("parameters", "tokens", "flops"),
    [  # 6 x P x D, of the EU guidelines' annex, which rounds them to 7.5e22, 1.3e23, 3.7e23
        (3.8e9, 3.3e12, 7_524 * 10**19),
        (0.6e9, 36e12, 1_296 * 10**20),
        (1.7e9, 36e12, 3_672 * 10**20),
    ],
)
def test_a_dense_language_model_is_6pd(parameters, tokens, flops):
    assert by_parameters(parameters, tokens).flops == flops


def test_a_mixture_of_experts_counts_by_its_active_parameters():
    experts = by_parameters(37e9, 14.8e12, all_parameters=671e9)
    assert experts.flops == 32_856 * 10**20  # 6 x 37e9 x 14.8e12
    assert str(experts).startswith("37B active (of 671B) parameters x 2 FLOP per parameter")
    with pytest.raises(ValueError, match="70B active parameters are more than all 7B"):
        by_parameters(70e9, 1e12, all_parameters=7e9)


def test_frozen_at_the_input_saves_both_gradients():
    # Of 10 operations 8 are frozen: forward 10, both gradients of the other 2: 4. So 14, not 30.
    frozen = by_operations(10, 1, flops_per_add_multiply=1, frozen=Frozen(0.8, "input"))
    assert frozen.flops == 14
    assert "no gradient enters: 3 - 2 x 0.8 = 1.4 passes" in frozen.assumptions[0]


def test_frozen_throughout_saves_the_gradient_of_the_weights():
    # Forward 10, gradients of all inputs 10, of the 2 operations' weights 2: 22.
    frozen = by_operations(10, 1, flops_per_add_multiply=1, frozen=Frozen(0.8, "throughout"))
    assert frozen.flops == 22
    assert "the gradient passes through: 3 - 0.8 = 2.2 passes" in frozen.assumptions[0]


@pytest.mark.parametrize(
    ("trained", "frozen"),
    [
        (range(6, 10), Frozen(0.6, "input")),
        (range(1), Frozen(0.9, "throughout")),
        (range(10), None),
    ],
)
def test_the_passes_are_those_that_the_counter_finds(trained, frozen):
    layers = [torch.nn.Linear(16, 16, bias=False) for _ in range(10)]
    model = torch.nn.Sequential(*layers)
    for position, layer in enumerate(layers):
        layer.requires_grad_(position in trained)
    batch = torch.ones(4, 16)
    counted = Meter.count(lambda: model(batch).sum().backward()).model_flops
    layer_flops = 2 * 4 * 16 * 16
    told = by_operations(10 * layer_flops, 1, flops_per_add_multiply=1, frozen=frozen)
    # The method gives every layer a gradient of its inputs; the first that is trained needs none.
    assert counted == told.flops - layer_flops


@pytest.mark.parametrize("wrong", [0, 1, 1.5, -0.1, math.nan])
def test_a_frozen_share_is_between_0_and_1(wrong):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        Frozen(wrong, "input")


def test_where_the_frozen_part_is_must_be_one_of_two_words():
    with pytest.raises(ValueError, match='at "input" or "throughout", got \'output\''):
        Frozen(0.5, "output")


def test_passes_and_a_frozen_share_are_not_both_given():
    with pytest.raises(ValueError, match="the same thing twice"):
        by_parameters(1e9, 1e12, passes=2, frozen=Frozen(0.5, "input"))


def test_a_device_is_looked_up_by_name():
    machine = Machine.named("4xA100")
    assert (machine.peak_flops, machine.devices, str(machine)) == (312e12, 4, "4 x A100 at bf16")
    assert Machine.named("A100@fp32").peak_flops == pytest.approx(19.5e12, rel=1e-3)
    with pytest.raises(ValueError, match=r"nearest: A10, A10G, A100 SXM4 40GB"):
        Machine.named("4xA10O")


def test_device_hours_need_no_number_of_devices():
    # 200,000 h x 3,600 s x 300e12 x 0.5, of the EU guidelines' annex, which prints 1e23
    hours = by_gpu_time(Machine(300e12, utilization=0.5), 200_000 * 3600, summed=True)
    assert hours.flops == 108 * 10**21
    assert "x 200,000 device-hours x 300 TFLOP/s peak x 0.5 utilisation" in str(hours)


def test_time_is_operations_over_peak_and_over_utilisation():
    machine = Machine(100e12, 4, 0.25)
    assert machine.ideal_seconds(4e15) == 10
    assert machine.expected_seconds(4e15) == 40
    assert str(machine) == "4 devices"


def test_one_method_has_no_verdict():
    alone = compare(ALEXNET, None)
    assert (alone.ratio, alone.divergence, alone.implied_utilization) == (None, None, None)
    assert alone.verdict == "unknown"
    with pytest.raises(ValueError, match="neither method"):
        compare(None, None)


def test_more_than_the_devices_can_do_is_an_input_that_is_wrong():
    # 1 h of a peak of 1e12 is 3.6e15; the operations are 36e15.
    work = by_operations(1e9, 6e6)
    both = compare(work, by_gpu_time(Machine(1e12), 3600))
    assert both.verdict == "alarm"
    assert both.implied_utilization == pytest.approx(10)
    assert both.diagnosis.startswith("an input is wrong: the operations are 10x what the devices")


def test_little_of_peak_asks_for_the_units():
    # 36e15 operations where 100 h of 1e13 could do 3.6e18: 1 % of peak
    both = compare(by_operations(1e9, 6e6), by_gpu_time(Machine(1e13), 360_000))
    assert both.verdict == "alarm"
    assert "1.0 % of peak where 33 % is assumed; so little is rare: check" in both.diagnosis


def test_a_millionfold_difference_is_refused():
    # 12 hours typed as microseconds would be: 1e6 x less
    with pytest.raises(ValueError, match=r"differ 1\.0e\+06x .* a unit must be wrong"):
        compare(ALEXNET, by_gpu_time(Machine(1e12, 1, 1), 486e15 / 1e12 / 1e6))
    assert compare(ALEXNET, by_gpu_time(Machine(1e12, 1, 1), 1.0)).verdict == "alarm"


@pytest.mark.parametrize("peak", [312, 989, 312e24])
def test_an_absurd_peak_is_questioned(peak):
    with pytest.raises(ValueError, match="TFLOP/s"):
        Machine(peak)


def test_absurd_counts_are_questioned():
    with pytest.raises(ValueError, match=r"did you mean 7\.72G\?"):
        by_operations(7.72, 1.28e6)
    with pytest.raises(ValueError, match=r"did you mean 1\.28M\?"):
        by_operations(7.72e9, 1.28)
    with pytest.raises(ValueError, match=r"3\.8 parameters are too few .* mean 3\.8B\?"):
        by_parameters(3.8, 3.3e12)
    with pytest.raises(ValueError, match="a million times the largest"):
        compare(by_operations(1e20, 1e20), None)
    with pytest.raises(ValueError, match=r"6\.0e\+400 FLOP are a million times the largest"):
        compare(by_operations(1e200, 1e200), None)  # past what a float holds
    with pytest.raises(ValueError, match="less than one FLOP"):
        compare(None, by_gpu_time(GTX_580, 1e-30))
    with pytest.raises(ValueError, match=r"at least 1 pass, the forward one, got 0\.5"):
        by_operations(1e9, 1e6, passes=0.5)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf])
def test_counts_are_above_zero(wrong):
    with pytest.raises(ValueError, match="examples must be a finite number above 0"):
        by_operations(1e9, wrong)
    with pytest.raises(ValueError, match="seconds must be a finite number above 0"):
        by_gpu_time(GTX_580, wrong)
    with pytest.raises(ValueError, match="devices must be a finite number above 0"):
        Machine(1e12, wrong)


# The appendix: PF by the printed factors, multiplied out by hand.
OPERATIONS_PF = {
    "AlexNet": 486,  # 7.5e8 x 1.2e6 x 90 x 6
    "DQN": 2.4,  # 2.5e6 x 1.6e8 x 6
    "Seq2Seq": 11_149.2,  # 3.8e8 x 6.52e8 x 7.5 x 6
    "VGG": 8524.8,  # 1.6e10 x 1.2e6 x 74 x 6
    "DeepSpeech2": 25_401.6,  # 9.8e7 x 2.16e9 x 20 x 6
    "ResNet-152": 10_506.24,  # 1.14e10 x 1.2e6 x 128 x 6
    "Neural Architecture Search": 1_920_000,  # 1e10 x 6.4e8 x 50 x 6
}
GPU_TIME_PF = {
    "AlexNet": 495.53856,  # 2 x 5.5 d x 1.58e12 x 0.33
    "Dropout": 175.63392,  # 4 d x 1.54e12 x 0.33
    "Visualizing and Understanding Conv Nets": 526.90176,  # 12 d x 1.54e12 x 0.33
    "Seq2Seq": 7983.36,  # 8 x 10 d x 3.5e12 x 0.33
    "VGG": 8724.672,  # 4 x 15 d x 5.1e12 x 0.33
    "DeepSpeech2": 20_736,  # 16 x 5 d x 6e12 x 0.5
    "Xception": 436_233.6,  # 60 x 30 d x 8.5e12 x 0.33
    "Neural Architecture Search": 2_682_408.96,  # 800 x 28 d x 4.2e12 x 0.33
    "Neural Machine Translation (GNMT)": 209_392.128 * math.sqrt(1000),  # 96 x 9 d x 8.5e12 x 0.33
}


def test_every_example_of_the_appendix_is_reproduced():
    found = appendix_again()
    one = {e.entry.name: e.operations.method.flops / 1e15 for e in found if e.operations}
    two = {e.entry.name: e.gpu_time.method.flops / 1e15 for e in found if e.gpu_time}
    assert one == pytest.approx(OPERATIONS_PF)
    assert two == pytest.approx(GPU_TIME_PF)
    assert sum(each.total is not None for each in found) == 6
    assert len(found) == 17


def test_the_product_so_far_is_told_where_it_has_a_name():
    method = by_operations(10, examples=1000, epochs=2)
    named = [(each.value, each.gives) for each in method.factors]
    assert named[:2] == [(10, ""), (2, "FLOP per example, forward")]
    assert [line.partition(" = ")[2] for line in method.steps()][:3] == [
        "",
        "20 FLOP per example, forward",  # 10 x 2
        "60 FLOP per example, trained",  # x 3 passes
    ]


def test_the_factors_shown_multiply_to_the_total():
    for each in appendix_again():
        for printed in filter(None, (each.operations, each.gpu_time)):
            product = math.prod(factor.value for factor in printed.method.factors)
            assert product == pytest.approx(printed.method.flops)


def test_two_printed_figures_do_not_follow():
    found = appendix_again()
    assert [e.entry.name for e in found if e.operations and not e.operations.follows] == ["Seq2Seq"]
    assert [e.entry.name for e in found if e.gpu_time and not e.gpu_time.follows] == ["VGG"]
    assert {e.total.follows for e in found if e.total} == {None}
    vgg = next(e for e in found if e.entry.name == "VGG")
    # 10,000 / 8,724.672, and 0.12 / (8,724.672 / 86,400)
    assert vgg.gpu_time.shares == pytest.approx((1.14617, 1.18837), rel=1e-4)


def test_ratios_as_printed_and_as_they_follow():
    found = {e.entry.name: e for e in appendix_again() if e.estimate}
    # 0.0058/0.0054, 0.093/0.085, 0.12/0.098, 0.25/0.3, 31/22
    printed = {"AlexNet": 1.07, "Seq2Seq": 1.09, "VGG": 1.22, "DeepSpeech2": 0.83}
    printed["Neural Architecture Search"] = 1.41
    assert {name: round(e.printed_ratio, 2) for name, e in found.items()} == printed
    for name, each in found.items():
        assert each.estimate.ratio == pytest.approx(GPU_TIME_PF[name] / OPERATIONS_PF[name])
        assert each.estimate.verdict == "agree"


def test_the_second_sources_resnet_50():
    # 7.72e9 x 90 x 1.28e6 = 8.89344e17, "about 1e18"; / 200e15 = 4.44672 s, "5 seconds"
    assert resnet_50().flops == 889_344 * 10**12
    assert RESNET_50_MACHINE.ideal_seconds(resnet_50().flops) == pytest.approx(4.44672)
    assert RESNET_50_MACHINE.ideal_seconds(1e18) == 5
    assert resnet_50(passes=3).flops == 3 * 889_344 * 10**12
    assert resnet_50().assumptions == ("forward passes only: training costs 3 times as much",)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("7.5", 7.5),
        ("3.8e9", 3_800_000_000),
        ("3.8B", 3_800_000_000),
        ("200k", 200_000),
        ("3.3T tokens", 3_300_000_000_000),
        ("1.28 million images", 1_280_000),
        ("1,280,000", 1_280_000),
    ],
)
def test_numbers(text, value):
    assert number(text) == value
    assert type(number(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "many", "0", "-3", "nan", "inf", "7,5", "1,2800", "5e", "3x", "\uff12"),
        *("5 days", "3 tokens tokens", "1e61", "1e999999999"),
    ],
)
def test_what_is_no_number_is_told_in_a_line(text):
    with pytest.raises(ValueError, match=f'^"{text}": accepted is a number above 0, such as .*$'):
        number(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("1e3", 1000),
        ("5.5 days", 475_200),  # 5.5 x 86,400
        ("3h12min", 11_520),  # 192 x 60
        ("0 h 5 min", 300),
        ("250 ms", 0.25),
        ("2 weeks", 1_209_600),  # 14 x 86,400
    ],
)
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "h", "0 h", "-1", "3 h 12", "5 tokens", "90 m", "1e9999999999999999999 s"]
)
def test_what_is_no_time_is_told_in_a_line(text):
    with pytest.raises(ValueError, match=f'^"{text}": accepted is a time above 0, such as .*$'):
        seconds(text)


@pytest.mark.parametrize(
    "text",
    ["312 TFLOP/s", "312e12", "312TFLOPS", "312 tflops/sec", "312 TF", "312T", "0.312 PFLOP/s"],
)
def test_peaks(text):
    assert flops_per_second(text) == 312 * 10**12


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("312", "312 FLOP/s is slower than any device; did you mean 312 TFLOP/s?"),
        ("312e12 TFLOP/s", "faster than any machine"),
        ("fast", '"fast": accepted is dense FLOP/s of one device'),
        ("312 TB/s", "accepted is dense FLOP/s"),
        ("-312 TFLOP/s", "accepted is dense FLOP/s"),
    ],
)
def test_what_is_no_peak_is_questioned(text, told):
    with pytest.raises(ValueError) as error:
        flops_per_second(text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_shares_and_percent():
    assert share("0.33") == share("33 %") == share("33%") == 0.33
    with pytest.raises(ValueError, match="did you mean 33 %"):
        share("33")
    for text in ("0", "-0.1", "330", "330 %", "x"):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            share(text)


def test_a_long_text_is_cut_and_obeyed_by_no_terminal():
    with pytest.raises(ValueError) as error:
        number("\x1b[31m" + "9x" * 1000)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 150


@pytest.mark.parametrize("name", ["factors", "frozen", "machine", "quantities", "worked"])
def test_the_examples_of_the_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(f"computemeter.planning.{name}")).failed == 0
