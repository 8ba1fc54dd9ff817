"""What a run leaves in its ledger and trackers, whatever the disk and the trackers do."""

import json
import shlex
import threading

import pytest
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn, rand
from torch.nn.functional import mse_loss

from computemeter import Meter, run_meter
from computemeter.ending import SECONDS, close_together, undelivered
from computemeter.failures import Failures
from computemeter.ledger import read_ledger
from computemeter.receipt import read_receipt

STEP = BATCH * FLOPS_PER_EXAMPLE


class Tracker:
    """Keeps what it is told; `left` is what it says it could not deliver."""

    destination = "http://host:5000"

    def __init__(self, run_id="run-1", name="mlflow", left=0):
        self.run_id, self.name, self._left = run_id, name, left
        self.tags, self.made = {}, []

    def log(self, metrics, *, step, time):
        pass

    def tag(self, tags):
        self.tags.update(tags)

    def files(self, make):
        self.made.append(make)

    def close(self, timeout=5.0):
        return self._left

    def segments(self):
        named = {name.partition("."): json.loads(text) for name, text in self.segment_tags()}
        return {segment: totals for (_, _, segment), totals in named.items()}

    def segment_tags(self):
        return [(name, text) for name, text in self.tags.items() if name.startswith("segment.")]


def train(steps, state=None, **options):
    """Train a net for some steps; return the closed meter."""
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    metered = Meter(**{"verbose": 0, "trackers": None, **options})
    if state is not None:
        metered.load_state_dict(state)
    with metered:
        for _ in range(steps):
            with metered.step():
                mse_loss(net(rand(BATCH, INPUTS)), rand(BATCH, CLASSES)).backward()
    return metered


def ledgers(folder):
    return [read_ledger(path) for path in sorted(folder.glob("*.jsonl"))]


def test_a_tracker_learns_of_segments_that_a_kill_let_tell_nobody(tmp_path):
    first, second = Tracker(), Tracker()
    train(3, ledger=tmp_path, trackers=[first])
    (killed,) = tmp_path.glob("*.jsonl")
    lines = killed.read_text().splitlines(keepends=True)
    killed.write_text("".join(line for line in lines if '"kind":"end"' not in line))
    # Started again from nothing: the run is known by its tracker's id alone.
    summary = train(2, ledger=tmp_path, trackers=[second]).summary()
    assert (summary.run_flops, summary.spent_flops) == (2 * STEP, 5 * STEP)
    told = second.segments()
    assert {totals["model_flops"] for totals in told.values()} == {3 * STEP, 2 * STEP}
    assert {each.header.segment for each in ledgers(tmp_path)} == told.keys()
    assert second.tags["run"] == "run-1"


def test_without_a_ledger_the_checkpoint_knows_what_it_knew():
    first = train(3, ledger=None)
    second = train(2, first.state_dict(), ledger=None)
    assert (second.summary().run_flops, second.summary().spent_flops) == (5 * STEP, 5 * STEP)


def test_a_run_that_goes_on_in_another_is_told_of_once(tmp_path):
    first = train(1, ledger=tmp_path, trackers=[Tracker("run-1")])
    second = train(1, first.state_dict(), ledger=tmp_path, trackers=[Tracker("run-2")])
    (said,) = second.summary().warnings
    assert "mlflow run run-1, and is logged to run run-2" in said
    one, two = ledgers(tmp_path)
    assert one.header.run == two.header.run == "run-1"
    assert two.header.trackers == {"mlflow": "run-2"}


def test_a_folder_that_cannot_be_written_costs_one_line_and_no_ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "file").write_text("")
    trained = train(2, ledger=tmp_path / "file" / "ledger")
    (said,) = trained.summary().warnings
    assert said.startswith(f"no ledger can be written in {tmp_path / 'file' / 'ledger'}")
    (ledger,) = ledgers(tmp_path / "state" / "computemeter" / "compute_ledger")
    assert ledger.last_totals["model_flops"] == 2 * STEP
    assert str(tmp_path / "state") in said


def test_long_steps_are_recorded_between_logging_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(run_meter, "_SECONDS_BETWEEN_RECORDS", 0.0)
    train(4, ledger=tmp_path)  # the next logging step would be the 50th
    (ledger,) = ledgers(tmp_path)
    # The first step opens the ledger; the last record is the end's.
    assert [each.totals["steps"] for each in ledger.progress] == [2, 3, 4, 4]
    assert [bool(each.metrics) for each in ledger.progress] == [False, False, False, True]


