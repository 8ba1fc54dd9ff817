"""`computemeter plan`: what is typed, what is printed, and how it fails."""

import json

import pytest
from typer.testing import CliRunner

from computemeter.cli import app
from computemeter.commands import plan as module

RESNET = {"--operations": "7.72G", "--samples": "1.28M", "--epochs": "90", "--batch": "256 8192",
          "--device": "200 PFLOP/s"}  # fmt: skip


def invoke(options, *flags):
    arguments = [word for name, value in options.items() if value is not None
                 for word in (name, value)]  # fmt: skip
    return CliRunner().invoke(app, ["plan", *arguments, *flags], prog_name="computemeter")


def resnet(*flags, **options):
    named = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return invoke({**RESNET, **named}, *flags)


def test_resnet_50_of_the_text():
    result = resnet(passes="1")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    # 7.72e9 x 90 x 1.28e6 = 8.893e17; / 200e15 = 4.45 s, and / 0.33 = 13.5 s
    assert lines[0] == ["889", "PFLOP", "=", "0.0103", "pfs-days"]
    assert ["256", "450,000", "889", "PFLOP", "1"] in lines
    assert ["8,192", "14,130", "889", "PFLOP", "32"] in lines
    assert ["1", "x", "200", "PFLOP/s", "200", "PFLOP/s", "0.33", "4.45", "s", "13.5", "s"] in [
        line[:-1] for line in lines
    ]
    assert "note: forward passes only: training costs 3 times as much" in result.output


def test_numbers_may_be_repeated_or_side_by_side():
    rows = json.loads(resnet("--json", "--batch", "512", "--count", "1", "--count", "2 4").output)
    assert [(row["devices"], row["batch_size"]) for row in rows["rows"]] == [
        (count, size) for count in (1, 2, 4) for size in (256, 8192, 512)
    ]


def test_a_device_in_other_letters_is_the_same():
    rows = json.loads(resnet("--json", "--device", "a100", device="A100").output)["rows"]
    assert [row["device"] for row in rows] == ["A100 at bf16"] * 2  # a row for each batch


def test_the_other_options_reach_the_plan():
    result = resnet("--json", device="A100@fp32", utilization="50 %", learning_rate="0.1",
                    base_batch="512", network="alexnet")  # fmt: skip
    told = json.loads(result.output)
    first, second = told["rows"]
    assert first["machine"]["utilization"] == 0.5
    assert first["machine"]["peak_flops"] == 19.49e12
    assert first["learning_rate"] == pytest.approx(0.05)
    assert second["past_limit"]
    assert "AlexNet" in told["warnings"][0]
    words = {"operations": None, "samples": None, "epochs": None}
    told = json.loads(resnet("--json", **words, parameters="3.8B", tokens="3.3T").output)
    assert told["flops"] == 6 * 3_800_000_000 * 3_300_000_000_000
    for name in ("add_multiplies", "flops_per_sample"):
        told = json.loads(resnet("--json", operations=None, **{name: "1G"}).output)
        factor = {"add_multiplies": 6, "flops_per_sample": 1}[name]
        assert told["flops"] == factor * 10**9 * 1_280_000 * 90


@pytest.mark.parametrize("name", ["plan.png", "plan.SVG"])
def test_a_picture_is_written(tmp_path, name):
    file = tmp_path / name
    result = resnet(plot=str(file))
    assert f"written: {file}" in result.output
    assert file.read_bytes().startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": "256,512"}, '"256,512" may be one number or several'),
        ({"batch": "many"}, '--batch: "many": accepted is a number above 0'),
        ({"batch": "0"}, '--batch: "0": accepted'),
        ({"batch": "-8"}, '--batch: "-8": accepted'),
        ({"batch": " "}, "--batch is empty"),
        ({"count": "0"}, '--count: "0": accepted'),
        ({"epochs": "ninety"}, '--epochs: "ninety": accepted'),
        ({"samples": None}, "--samples is missing"),
        ({"samples": "0"}, '--samples: "0": accepted'),
        ({"operations": None}, "give the operations in one way: --operations, --add-multiplies"),
        ({"add_multiplies": "1G"}, "give the operations in one way"),
        (
            {"operations": None, "flops_per_sample": "1G", "passes": "1"},
            "--flops-per-sample is of all passes: leave --passes out",
        ),
        ({"samples": "1e20", "epochs": "1e30"}, "are a million times the largest training runs"),
        ({"operations": "7.72"}, "did you mean 7.72G?"),
        ({"device": "312"}, "did you mean 312 TFLOP/s?"),
        ({"device": "NVIDIA A100-SXM4-41GB"}, "is not in the table of peaks (nearest: A100"),
        ({"device": "\x1b[31mA100"}, "\N{REPLACEMENT CHARACTER}[31mA100"),
        ({"utilization": "33"}, "did you mean 33 %?"),
        ({"learning_rate": "nan"}, '--learning-rate: "nan": accepted'),
        ({"plot": "plan.pdf"}, "accepted is a .png or .svg file"),
        ({"plot": "no/such/folder/plan.png"}, "there is no such folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_of_1(options, said):
    result = resnet(**options)
    assert result.exit_code == 1
    assert said in result.output
    assert result.output.startswith("computemeter: ")
    assert len(result.output.splitlines()) == 1
    assert "\x1b" not in result.output


def test_batch_and_device_are_asked_for():
    for name in ("--batch", "--device"):
        result = invoke({**RESNET, name: None})
        assert result.exit_code == 2
        assert f"Missing option '{name}'" in result.output


def test_a_picture_that_cannot_be_written_or_drawn_is_one_line(tmp_path, monkeypatch):
    folder = tmp_path / "plan.png"
    folder.mkdir()
    result = resnet(plot=str(folder))
    assert result.exit_code == 1
    assert "Is a directory" in result.output
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    result = resnet(plot=str(tmp_path / "other.png"))
    assert result.exit_code == 1
    assert "pip install 'computemeter[trend]'" in result.output


def test_the_help_has_an_example():
    result = CliRunner().invoke(app, ["plan", "--help"], prog_name="computemeter")
    assert "Example: computemeter plan --operations" in " ".join(result.output.split())
