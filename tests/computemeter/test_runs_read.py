"""The numbers of runs that `runs` and `trend` print add up, and a slow tracker is named."""

import json
import threading

import pytest
from ledgers import header, totals, write
from typer.testing import CliRunner

from computemeter import cli_output
from computemeter.cli import app
from computemeter.cli_output import asking

START = 1_735_689_600.0
"""2025-01-01"""
SOON = 20.0


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def places(tmp_path):
    """Six runs in two places: two of them are in both, one has a clock that was never set."""
    one, other = tmp_path / "one", tmp_path / "other"
    for run in range(4):
        head = header(f"seg-{run}", f"run-{run}", started=START + run * 86_400, user="ada")
        write(one, head, totals())
        if run < 2:
            write(other, head, totals())
    write(other, header("seg-8", "run-8", started=START, user="bob"), totals())
    write(other, header("seg-9", "run-9", started=0.0, user="bob"), totals())
    return one, other


def invoke(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments], prog_name="computemeter")


def last_lines(*arguments):
    return invoke(*arguments).stdout.split("\n\n")[-1].splitlines()


def test_runs_tells_how_many_were_read_where_some_are_the_same(places):
    again = "8 were read, of which 2 are runs met before in another place"
    assert last_lines("runs", *places) == ["6 runs, spent 6 PFLOP = 6.9e-5 pfs-days", again]
    assert last_lines("runs", *places, "--user", "bob") == [
        "2 runs, spent 2 PFLOP = 2.3e-5 pfs-days",
        "4 runs left out as asked for",
        again,
    ]
    assert json.loads(invoke("runs", *places, "--json").stdout)["again"] == 2
    assert last_lines("runs", places[0]) == ["4 runs, spent 4 PFLOP = 4.6e-5 pfs-days"]


def test_trend_counts_every_run_on_the_chart_or_left_out(places, tmp_path):
    table = tmp_path / "runs.csv"
    closed = "http://127.0.0.1:9x"
    lines = invoke("trend", *places, closed, "--csv", table).stdout.splitlines()
    at = lines.index("6 runs read, each once, 5 on the chart")
    assert sorted(line[:17] for line in lines[at + 1 : at + 3]) == [
        "left out: 1 run w",
        "left out: 1 sourc",
    ]
    # 6 = 4 on the chart + 1 of no date + 1 of bob's
    ada = invoke("trend", *places, "--user", "ada", "--csv", table).stdout
    assert "6 runs read, each once, 4 on the chart" in ada
    assert "note: 1 run left out as asked for." in ada
    report = json.loads(invoke("trend", *places, "--user", "ada", "--json").stdout)
    assert (report["read"], report["runs"], report["drawn"]) == (6, 4, 4)
    assert "4 runs read, 4 on the chart" in invoke("trend", places[0], "--csv", table).stdout


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(cli_output, "_SECONDS_OF_SILENCE", 0.0)


def test_a_tracker_that_takes_its_time_is_named(impatient):
    said, heard = [], threading.Event()

    def hear(line):
        said.append(line)
        heard.set()

    with asking(["runs", "http://ann:s3cret@host:5000", "wandb://a/b"], hear):
        assert heard.wait(SOON)
    assert said == ["asking http://***@host:5000, wandb://a/b"]


@pytest.mark.parametrize("source", ["runs", "sqlite:///mlflow.db", "runs.csv"])
def test_files_answer_at_once(impatient, monkeypatch, source):
    monkeypatch.setattr("threading.Timer.start", None)
    with asking([source], print):
        pass


def test_what_answers_at_once_is_not_named(monkeypatch):
    monkeypatch.setattr(cli_output, "_SECONDS_OF_SILENCE", SOON)
    said, before = [], threading.active_count()
    with asking(["http://host:5000"], said.append):
        assert threading.active_count() == before + 1
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(SOON / 2)
    assert threading.active_count() == before
    assert said == []


def test_on_a_terminal_something_moves_instead(impatient, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("threading.Timer.start", None)
    with asking(["http://host:5000"], print):
        pass


@pytest.mark.parametrize("command", ["runs", "trend"])
def test_a_server_that_is_down_is_named_before_it_is_given_up(impatient, monkeypatch, command):
    pytest.importorskip("mlflow")
    monkeypatch.setattr("computemeter_mlflow._rest._WAITS", (0.5,))
    options = ["--json"] if command == "trend" else []
    result = invoke(command, "http://127.0.0.1:9", *options)
    first, last = result.stderr.splitlines()
    assert first == "computemeter: asking http://127.0.0.1:9"
    assert last.startswith("computemeter: http://127.0.0.1:9 does not answer: ConnectionRefused")
