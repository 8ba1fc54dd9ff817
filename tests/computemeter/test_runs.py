"""`computemeter runs`: a line for each run, and what they spent together."""

import json
from dataclasses import replace

import pytest
from ledgers import header, totals, write
from typer.testing import CliRunner

from computemeter.cli import app
from computemeter.commands import runs as module
from computemeter.sources import records


def invoke(*arguments):
    return CliRunner().invoke(app, ["runs", *map(str, arguments)], prog_name="computemeter")


def rows(output):
    """The table's rows by the first word, as lists of cells."""
    cells = (
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in output.split("\n")
    )
    return {row[0]: row[1:] for row in cells if row}


@pytest.fixture
def folder(tmp_path):
    """A run of 2 PF, one of unknown compute, and one that claims 9 PF of 5 possible ones."""
    known = {"device_name": "NVIDIA H100", "device_count": 8, "user": "ann"}
    write(
        tmp_path,
        header("seg-1", run="1", name="fine", **known),
        totals(steps=1500, model_flops=2 * 10**15, run_flops=10**15, gpu_time_flops=5 * 10**15),
        status="finished",
    )
    unknown = {"model_flops": None, "run_flops": None, "gpu_time_flops": None}
    write(
        tmp_path,
        header("seg-2", run="2", name="dark", started=2000.0),
        totals(**unknown, verdict="unknown", cause="no_peak"),
    )
    write(
        tmp_path,
        header("seg-3", run="3", name="greedy", started=3000.0),
        totals(model_flops=9 * 10**15, peak_flops=5e14, device_seconds=10.0),
    )
    return tmp_path


def test_the_table_has_every_run_and_their_sum(folder):
    result = invoke(folder)
    assert result.exit_code == 0
    table = rows(result.output)
    # 5 PF of GPU time / 2 PF of operations = 2.5
    assert table["fine"][0] == "ann"
    assert table["fine"][2:] == [
        "8 x NVIDIA H100",
        "1,500",
        "1 PFLOP",
        "2 PFLOP",
        "5 PFLOP",
        "2.5",
        "warn",
        "low_utilization",
    ]
    assert table["greedy"][5] == "9 PFLOP !"
    lines = result.output.splitlines()
    # 2 PF alone: 2e15 / 8.64e19 = 2.3e-5
    assert "3 runs, spent 2 PFLOP = 2.3e-5 pfs-days" in lines
    assert any(line.startswith("not added: 1 run of which the compute is not") for line in lines)
    assert any(line.startswith("not added: 1 run marked !, which claims more") for line in lines)


def test_what_is_not_known_is_never_zero(folder):
    dark = rows(invoke(folder).output)["dark"]
    assert dark[0] == "unknown"  # the user
    assert dark[3:] == ["10", "unknown", "unknown", "unknown", "unknown", "unknown", "no_peak"]


def test_the_same_as_json(folder):
    report = json.loads(invoke(folder, "--json").output)
    assert [run["name"] for run in report["runs"]] == ["fine", "dark", "greedy"]
    fine, dark, greedy = report["runs"]
    assert (fine["spent_flops"], fine["ratio"], fine["overclaims"]) == (2 * 10**15, 2.5, False)
    assert (dark["spent_flops"], dark["mfu"]) == (None, None)
    assert greedy["overclaims"] is True
    assert report["spent_flops"] == 2 * 10**15
    assert report["not_added"] == {"overclaiming": 1, "unknown": 1}


def test_names_are_shown_as_they_are_and_give_no_orders(tmp_path):
    name = "[red]x[/red]\x1b]0;title\x07\u202e"
    write(tmp_path, header(name=name, user="a\nb", device_name="[bold]"), totals())
    output = invoke(tmp_path).output
    assert "[red]x[/red]\N{REPLACEMENT CHARACTER}]0;title" in output
    assert "[bold]" in output
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert "a\N{REPLACEMENT CHARACTER}b" in output


