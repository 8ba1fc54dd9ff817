"""What a meter writes, sends and prints: the ledger, the trackers, a line and a table."""

import json
import logging
from pathlib import Path

import pytest
from meter_loops import (
    PER_EXAMPLE,
    ListSink,
    batches,
    net,
    on_clock,
    quiet,
    steps_on,
    the_ledger,
    train,
)
from small_runs import BATCH

from computemeter import Meter


def test_the_ledger_has_it_all(tmp_path):
    meter = quiet(ledger=tmp_path / "ledger", log_every=2, project="vision", peak_flops=1e12)
    with meter:
        train(meter, net(), batches(*[BATCH] * 5))
    ledger, summary = the_ledger(tmp_path / "ledger"), meter.summary()
    assert (ledger.header.project, ledger.header.peak_flops) == ("vision", 1e12)
    assert (ledger.header.device_name, ledger.header.device_count) == (summary.device_name, 1)
    # every second step, and the last
    assert [each.step for each in ledger.progress] == [2, 4, 5]
    each_step = BATCH * PER_EXAMPLE
    assert [each.totals["model_flops"] for each in ledger.progress] == [
        2 * each_step,
        4 * each_step,
        5 * each_step,
    ]
    last = ledger.last_totals
    assert {name: last[name] for name in last if hasattr(summary, name)} == {
        name: getattr(summary, name) for name in last if hasattr(summary, name)
    }
    assert {"steps", "model_flops", "run_flops", "training_seconds", "mfu"} <= set(last)
    assert ledger.status == "finished"
    assert ledger.summary == json.loads(json.dumps(summary.to_dict()))
    assert not ledger.torn
    assert ledger.skipped == 0


@pytest.mark.parametrize(
    ("kind", "status"), [(RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")]
)
def test_a_run_that_is_cut_short_is_in_the_ledger(tmp_path, kind, status):
    def run():
        with quiet(ledger=tmp_path) as meter:
            train(meter, net(), batches(BATCH, BATCH))
            with meter.step():
                raise kind

    with pytest.raises(kind):
        run()
    ledger = the_ledger(tmp_path)
    assert ledger.status == status
    assert ledger.last_totals["model_flops"] == 2 * BATCH * PER_EXAMPLE


def test_the_ledger_can_be_read_while_the_run_goes_on(tmp_path):
    meter = quiet(ledger=tmp_path, log_every=1)
    train(meter, net(), batches(BATCH, BATCH))
    assert the_ledger(tmp_path).last_totals["model_flops"] == 2 * BATCH * PER_EXAMPLE
    assert the_ledger(tmp_path).status == "unknown"
    meter.close("finished")
    assert the_ledger(tmp_path).status == "finished"


def test_flops_added_after_the_last_logging_step_are_in_the_ledger(tmp_path):
    with quiet(ledger=tmp_path, log_every=1) as meter:
        train(meter, net(), batches(BATCH))
        meter.add_flops(10**12)
    assert the_ledger(tmp_path).last_totals["model_flops"] == meter.summary().model_flops


def test_the_ledger_is_beside_the_run_or_nowhere(monkeypatch):
    with Meter(trackers=None, verbose=0) as meter:
        train(meter, net(), batches(BATCH))
    assert the_ledger(Path("compute_ledger")).last_totals["steps"] == 1
    monkeypatch.setenv("COMPUTEMETER_LEDGER", "off")
    with Meter(trackers=None, verbose=0) as meter:
        train(meter, net(), batches(BATCH))
    assert len(list(Path().rglob("*.jsonl"))) == 1


def test_a_tracker_gets_every_value_once_and_the_same_as_the_ledger(tmp_path):
    sink = ListSink()
    with quiet(ledger=tmp_path, trackers=[sink], log_every=2, team="blue") as meter:
        train(meter, net(), batches(*[BATCH] * 5))
    ledger, summary = the_ledger(tmp_path), meter.summary()
    assert sink.logged == [(each.step, each.time, each.metrics) for each in ledger.progress]
    assert [step for step, _, _ in sink.logged] == [2, 4, 5]
    assert sink.logged[-1][2]["compute/flops"] == 5 * BATCH * PER_EXAMPLE
    assert sink.logged[-1][2]["compute/flops_per_step"] == BATCH * PER_EXAMPLE
    assert (sink.tags["team"], sink.tags["schema"]) == ("blue", "1")
    assert sink.tags["verdict"] == summary.verdict
    (segment,) = [name for name in sink.tags if name.startswith("segment.")]
    assert json.loads(sink.tags[segment])["model_flops"] == 5 * BATCH * PER_EXAMPLE
    assert sink.closed == 1
    # The tracker's run is the run.
    assert ledger.header.run == "run-7"
    assert dict(ledger.header.trackers) == {"list": "run-7"}


def test_values_that_did_not_reach_the_tracker_are_warned_of():
    class Lossy(ListSink):
        def close(self, timeout=5.0):
            return 3

    with quiet(trackers=[Lossy()]) as meter:
        train(meter, net(), batches(BATCH))
    (warning,) = meter.summary().warnings
    assert warning == "3 logging steps did not reach list, and there is no ledger to send them from"


def test_it_prints_nothing_when_told_so(capsys):
    with quiet() as meter:
        train(meter, net(), batches(BATCH))
    assert capsys.readouterr() == ("", "")


def test_it_prints_a_line_at_the_start_and_a_table_at_the_end(capsys):
    with quiet(verbose=1, peak_flops=1e12) as meter:
        train(meter, net(), batches(BATCH))
        started = capsys.readouterr().out
        train(meter, net(), batches(BATCH))
        assert capsys.readouterr().out == ""
    assert started.startswith("computemeter: metering on 1 x ")
    assert started.count("\n") == 1
    # 2 * 9,216 = 18,432
    assert "18.4 KFLOP" in capsys.readouterr().out


class Alarm(ListSink):
    def __init__(self):
        super().__init__()
        self.alerts = []

    def alert(self, title, text):
        self.alerts.append((title, text))


@pytest.mark.parametrize("alert", [True, False])
def test_an_alarm_is_raised_once_and_where_it_is_asked_for(hands, alert, caplog):
    caplog.set_level(logging.INFO, logger="computemeter")
    sink = Alarm()
    # 1,152 FLOP an example on a device of 1 PFLOP/s: very little of its peak.
    options = {"peak_flops": 1e15, "settle_steps": 2, "settle_seconds": 0, "alert": alert}
    meter = on_clock(quiet(trackers=[sink], log_every=1, **options), hands)
    steps_on(meter, hands, 6)
    meter.close("finished")
    assert [title for title, _ in sink.alerts] == ["computemeter: low_utilization"] * alert
    # Said once, and not as a warning.
    said = [record for record in caplog.records if "low_utilization" in record.message]
    assert [record.levelno for record in said] == [logging.INFO]
