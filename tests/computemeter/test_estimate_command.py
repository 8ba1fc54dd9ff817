"""`computemeter estimate`: a run worked out from what is typed, and the sources' examples."""

import json

import pytest
from typer.testing import CliRunner

from computemeter.cli import app

ALEXNET = ("--add-multiplies", "750M", "--samples", "1.2M", "--epochs", "90")
GTX_580 = ("--peak", "1.58 TFLOP/s", "--devices", "2", "--time", "5.5 days")
RESNET_50 = ("--operations", "7.72e9", "--samples", "1.28M", "--epochs", "90")
LANGUAGE = ("--parameters", "3.8B", "--tokens", "3.3T")


def invoke(*arguments):
    return CliRunner().invoke(app, ["estimate", *arguments], prog_name="computemeter")


def lines(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return [line.strip() for line in result.stdout.splitlines()]


def told(*arguments):
    return json.loads(invoke(*arguments, "--json").stdout)


def test_alexnet_by_both_methods_step_by_step():
    assert lines(*ALEXNET, *GTX_580) == [
        "Method 1, operations",
        "750M add-multiplies per example",
        "x 2 FLOP per add-multiply = 1.5 GFLOP per example, forward",
        "x 3 passes (forward 1, backward 2) = 4.5 GFLOP per example, trained",
        "x 1.2M examples = 5.4 PFLOP per epoch",
        "x 90 epochs = 486 PFLOP",
        "/ 8.64e19 FLOP per pfs-day = 0.00562 pfs-days",
        "",
        "Method 2, GPU time",
        "2 devices",
        "x 5.5 days of 86,400 s",
        "x 1.58 TFLOP/s peak = 1.5 EFLOP at peak",
        "x 0.33 utilisation = 496 PFLOP",
        "/ 8.64e19 FLOP per pfs-day = 0.00574 pfs-days",
        "note: 33 % of peak is an assumption, not a measurement",
        "",
        "GPU time / operations = 1.02: agree",
        "the methods are 1.02x apart: the operations would be 32 % of peak where 33 % is assumed",
    ]


def test_json_has_exact_flop():
    report = told(*ALEXNET, *GTX_580)
    assert report["operations"]["flops"] == 486 * 10**15
    assert report["gpu_time"]["flops"] == 495_538_560 * 10**9
    assert report["verdict"] == "agree"
    assert report["ratio"] == pytest.approx(495.53856 / 486)
    assert report["machine"] == {
        "peak_flops": 1.58e12,
        "devices": 2,
        "utilization": 0.33,
        "name": "",
    }


def test_the_second_sources_resnet_50_takes_its_five_seconds():
    # 7.72e9 x 1.28e6 x 90 = 8.89e17, "about 1e18"; / 200e15 = 4.45 s, "5 seconds"
    shown = lines(*RESNET_50, "--passes", "1", "--peak", "200 PFLOP/s")
    assert "x 90 epochs = 889 PFLOP" in shown
    assert "note: forward passes only: training costs 3 times as much" in shown
    assert "889 PFLOP / (1 device of 200 PFLOP/s) = 4.45 s at peak, the least possible" in shown
    assert "/ 0.33 utilisation = 13.5 s expected" in shown  # 4.44672 / 0.33
    # With the factor 3 that the text leaves out:
    assert told(*RESNET_50, "--peak", "200e15")["ideal_seconds"] == pytest.approx(3 * 4.44672)


def test_a_language_model_and_a_mixture_of_experts():
    assert told(*LANGUAGE)["operations"]["flops"] == 7_524 * 10**19  # 6 x 3.8e9 x 3.3e12
    experts = told("--parameters", "671B", "--active", "37B", "--tokens", "14.8T")
    assert experts["operations"]["flops"] == 32_856 * 10**20  # 6 x 37e9 x 14.8e12
    assert "37B active (of 671B) parameters" in experts["operations"]["text"]


def test_frozen_weights_by_where_they_are():
    # 2 x 3.8e9 x 3.3e12 = 2.508e22 a pass; 3 - 2 x 0.9 = 1.2 and 3 - 0.9 = 2.1 passes
    frozen = (*LANGUAGE, "--frozen", "90 %", "--frozen-at")
    assert told(*frozen, "input")["operations"]["flops"] == 30_096 * 10**18
    assert told(*frozen, "throughout")["operations"]["flops"] == 52_668 * 10**18
    assert any("no gradient enters" in line for line in lines(*frozen, "input"))
    assert any("the gradient passes through" in line for line in lines(*frozen, "throughout"))


def test_a_device_by_name_and_device_hours():
    # 200,000 h x 3,600 s x 312e12 x 0.5 = 1.1232e23
    shown = told("--device", "A100", "--device-hours", "200k", "--utilization", "50 %")
    assert shown["gpu_time"]["flops"] == 11_232 * 10**19
    assert shown["gpu_time"]["text"].startswith("A100 at bf16 x 200,000 device-hours")
    assert shown["verdict"] == "unknown"
    assert shown["ratio"] is None


def test_an_extra_factor_is_in_both_methods():
    # 10 restarts: 4.86e18, 4.9553856e18
    report = told(*ALEXNET, *GTX_580, "--factor", "10")
    assert report["operations"]["flops"] == 486 * 10**16
    assert report["gpu_time"]["flops"] == 4_955_385_600 * 10**9


def test_one_method_says_that_nothing_checks_it():
    assert lines(*GTX_580)[-1] == "One method only: nothing says whether it is right."
    assert lines(*ALEXNET)[-1] == "One method only: nothing says whether it is right."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give method 1 (--add-multiplies or --operations with --samples"),
        (("--operations", "7.72e9"), "--operations lacks --samples"),
        (("--parameters", "3.8B"), "--parameters lacks --tokens"),
        (("--samples", "1k"), "--samples has no meaning without --add-multiplies"),
        (("--device", "A100"), "--device or --peak lacks --time"),
        (("--time", "3 h"), "--time has no meaning without --device or --peak"),
        ((*LANGUAGE, "--epochs", "3"), "--epochs has no meaning with --tokens"),
        ((*LANGUAGE, *ALEXNET), "give one of --add-multiplies or --parameters"),
        ((*LANGUAGE, "--frozen", "0.9"), "--frozen lacks --frozen-at"),
        ((*LANGUAGE, "--frozen-at", "input"), "--frozen-at has no meaning without --frozen"),
        ((*LANGUAGE, "--frozen", "1", "--frozen-at", "input"), "above 0 and below 1"),
        ((*ALEXNET, "--device", "2xA100", "--peak", "1e12"), "--peak has no meaning with --device"),
        (("--device", "2xA100", "--device-hours", "9"), "leave the count out of --device"),
    ],
)
def test_what_is_missing_or_said_twice(arguments, said):
    assert said in error(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--operations", "many", "--samples", "1k"), '--operations: "many": accepted is a number'),
        ((*RESNET_50[:4], "--epochs", "0"), '--epochs: "0": accepted is a number above 0'),
        ((*RESNET_50[:4], "--epochs", "-1"), '--epochs: "-1": accepted is a number above 0'),
        ((*GTX_580, "--devices", "0"), '--devices: "0"'),
        ((*GTX_580, "--time", "later"), '--time: "later": accepted is a time above 0'),
        ((*GTX_580, "--time", "0 h"), '--time: "0 h"'),
        (
            (*GTX_580, "--peak", "312"),
            "--peak: a peak of 312 FLOP/s is slower than any device; did",
        ),
        ((*GTX_580, "--utilization", "33"), "did you mean 33 %?"),
        (("--device", "4xA10O", "--time", "1 h"), "A100 PCIe); or give its dense peak"),
        (("--device", "H100", "--time", "1 h"), "ambiguous: it could be H100 SXM5 80GB, H100 PCIe"),
        (("--operations", "7.72", "--samples", "1.28M"), "did you mean 7.72G?"),
        (("--parameters", "7", "--tokens", "3.3T"), "did you mean 7B?"),
        (("--parameters", "7B", "--active", "70B", "--tokens", "1T"), "more than all 7B"),
        (("--operations", "1e40", "--samples", "1e40"), "a factor or its unit must be wrong"),
        ((*ALEXNET, *GTX_580, "--time", "100 ms"), "the methods differ 4.7e+06x"),
    ],
)
def test_quantities_that_are_none_or_absurd(arguments, said):
    # The last: 486e15 / (2 x 0.1 s x 1.58e12 x 0.33) = 4.66e6
    assert said in error(*arguments)