def test_figures_are_whole_however_narrow_the_terminal(folder, monkeypatch):
    assert "8 x NVIDIA H100" in invoke(folder).output
    monkeypatch.setattr(module, "_terminal_width", lambda: 20)
    output = invoke(folder).output
    assert "8 x NVIDIA H100" not in output  # names give way, over several lines
    for figure in ("1,500", "2 PFLOP", "5 PFLOP", "9 PFLOP !", "low_utilization"):
        assert figure in output


def test_sources_are_added_up_and_files_left_out_are_named(folder, tmp_path):
    (folder / "bad\x1b[2J.jsonl").write_text("hello\n")
    other = write(tmp_path / "other", header("seg-9", run="9", name="later"), totals())
    result = invoke(folder, other)
    assert set(rows(result.stdout)) >= {"fine", "dark", "greedy", "later"}
    (line,) = [line for line in result.stderr.splitlines() if "left out" in line]
    assert "not a ledger" in line
    assert "\x1b" not in line


def test_without_a_source_the_ledgers_here_are_read(folder, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    result = invoke()
    assert result.exit_code == 1
    assert result.output.startswith("computemeter: name a SOURCE")
    here = tmp_path_factory.mktemp("here")
    folder.rename(here / "compute_ledger")
    monkeypatch.chdir(here)
    assert "fine" in rows(invoke().output)


def test_a_folder_without_a_run_is_no_error(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}\n")
    result = invoke(tmp_path)
    assert result.exit_code == 0
    assert "no run in there was metered" in result.output
    empty = json.loads(CliRunner().invoke(app, ["runs", str(tmp_path), "--json"]).stdout)
    assert (empty["runs"], empty["spent_flops"]) == ([], None)


@pytest.mark.parametrize("source", ["missing", "gopher://ann:s3cret@host", "sqlite:///missing.db"])
def test_bad_input_is_one_line_and_a_failure(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if source.startswith("sqlite"):
        pytest.importorskip("mlflow")
    result = invoke(source)
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    assert "s3cret" not in result.output
    assert list(tmp_path.iterdir()) == []  # a database that is not there is not made


def names(*arguments):
    return [run["name"] for run in json.loads(invoke(*arguments, "--json").stdout)["runs"]]


def test_runs_are_filtered_as_those_of_a_trend_and_counted(folder):
    day = header("seg-4", run="4", name="new", started=1_767_225_600.0, project="speech")
    write(folder, day, totals())  # 2026-01-01, UTC; the others are of 1970
    assert names(folder, "--since", "2026-01-01") == ["new"]
    assert names(folder, "--since", "2026-01-02") == []
    assert names(folder, "--user", "ann") == ["fine"]
    assert names(folder, "--project", "speech") == ["new"]
    result = invoke(folder, "--user", "ann")
    assert "1 run, spent 2 PFLOP" in result.stdout
    assert "3 runs left out as asked for" in result.stdout
    assert json.loads(invoke(folder, "--user", "ann", "--json").stdout)["filtered"] == 3
    first, second = invoke(folder, "--user", "an").stdout.splitlines()
    assert first == "4 runs left out as asked for"
    assert second.startswith("no run has the user 'an'; there are ann")
    assert "left out as asked for" not in invoke(folder).stdout


def test_tags_are_of_trackers(folder, monkeypatch):
    found = [
        replace(run, tags=tags)
        for run, tags in zip(records([folder]), ({"a": "1"}, {"a": "2"}, {}), strict=True)
    ]
    monkeypatch.setattr(module, "read", lambda _source, _request, warn: found)
    assert names("x", "--tag", "a") == ["fine", "dark"]
    assert names("x", "--tag", "a", "--tag", "a=2") == ["dark"]
    assert names("x", "--tag", "b") == []


def test_a_day_that_is_none_is_one_line(folder):
    result = invoke(folder, "--since", "soon")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "computemeter: 'soon': accepted is a day such as 2026-01-31, or an age such as 90d\n"
    )


def test_help_shows_an_example():
    assert "Example: computemeter runs sqlite:///mlflow.db" in invoke("--help").output
