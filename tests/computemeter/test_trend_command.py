"""`computemeter trend` on real sources: a folder of ledgers, an MLflow database, a table."""

import json

import pytest
from ledgers import header, totals, write
from typer.testing import CliRunner

from computemeter.cli import app
from computemeter.commands import CommandError
from computemeter.commands.trend import Wishes, trend
from computemeter.ledger_writer import LedgerWriter

START, MONTH = 1_735_689_600.0, 30.4375 * 86_400  # 2025-01-01


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def ledgers(tmp_path):
    """Ten runs, each of twice the compute of the one a month before: 1e15 ... 512e15 FLOP."""
    folder = tmp_path / "compute_ledger"
    for at in range(10):
        head = header(f"seg-{at}", f"run-{at}", started=START + at * MONTH, name=f"net {at}",
                      user="ada", project=f"p{at % 4}")  # fmt: skip
        flops = 10**15 * 2**at
        own = {"model_flops": flops, "run_flops": flops, "spent_flops": flops}
        write(folder, head, totals(**own), status="finished")
    return folder


def quiet(_line):
    pass


def asked(sources, **wishes):
    return trend([str(source) for source in sources], Wishes(**wishes), warn=quiet)


def test_page_still_and_table_are_written(ledgers, tmp_path):
    for name in ("trend.html", "trend.png", "trend.svg"):
        said = asked([ledgers], output=str(tmp_path / name), frontier="all")
        assert said.startswith("Compute per run doubles every 1 months (95 % interval")
        assert f"written: {tmp_path / name}" in said
        assert (tmp_path / name).stat().st_size > 10_000
    table = tmp_path / "runs.csv"
    asked([ledgers], csv=str(table))
    assert len(table.read_text(encoding="utf-8-sig").splitlines()) == 11
    again = json.loads(asked([table], as_json=True, frontier="all"))
    assert again["runs"] == 10


def test_json_holds_the_fit_and_the_sums(ledgers):
    report = json.loads(asked([ledgers], as_json=True, frontier="all"))
    assert report["fit"]["n"] == 10
    assert report["fit"]["doubling_months"] == pytest.approx(1.0)
    assert "lines" not in report["fit"]
    # p0 has the runs 0, 4 and 8: 1 + 16 + 256
    sums = {each["name"]: each["spent_flops"] for each in report["per_project"]}
    assert sums["p0"] == 273 * 10**15
    assert len(report["per_week"]) == 10


def test_filters_are_passed_on(ledgers):
    report = json.loads(asked([ledgers], as_json=True, project="p0"))
    assert report["runs"] == 3
    assert any("7 runs left out as asked for" in note for note in report["notes"])
    later = json.loads(asked([ledgers], as_json=True, since="2025-06-15"))
    assert later["runs"] == 4  # those that started in July, August, September, October
    nobody = json.loads(asked([ledgers], as_json=True, project="P0"))
    assert nobody["runs"] == 0
    assert "no run has the project 'P0'; there are p0, p1, p2, p3" in nobody["notes"]


def test_the_largest_of_each_month_is_fitted_by_default(ledgers):
    report = json.loads(asked([ledgers], as_json=True))
    assert report["frontier"] == "largest-per-month"


def test_loss_curves_come_from_the_ledgers(ledgers, tmp_path):
    head = header("seg-loss", "run-loss", started=START, name="with loss")
    with LedgerWriter.open(ledgers, head) as writer:
        for step in range(3):
            metrics = {"compute/pfs_days": 0.1 * (step + 1), "compute/loss": 3.0 - step}
            writer.progress(step, START + step, totals(), metrics)
    from computemeter.sources import records
    from computemeter.trend.curves import curves

    found = records([ledgers])
    drawn, note = curves(found, [str(ledgers)])
    assert [(curve.name, curve.loss) for curve in drawn] == [("with loss", (3.0, 2.0, 1.0))]
    assert "1 largest run" in note
    said = []
    drawn, _ = curves(found, [str(ledgers)], chosen=["net 3", "net 33"], warn=said.append)
    assert drawn == []
    assert len(said) == 1
    assert "'net 33': no run on the chart has that name or id" in said[0]
    assert curves(found, ["sqlite:///x.db"])[0] == []
    assert "None is drawn" in curves(found, ["sqlite:///x.db"])[1]


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"output": "trend.pdf"}, r"trend\.pdf: accepted is a \.html, \.png or \.svg file"),
        ({"output": "trend"}, "accepted is"),
        ({"output": "/nowhere/at/all/trend.html"}, "no such folder"),
        ({"frontier": "best"}, "no such frontier: 'best'"),
        ({"since": "yesterday"}, "yesterday"),
        ({"reference": "/nowhere.csv"}, r"/nowhere\.csv: No such file"),
        ({"assume_device": "a toaster"}, "toaster"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(ledgers, wishes, message):
    with pytest.raises(CommandError, match=message) as refused:
        asked([ledgers], **{"as_json": True, **wishes})
    assert "\n" not in str(refused.value)


def test_a_source_that_is_none_is_told(tmp_path):
    with pytest.raises(CommandError, match="no such file or folder"):
        asked([tmp_path / "nothing"], as_json=True)


def test_a_missing_library_is_told_with_its_command(ledgers, monkeypatch):
    monkeypatch.setattr("computemeter.commands.trend.find_spec", lambda name: name != "plotly")
    with pytest.raises(
        CommandError, match=r"plotly not installed: pip install 'computemeter\[trend"
    ):
        asked([ledgers], output="trend.html")


def test_a_page_of_a_real_mlflow_database(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("vision", artifact_location=str(tmp_path))
    for at in range(4):
        begun = round(1000 * (START + at * MONTH))
        run = client.create_run(experiment, start_time=begun, run_name=f"net {at} </script>")
        flops = 10**15 * 2**at
        segment = totals(model_flops=flops, run_flops=flops, spent_flops=flops, peak_flops=1e15)
        client.set_tag(run.info.run_id, "computemeter.schema", "1")
        client.set_tag(run.info.run_id, f"computemeter.segment.s{at}", json.dumps(segment))
        client.set_terminated(run.info.run_id, end_time=begun + 60_000)
    page = tmp_path / "trend.html"
    said = asked([uri], output=str(page), frontier="all")
    assert said.startswith("Compute per run doubles every 1 months")
    assert "4 runs read, 4 on the chart" in said
    assert b"net 0" not in page.read_bytes()


def test_a_password_is_nowhere(ledgers, tmp_path):
    page, secret = tmp_path / "trend.html", "hunter2"
    said = asked([ledgers, f"http://me:{secret}@127.0.0.1:9"], output=str(page))
    assert secret not in said
    assert "source that could not be read" in said
    assert secret.encode() not in page.read_bytes()


def test_the_command_line_takes_all_options(ledgers, tmp_path):
    page = tmp_path / "trend.html"
    options = ["--frontier", "top-3", "--include-estimated", "--assume-device", "4xA100",
               "--appendix", "--thresholds", "--curve", "net 1", "--title", "Ours", "--seed", "3",
               "--no-cache", "--since", "2025-01-01", "--tag", "a"]  # fmt: skip
    result = CliRunner().invoke(app, ["trend", str(ledgers), "-o", str(page), *options])
    assert result.exit_code == 0, result.output
    assert b"<title>Ours</title>" in page.read_bytes()
    wrong = CliRunner().invoke(app, ["trend", str(ledgers), "-o", "x.pdf"])
    assert wrong.exit_code == 1