def error(*arguments):
    """The one line on the error output of a command that failed."""
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    return line.removeprefix("computemeter: ")


def test_a_terminal_obeys_no_name():
    assert "\x1b" not in error("--device", "\x1b[31mA100", "--time", "1 h")


def test_the_examples_list_all_17_results():
    shown = lines("--examples")
    for name in ("AlexNet", "Dropout", "DQN", "Xception", "Adam Optimizer", "GANs", "Word2Vec"):
        assert name in shown
    alexnet = shown[shown.index("AlexNet") :]
    assert alexnet[1].endswith("x 1.2M examples x 90 epochs = 486 PFLOP = 0.00562 pfs-days")
    # 470 / 486 and 0.0054 / 0.005625
    assert alexnet[2] == (
        "printed 470 PF = 0.0054 pfs-days, which is 0.967 and 0.96 times what the factors give"
    )
    assert alexnet[5] == "GPU time / operations = 1.02 (1.07 as printed): agree"
    assert "printed <0.006 pfs-days, without factors" in shown
    assert sum(line.endswith("DOES NOT FOLLOW") for line in shown) == 2
    assert shown[-1] == (
        "17 results. Of 16 figures with factors 2 are more than 5 % off what these give: Seq2Seq, "
        "method 1 (0.655 times); VGG, method 2 (1.15 times). 6 results have a figure and no "
        "factors."
    )


def test_the_examples_tell_of_the_factor_that_the_second_source_leaves_out():
    shown = lines("--examples")
    assert "on a machine of 200 PFLOP/s at peak: 4.45 s" in shown
    assert "printed 5 seconds, which is 1e18 / 200e15" in shown
    (note,) = [line for line in shown if "leaves out the factor 3" in line]
    assert note.endswith("with it 2.67 EFLOP = 0.0309 pfs-days, 13.3 s at peak")


def test_the_examples_as_json():
    report = told("--examples")
    assert len(report["appendix"]) == 17
    by_name = {each["name"]: each for each in report["appendix"]}
    seq2seq = by_name["Seq2Seq"]["operations"]
    assert seq2seq["recomputed"]["flops"] == 11_149_200 * 10**12
    assert seq2seq["printed_pf"] == 7300
    assert seq2seq["follows"] is False
    assert by_name["GANs"]["total"]["follows"] is None
    assert report["resnet_50"]["ideal_seconds"] == pytest.approx(4.44672)


def test_the_examples_want_no_other_option():
    result = invoke("--examples", "--epochs", "3")
    assert result.exit_code == 2
    assert "wants no other option" in result.stderr


def test_help_has_an_example():
    assert "Example: computemeter estimate --add-multiplies 750M" in invoke("--help").stdout
