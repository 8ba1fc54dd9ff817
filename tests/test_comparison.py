"""benchmarks/comparison.py: its figures by hand, its judgement, and the page that it wrote."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.comparison_parts import page, tools
from benchmarks.comparison_parts.results import (
    COMPUTEMETER,
    FLOP_COUNTER,
    MONITOR,
    TOTAL_FLOS,
    Counted,
    Report,
)
from benchmarks.comparison_parts.runs import MLP_RUN, RUNS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "comparison.json"
LSTM = next(run for run in RUNS if run.name == "LSTM")


@pytest.fixture
def report():
    return Report.of_json(RESULTS.read_text(encoding="utf-8"))


def counted(**answers):
    return Counted("a run", 100, 125, (), answers, (), 125, None)


def test_page_has_the_table_of_the_results(report):
    text = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")

    assert page.put_table(text, report) == text


def test_results_are_those_of_the_runs_as_they_are_now(report):
    # The layers were changed, or the page was not written again.
    assert [run.name for run in report.counted] == [run.name for run in RUNS]
    for found, run in zip(report.counted, RUNS, strict=True):
        assert (found.model_flops, found.as_run_flops) == (run.model_flops, run.as_run_flops)
    assert report.lines == tools.lines()


def test_computemeter_was_exact_in_both_trainers(report):
    for run in report.counted:
        assert run.answers[COMPUTEMETER] == run.model_flops
        assert run.meter_as_run == run.as_run_flops
        assert run.meter_elsewhere in {None, run.model_flops}


def test_report_survives_its_file(report):
    assert Report.of_json(report.to_json()) == report
    assert report.to_json() == RESULTS.read_text(encoding="utf-8")


def test_page_without_the_marks(report):
    with pytest.raises(ValueError, match="the page needs the lines"):
        page.put_table("# Beside other tools", report)


@pytest.mark.parametrize(
    ("tool", "flops", "error"),
    [
        (COMPUTEMETER, 100, 0),
        (FLOP_COUNTER, 125, 0),
        (FLOP_COUNTER, 100, 0),  # as where the scores are not computed twice
        (FLOP_COUNTER, 50, -0.6),  # it means what ran, 125
        (TOTAL_FLOS, 50, -0.5),  # it means the model, 100
    ],
)
def test_error_is_against_what_the_tool_means(tool, flops, error):
    assert counted(**{tool: flops}).error(tool) == pytest.approx(error)


def test_no_answer_is_no_error():
    assert counted().error(MONITOR) is None


def test_what_a_tool_does_not_claim_is_no_error(report):
    run = replace(counted(**{MONITOR: 80}), disclaimed=(MONITOR,))

    table = page.table(replace(report, counted=(run,), timed=()))

    assert "-36" not in table  # 80 of 125
    assert "| a run | does not run there | does not claim |" in table


def test_lines_that_a_tool_adds():
    # The import, the meter, the changed Trainer, the result.
    assert tools.lines_added(tools.computemeter, tools.plain) == 4
    # It is there already: the result.
    assert tools.lines_added(tools.total_flos, tools.plain_elsewhere) == 1
    assert tools.lines_added(tools.plain, tools.plain) == 0


def test_tools_on_an_mlp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # 192 images: 64 to 128, done twice, and 128 to 10, done three times.
    flops = 192 * (2 * 2 * 64 * 128 + 3 * 2 * 128 * 10)

    assert MLP_RUN.model_flops == MLP_RUN.as_run_flops == flops
    assert tools.computemeter(tools.Job.of(MLP_RUN)) == (flops, flops)
    assert tools.throughput_monitor(tools.Job.of(MLP_RUN)) == flops
    assert tools.flop_counter_mode(tools.Job.of(MLP_RUN)) == flops
    assert tools.profiler(tools.Job.of(MLP_RUN)) == flops


def test_tools_on_an_lstm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Four gates of 64 units, from 8 pixels and 64 states, 8 times; a classifier.
    lstm, head = 192 * 3 * 8 * 2 * 4 * 64 * (8 + 64), 192 * 3 * 2 * 64 * 10

    assert LSTM.model_flops == lstm + head
    assert tools.computemeter(tools.Job.of(LSTM)) == (lstm + head, lstm + head)
    assert tools.flop_counter_mode(tools.Job.of(LSTM)) == head
    # Not on meta: the gradients of the rows and of the first state.
    idle = 192 * 2 * 4 * 64 * (8 * 8 + 64)
    assert tools.throughput_monitor(tools.Job.of(LSTM)) == lstm + head - idle