def test_a_checkpoint_finds_the_ledger_on_the_disk(tmp_path, monkeypatch):
    synced = []
    metered = Meter(ledger=tmp_path, trackers=None, verbose=0)
    with metered:
        with metered.step():
            pass
        monkeypatch.setattr("os.fsync", lambda _file: synced.append(ledgers(tmp_path)[0]))
        with metered.pause("checkpoint"):
            assert [len(each.progress) for each in synced] == [1]


def test_the_receipt_names_all_segments_and_the_base(tmp_path):
    first = train(3, ledger=tmp_path, base_flops=1000)
    train(2, first.state_dict(), ledger=tmp_path)  # the base is known from the checkpoint
    receipt = read_receipt(tmp_path / "compute_receipt.json")
    assert (receipt.run_flops, receipt.lineage_flops) == (5 * STEP, 5 * STEP + 1000)
    assert (receipt.steps, receipt.status) == (5, "finished")
    assert receipt.segments == tuple(each.header.segment for each in ledgers(tmp_path))
    # A warm start: another run, which knows the first by its receipt.
    warm = train(1, ledger=tmp_path / "warm", base_model=tmp_path)
    assert warm.summary().lineage_flops == 6 * STEP + 1000
    assert warm.summary().spent_flops == STEP
    assert read_receipt(tmp_path / "warm" / "compute_receipt.json").parents == (receipt.hash,)
    assert ledgers(tmp_path / "warm")[0].header.base_receipt == receipt.hash


def test_what_did_not_arrive_is_sent_by_the_command_that_is_shown(tmp_path):
    trained = train(1, ledger=tmp_path, trackers=[Tracker(left=7), Tracker(name="other")])
    (path,) = tmp_path.glob("*.jsonl")
    assert trained.summary().warnings == (
        (
            f"7 logging steps did not reach mlflow; this sends the rest: computemeter push {path} "
            "--to http://host:5000"
        ),
    )


def test_of_two_trackers_of_one_name_the_one_that_lacks_something_is_named(tmp_path):
    whole, lacking = Tracker("run-1"), Tracker("run-2", left=7)
    lacking.destination = "sqlite:///other.db"
    trained = train(1, ledger=tmp_path, trackers=[lacking, whole])
    (said,) = trained.summary().warnings
    assert said.endswith("--to sqlite:///other.db")
    assert said.startswith("7 logging steps")


@pytest.mark.parametrize(
    ("destination", "to"),
    [
        ("sqlite:///a b.db", "sqlite:///a b.db"),
        ("https://***@host", "https://***@host"),
        ("", "URI"),
        ("file:///mlruns", "URI"),  # what push would refuse
    ],
)
def test_the_command_that_is_shown_can_be_given_to_a_shell(tmp_path, destination, to):
    tracker, path = Tracker(), tmp_path / "it's (2).jsonl"
    tracker.destination = destination
    command = undelivered(tracker, 7, path).partition("rest: ")[2]
    assert shlex.split(command) == ["computemeter", "push", str(path), "--to", to]
    tracker.advice = "wandb sync wandb/offline-run-1"
    for ledger in (path, None):
        assert undelivered(tracker, 7, ledger).endswith("the rest: wandb sync wandb/offline-run-1")


def test_trackers_that_keep_files_get_the_figure_and_the_receipt(tmp_path):
    tracker = Tracker()
    train(2, ledger=tmp_path, trackers=[tracker])
    (make,) = tracker.made
    folder = tmp_path / "files"
    folder.mkdir()
    # No loss, no figure.
    assert [path.name for path in make(folder)] == ["compute_receipt.json"]


@pytest.mark.parametrize("wrong", ["hangs", "raises"])
def test_a_tracker_that_does_not_close_holds_up_no_other(wrong, monkeypatch):
    monkeypatch.setattr("computemeter.ending.SECONDS", 0.2)
    gone, failures = threading.Event(), Failures()

    class Bad(Tracker):
        def close(self, timeout=5.0):
            if wrong == "raises":
                raise OSError("gone")
            gone.wait(60)

    bad, lacks_two = Bad(name="bad"), Tracker(left=2)
    left = close_together([bad, Tracker(name="good"), lacks_two], failures)
    gone.set()
    assert left == [(bad, None), (lacks_two, 2)]
    assert SECONDS == 5.0
