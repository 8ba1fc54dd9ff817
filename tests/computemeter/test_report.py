"""`computemeter report`: a card or a disclosure, from a receipt, from ledgers, from a tracker."""

import json
import time
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from reports import TOTALS, invoke, receipt, refused, write_ledger

from computemeter.disclosure.card import card, escape
from computemeter.ledger_runs import records_from_ledgers
from computemeter.receipt import write_receipt

pytestmark = pytest.mark.usefixtures("own_cache")


def rows(text):
    """Read the table of a card: name -> text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return dict(line.removeprefix("| ").removesuffix(" |").split(" | ", 1) for line in lines[1:])


# The card.


def test_a_card_says_everything():
    made = receipt()
    text = card(made)
    assert text.startswith("## Training compute\n\n| | |\n|---|---|\n| Method 1, operations | ")
    assert rows(text) == {
        # 1.296e20 / 8.64e19 = 1.5; 2.592e20 = 3; 8.64e19 = 1; 1.728e20 = 2
        "Method 1, operations": "130 EFLOP = 1.5 pfs-days",
        "Method 2, GPU time": "259 EFLOP = 3 pfs-days, at 0.33 of peak (assumed)",
        "Ratio, method 2 / method 1": r"2, verdict: warn (low\_utilization)",
        "Diagnosis": "the methods differ 2x",
        "Devices": "8 x NVIDIA H100 80GB HBM3, peak 989 TFLOP/s each (bf16)",
        "Device-hours": "4.5",
        "Energy": "31.5 kWh (NVML, the GPU boards)",  # 1.134e8 / 3.6e6
        "Steps": "1,500 in 2 segments",
        "Run: work in the final weights": "86.4 EFLOP = 1 pfs-days",
        "Spent: all work of the run": "130 EFLOP = 1.5 pfs-days",
        "Lineage: run and base model": "173 EFLOP = 2 pfs-days",
        "Base model": "llama, compute 86.4 EFLOP = 1 pfs-days, receipt sha256:ab",
        "Not counted": "aten::mv (20 calls): method 1 is a lower bound",
        "Run id": "8c2b (small), finished, 2026-03-14",
        "Project, team": "speech",
        "Receipt": f"{made.hash} (computemeter 0.1.0)",
    }


def test_what_is_not_known_is_unknown_and_never_zero():
    none = [
        *("steps", "run_flops", "spent_flops", "lineage_flops", "model_flops", "gpu_time_flops"),
        *("ratio", "device_hours", "device_name", "device_count", "peak_flops"),
        *("assumed_utilization", "precision", "uncounted_ops", "base_model", "base_flops"),
        "energy_joules",
    ]
    shown = rows(card(receipt(**dict.fromkeys(none), parents=(), created=1e300)))
    for name in ("Method 1, operations", "Method 2, GPU time", "Devices", "Device-hours"):
        assert shown[name] == "unknown"
    assert shown["Steps"] == "unknown in 2 segments"
    assert shown["Energy"] == "not measured"
    assert shown["Ratio, method 2 / method 1"].startswith("unknown, ")
    assert shown["Not counted"] == "unknown"
    assert shown["Base model"] == "none"
    assert "0" not in shown["Lineage: run and base model"]


def test_a_base_that_is_only_named():
    shown = rows(card(receipt(base_flops=None, lineage_flops=None, parents=())))
    assert shown["Base model"] == "llama, compute unknown, no receipt"
    assert shown["Lineage: run and base model"] == "unknown"


def test_all_counted_is_not_worth_a_row():
    assert "Not counted" not in rows(card(receipt(uncounted_ops={})))
    assert "Not counted" not in rows(card(receipt(uncounted_ops={"aten::mv": 0})))


NASTY = [
    "<script>alert(1)</script>",
    "&lt;b&gt; &amp;",
    "[click](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "**bold** _it_ `code` ~~gone~~ $x$ # *",
    "a | b \\| c \\",
    "<http://evil.example>",
    "line\n\n# heading\n- item",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_untrusted_texts_stay_texts(nasty):
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")
    texts = ["name", "diagnosis", "device_name", "base_model", "project", "team", "status"]
    plain = parser.parse(card(receipt(**dict.fromkeys(texts, "x"))))
    marked = parser.parse(card(receipt(**dict.fromkeys(texts, nasty))))
    assert [token.type for token in marked] == [token.type for token in plain]
    types = {child.type for token in marked for child in token.children or []}
    assert types == {"text"}
    diagnosis = next(
        row for row in parser.render(card(receipt(diagnosis=nasty))).split("<tr>") if "Diag" in row
    )
    assert shown_by_a_browser(diagnosis) == f"Diagnosis {' '.join(nasty.split())}"


def shown_by_a_browser(markup):
    parts = []
    reader = HTMLParser()
    reader.handle_data = parts.append
    reader.feed(markup)
    reader.close()
    return " ".join("".join(parts).split())


def test_a_terminal_is_given_no_orders_and_no_credentials():
    text = escape("\x1b[31mred\u202e \udc80 http://ann:s3cret@host www.x.org")
    assert text == "\ufffd\\[31mred\ufffd \ufffd http:\\//\\*\\*\\*@host www\\.x.org"
    text.encode()


# From a receipt.


def test_the_card_of_a_receipt_a_folder_and_a_checkpoint(tmp_path):
    path = write_receipt(tmp_path, receipt())
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    for given in (path, tmp_path, checkpoint):
        result = invoke(given, "--card")
        assert (result.exit_code, result.output) == (0, card(receipt()) + "\n")


def test_the_receipt_in_json(tmp_path):
    path = write_receipt(tmp_path, receipt())
    assert json.loads(invoke(path, "--card", "--json").output) == json.loads(path.read_text())


# From ledgers.


def test_the_report_of_a_ledger_is_of_all_segments_of_its_run(tmp_path):
    write_ledger(tmp_path, "a", header={"base_model": "llama", "base_flops": 7})
    path = write_ledger(tmp_path, "b", run_flops=200, header={"base_model": "llama"})
    write_ledger(tmp_path, "c", run="other")
    made = json.loads(invoke(path, "--card", "--json").output)
    expected = {
        "run": "r",
        "segments": ["a", "b"],
        "status": "finished",
        "created": 6.0,
        "steps": 20,
        "run_flops": 200,
        "spent_flops": 200,
        "model_flops": 200,
        "gpu_time_flops": 600,
        "ratio": 3.0,
        "verdict": "alarm",
        "cause": "count_suspect",
        "diagnosis": "3x apart",
        "device_hours": 2.0,
        "device_name": "Z9",
        "device_count": 2,
        "peak_flops": 1e12,
        "precision": "bf16",
        "uncounted_ops": {"aten::mv": 4},
        "base_model": "llama",
    }
    assert {name: made[name] for name in expected} == expected
    assert rows(invoke(path, "--card").output)["Receipt"].startswith(
        "none, made from the ledger (computemet"
    )


def test_a_folder_of_one_runs_ledgers(tmp_path):
    write_ledger(tmp_path / "compute_ledger", "a")
    assert rows(invoke(tmp_path, "--card").output)["Steps"] == "10 in 1 segment"


def test_a_killed_run_cannot_say_what_it_did_not_count(tmp_path):
    write_ledger(tmp_path, "a")
    path = write_ledger(tmp_path, "b", ended=False)
    shown = rows(invoke(path, "--card").output)
    assert (shown["Not counted"], shown["Steps"]) == ("unknown", "20 in 2 segments")


def test_a_killed_run_whose_last_record_says_that_all_was_counted(tmp_path):
    path = write_ledger(tmp_path, "a", ended=False, metrics={"compute/uncounted_ops": 0})
    assert "Not counted" not in rows(invoke(path, "--card").output)


def test_a_receipt_wins_over_ledgers(tmp_path):
    write_ledger(tmp_path, "a")
    write_receipt(tmp_path, receipt())
    assert json.loads(invoke(tmp_path, "--card", "--json").output)["run"] == "8c2b"


# The disclosure; test_disclosure.py has what is in it.


@pytest.mark.parametrize("options", [(), ("--format", "md")])
def test_a_disclosure_is_what_a_report_is(tmp_path, options):
    text = invoke(write_receipt(tmp_path, receipt()), *options).output
    assert text.startswith("# Training compute of small\n\n**Draft, not legal advice.** Made by ")
    assert "C(2025) 5045 of 18 July 2025, adopted as C(2025) 7719" in text


@pytest.mark.parametrize("options", [("--json",), ("--format", "json")])
def test_a_disclosure_in_json(tmp_path, options):
    made = json.loads(invoke(write_receipt(tmp_path, receipt()), *options).output)
    # In the weights 8.64e19, and the base has as much again.
    assert made["training"]["flops"] == 864 * 10**17
    assert made["total"]["flops"] == 1728 * 10**17
    assert made["entries"][0]["run"] == "8c2b"


def test_a_run_by_its_id(tmp_path):
    write_ledger(tmp_path, "a")
    write_ledger(tmp_path, "b", run="other", run_flops=70, model_flops=70)
    for run in ("other", "b"):  # of the run, and of its segment
        made = json.loads(invoke(run, "--source", tmp_path, "--json").output)
        assert (made["entries"][0]["run"], made["total"]["flops"]) == ("other", 70)
        assert made["entries"][0]["origin"] == "ledger"


def test_planned_steps_project_the_compute(tmp_path):
    path = write_ledger(tmp_path, "a")  # 10 steps of 10 FLOP
    made = json.loads(invoke(path, "--planned-steps", 25, "--json").output)
    assert (made["total"]["flops"], made["projected"]["flops"]) == (100, 250)
    assert "10 steps have run already" in refused(path, "--planned-steps", 9)


def test_a_tracker_is_asked_again_only_for_what_changed(tmp_path, monkeypatch):
    told = write_ledger(tmp_path, "a")
    asked = []

    def ask(_group, _tracker, _uri, request, **_):
        asked.append(dict(request.memory.stamps()))
        (record,) = records_from_ledgers([told])
        request.memory.remember("r", "stamp", record)
        request.memory.completed(time.time(), None)
        return [record]

    monkeypatch.setattr("computemeter.sources.ask_tracker", ask)
    for options in ((), (), ("--no-cache",)):
        made = invoke("r", "--source", "https://tracker", "--json", *options)
        assert json.loads(made.output)["total"]["flops"] == 100
    model = tmp_path / "m.toml"
    model.write_text('name = "m"\n[[run]]\nid = "r"\nsource = "https://tracker"')
    assert invoke("--model", model).exit_code == invoke("--model", model, "--no-cache").exit_code
    assert asked == [{}, {"r": "stamp"}, {}, {"r": "stamp"}, {}]


@pytest.mark.slow
def test_a_run_in_a_real_mlflow_database(tmp_path):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("e", str(tmp_path)), run_name="small")
    totals = {**TOTALS, "device_count": 2}
    client.set_tag(run.info.run_id, "computemeter.schema", "1")
    client.set_tag(run.info.run_id, "computemeter.segment.a", json.dumps(totals))
    made = json.loads(invoke(run.info.run_id, "--source", uri, "--json").output)
    assert [*(tmp_path / "cache").rglob("*.sqlite")]
    (entry,) = made["entries"]
    assert (entry["origin"], entry["name"], entry["flops"]) == ("tracker", "small", 100)
    assert made["errors"]["own"]["within"] is None  # no tracker says how steps were counted
    message = refused("small", "--source", uri)
    assert f"'small' is the name of 1 run: give the id, such as {run.info.run_id}" in message


def test_help_shows_an_example():
    output = invoke("--help").output
    assert "Example: computemeter report checkpoints/last.ckpt --card" in output
    assert "--json" in output
