"""The shipped worked examples: complete, as printed, and consistent with the project's CSV."""

import csv
import dataclasses
import doctest
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from computemeter import appendix
from computemeter.appendix import PrintedFigure, load_appendix

CSV = Path(__file__).resolve().parents[3] / "shared" / "data" / "openai_2018_appendix.csv"
BY_NAME = {entry.name: entry for entry in load_appendix()}


@pytest.fixture(scope="module")
def rows():
    if not CSV.exists():
        pytest.skip("the CSV that the appendix was carried over from is not beside this checkout")
    with CSV.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_eleven_trend_models_and_six_modest_ones():
    groups = [entry.group for entry in load_appendix()]
    assert groups == ["trend"] * 11 + ["modest"] * 6


def test_is_read_once_and_cannot_be_changed():
    assert load_appendix() is load_appendix()
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_appendix()[0].name = "LeNet"


def test_alexnet_as_printed():
    alexnet = BY_NAME["AlexNet"]
    assert alexnet.paper_date == date(2012, 9, 30)
    assert alexnet.printed_operations == PrintedFigure(0.0054, 470)
    assert alexnet.printed_gpu_time == PrintedFigure(0.0058, 500)
    assert alexnet.printed is alexnet.printed_operations
    assert alexnet.operations.flops() == 486 * 10**15  # 0.75e9 * 1.2e6 * 90 * 2 * 3
    # 2 * 5.5 * 86,400 s * 1.58e12 * 0.33
    assert alexnet.gpu_time.flops() == 495_538_560 * 10**9


def test_upper_bounds_stay_upper_bounds():
    bounds = {e.name: e.printed.pfs_days for e in load_appendix() if e.printed.is_upper_bound}
    assert bounds == {
        "Adam Optimizer": 0.0007,
        "GANs": 0.006,
        "Word2Vec": 0.00045,
        "Variational Auto Encoders": 0.0000055,
    }
    assert str(BY_NAME["Adam Optimizer"].printed) == "<0.0007 pfs-days"
    assert str(BY_NAME["Attention is all you need"].printed) == "0.089 pfs-days"


def test_every_method_has_factors_and_a_figure_or_neither():
    for entry in load_appendix():
        assert (entry.operations is None) == (entry.printed_operations is None)
        assert (entry.gpu_time is None) == (entry.printed_gpu_time is None)
        assert (entry.group == "modest") == (entry.printed_total is not None)


def test_printed_figures_follow_from_the_factors_but_for_two():
    off = {}
    for entry in load_appendix():
        for factors, printed in (
            (entry.operations, entry.printed_operations),
            (entry.gpu_time, entry.printed_gpu_time),
        ):
            if factors and abs(printed.pf * 10**15 / factors.flops() - 1) > 0.05:
                off[entry.name] = round(printed.pf * 10**15 / factors.flops(), 3)
    # 7,300 / 11,149.2 by operations; 10,000 / 8,724.672 by GPU time. ResNet-152 is just inside:
    # 10,000 / 10,506.24 = 0.952.
    assert off == {"Seq2Seq": 0.655, "VGG": 1.146}


def test_names_dates_and_notes_are_those_of_the_csv(rows):
    entries = load_appendix()
    assert [entry.name for entry in entries] == [row["name"] for row in rows]
    assert [str(entry.paper_date) for entry in entries] == [row["paper_date"] for row in rows]
    assert [entry.group for entry in entries] == [row["group"].split()[0] for row in rows]
    # The modest ones' note says how the figures are kept; the TOML's header does that here.
    trend = [(entry.note, row["note"]) for entry, row in zip(entries, rows, strict=True)][:11]
    assert [note for note, _ in trend] == [note for _, note in trend]


def test_method_1_is_that_of_the_csv(rows):
    columns = {
        "add_multiplies_per_pass": "method1_add_multiplies_per_pass",
        "examples": "method1_examples",
        "epochs": "method1_epochs",
        "flops_per_add_multiply": "method1_flop_per_add_multiply",
        "passes": "method1_passes",
    }
    for row in rows:
        entry = BY_NAME[row["name"]]
        assert (entry.operations is None) == (row["method1_examples"] == ""), entry.name
        if entry.operations:
            shipped = {name: getattr(entry.operations, name) for name in columns}
            assert shipped == {name: float(row[column]) for name, column in columns.items()}
            assert row["method1_extra_factor"] == "1"  # so the factors above are all there are
            assert printed(row, "method1") == entry.printed_operations


def test_method_2_is_that_of_the_csv(rows):
    for row in rows:
        entry = BY_NAME[row["name"]]
        assert (entry.gpu_time is None) == (row["method2_devices"] == ""), entry.name
        if entry.gpu_time:
            time = entry.gpu_time
            assert time.device == row["method2_device"]
            assert time.devices == int(row["method2_devices"])
            assert time.days == float(row["method2_days"])
            assert time.peak_flops == Decimal(row["method2_peak_tflops"]) * 10**12
            assert time.utilization == float(row["method2_utilization"])
            assert time.extra_factor == float(row["method2_extra_factor"])
            assert printed(row, "method2") == entry.printed_gpu_time


def test_modest_totals_are_those_of_the_csv(rows):
    modest = [row for row in rows if row["group"] == "modest compute"]
    assert [printed(row, "method1") for row in modest] == [
        entry.printed_total for entry in load_appendix() if entry.group == "modest"
    ]


def printed(row, method):
    days, pf = row[f"{method}_printed_pfs_days"], row[f"{method}_printed_pf"]
    return PrintedFigure(
        pfs_days=float(days.removeprefix("<")),
        pf=float(pf) if pf else None,
        is_upper_bound=days.startswith("<"),
    )


def test_the_examples_of_the_docstrings_run():
    results = doctest.testmod(appendix)
    assert results.attempted > 0
    assert results.failed == 0
