"""What the benchmarks share, and that each committed page is that of the figures beside it."""

from importlib import import_module
from pathlib import Path
from statistics import median

import pytest
from pydantic import TypeAdapter

from benchmarks.measuring.estimates import Estimate, Target, bootstrap
from benchmarks.measuring.report import table, targets_table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def stored(name, kind):
    return TypeAdapter(kind).validate_json((RESULTS / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", ["overhead", "keras_overhead"])
def test_page_is_that_of_its_figures(name):
    results = import_module(f"benchmarks.{name}_parts.results")

    report = stored(name, results.Report)

    assert results.as_markdown(report) == (RESULTS / f"{name}.md").read_text("utf-8")


def test_page_of_the_outage_is_that_of_its_figures():
    results = import_module("benchmarks.outage_parts.results")

    found = stored("outage", dict)
    for one in found["rounds"]:
        one["turns"] = {}  # the file has no steps, and the page is not of them
    report = TypeAdapter(results.Report).validate_python(found)

    assert results.as_markdown(report) == (RESULTS / "outage.md").read_text("utf-8")


def test_page_of_the_trend_is_that_of_its_figures():
    results = import_module("benchmarks.trend_parts.results")

    found = stored("trend", dict)
    rows = TypeAdapter(list[results.Row]).validate_python(found["rows"])
    pages = TypeAdapter(list[results.Opened]).validate_python(found["pages"])

    page = results.as_markdown(rows, pages, found["environment"])
    assert page == (RESULTS / "trend.md").read_text("utf-8")


def test_page_of_the_forecast_is_that_of_its_figures():
    page = import_module("benchmarks.forecast_parts.page")
    purpose = import_module("benchmarks.forecast").__doc__.split("\n\n", 2)[2]

    text = page.as_markdown(stored("forecast", page.Report), purpose)

    assert text == (RESULTS / "forecast.md").read_text("utf-8")


def test_page_of_the_time_left_is_that_of_its_figures():
    eta = import_module("benchmarks.eta")

    found = stored("eta", dict)
    runs = TypeAdapter(list[eta.Run]).validate_python(found["runs"])

    assert eta.as_markdown(found["environment"], runs) == (RESULTS / "eta.md").read_text("utf-8")


def test_overhead_follows_from_its_rounds():
    results = import_module("benchmarks.overhead_parts.results")
    report = stored("overhead", results.Report)

    again = {
        title: {arm: results.ArmResult.of(rounds) for arm, rounds in arms.items()}
        for title, arms in report.rounds.items()
    }

    assert again == report.workloads


def test_bootstrap_of_equal_values_is_certain():
    assert Estimate.of([7.0, None, 7.0]) == Estimate(7, 7, 7)


def test_bootstrap_takes_the_2_5_and_97_5_percentiles():
    # The smaller of two draws from 0 and 1 is 1 in a quarter of all resamples, and else 0.
    assert bootstrap(min, [0, 1]) == Estimate(0, 0, 1)
    # Of eight draws from 0 and 1 none is 0 in a resample of 256: outside of the interval.
    assert bootstrap(min, [0, 1] * 4) == Estimate(0, 0, 0)


def test_bootstrap_of_two_samples():
    ratio = bootstrap(lambda now, then: median(now) / median(then), [6.0, 6.0], [3.0])

    assert ratio == Estimate(2, 2, 2)


@pytest.mark.parametrize(
    ("low", "high", "spread", "verdict"),
    [
        (8, 10, 1, "met"),  # the target itself is met
        (11, 12, 1, "missed"),
        (9, 11, 1, "not resolved"),  # the interval holds the target
        (10, 11, 1, "not resolved"),
        (8, 9, 10, "not resolved"),  # "nothing" is as far from itself
    ],
)
def test_verdict_of_a_target_of_ten(low, high, spread, verdict):
    assert Target("µs added", 10, Estimate(low, low, high), spread).verdict == verdict


def test_spread_is_the_farther_end():
    assert Estimate(1, -4, 3).farthest == 4


def test_columns_of_text_are_named():
    assert table(("a", "b", "c"), [("x", "1", "y")], left=(0, 2)) == (
        "| a | b | c |\n| --- | ---: | --- |\n| x | 1 | y |\n"
    )


def test_small_targets_have_more_digits():
    found = Estimate(0.25, 0.125, 0.5)

    row = targets_table([Target("s", 4.0, found, 0.0), Target("µs", 5.0, found, 0.0)])

    assert "| s | 4 | 0.250 [0.125, 0.500] | 0.000 | met |" in row
    assert "| µs | 5 | 0.2 [0.1, 0.5] | 0.0 | met |" in row
