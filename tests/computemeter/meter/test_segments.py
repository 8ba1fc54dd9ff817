"""A run in several segments, from one meter to the next."""

import json

import pytest
from meter_loops import PER_EXAMPLE, batches, handed_on, net, on_clock, quiet, steps_on, train
from small_runs import BATCH

from computemeter import Device
from computemeter.carried import Carried
from computemeter.counters import torch_counter
from computemeter.failures import Failures
from computemeter.ledger import read_ledger
from computemeter.meter import next_meter
from computemeter.records import SegmentTotals


def test_a_second_meter_goes_on_from_the_state_of_the_first(hands):
    options = {"peak_flops": 36_864, "settle_steps": 0, "settle_seconds": 0}
    first = on_clock(quiet(**options), hands)
    with first:
        steps_on(first, hands, 4)
        first.add_flops(2**100 + 1)
    # through the text of a checkpoint
    state = json.loads(json.dumps(first.state_dict()))
    carried = Carried.from_state(state)
    assert carried.run_flops == carried.spent_flops == 36_864 + 2**100 + 1
    assert carried.gpu_time_flops == 43_868
    assert carried.device_seconds == pytest.approx(7.0)

    second = on_clock(quiet(**options), hands)
    second.load_state_dict(state)
    with second:
        summary = steps_on(second, hands, 2)
    # This segment: 2 steps in 3 s.
    assert summary.model_flops == 2 * BATCH * PER_EXAMPLE == 18_432
    assert summary.training_seconds == pytest.approx(3.0)
    assert summary.run_flops == summary.spent_flops == 36_864 + 2**100 + 1 + 18_432
    # 3 * 36,864 * 0.17 = 18,800.64 over 18,432, of this segment alone
    assert summary.ratio == pytest.approx(18_801 / 18_432)
    assert handed_on(second).gpu_time_flops == 43_868 + 18_801
    assert handed_on(second).device_seconds == pytest.approx(10.0)


def test_work_that_a_crash_threw_away_is_spent_and_not_in_the_weights():
    # The checkpoint holds 10 of 30 FLOP burned; this segment adds 9,216 to both.
    meter = quiet(base_flops=5)
    earlier = {"a": SegmentTotals(model_flops=10), "b": SegmentTotals(model_flops=20)}
    meter.load_state_dict(Carried(run_flops=10, segments=earlier).to_state())
    train(meter, net(), batches(BATCH))
    summary = meter.summary()
    assert (summary.model_flops, summary.run_flops, summary.spent_flops) == (9_216, 9_226, 9_246)
    assert summary.lineage_flops == 9_231
    assert handed_on(meter).run_flops == 9_226
    assert handed_on(meter).spent_flops == 9_246


def test_a_segment_without_a_peak_makes_the_runs_device_time_unknown(hands, monkeypatch):
    odd = Device("Mystery 1", "cuda", {}, "no peak")
    monkeypatch.setattr(torch_counter, "torch_device", lambda _device: odd)
    first = on_clock(quiet(), hands)
    steps_on(first, hands, 2)
    second = on_clock(quiet(peak_flops=1e6), hands)
    second.load_state_dict(first.state_dict())
    assert steps_on(second, hands, 2).pfs_days_gpu_time is not None
    assert handed_on(second).gpu_time_flops is None


def test_segments_of_a_run_know_each_other(tmp_path):
    first = quiet(ledger=tmp_path)
    with first:
        train(first, net(), batches(BATCH))
    second = quiet(ledger=tmp_path)
    second.load_state_dict(first.state_dict())
    with second:
        train(second, net(), batches(BATCH, BATCH))
    one, two = (read_ledger(path) for path in sorted(tmp_path.glob("*.jsonl")))
    assert one.header.run == two.header.run == one.header.segment
    assert (one.header.parent, two.header.parent) == (None, one.header.segment)
    assert two.last_totals["run_flops"] == 3 * BATCH * PER_EXAMPLE
    assert two.last_totals["model_flops"] == 2 * BATCH * PER_EXAMPLE


def test_a_state_of_a_newer_version_is_refused():
    meter = quiet()
    state = {**meter.state_dict(), "schema": 99}
    with pytest.raises(ValueError, match="schema 99, this version reads up to 1: update"):
        meter.load_state_dict(state)
    assert meter.summary().run_flops == 0


def test_the_base_of_a_warm_start_is_added_to_the_lineage_alone():
    with quiet(base_flops=2**90 + 1, base_model="llama") as meter:
        train(meter, net(), batches(BATCH))
    summary = meter.summary()
    assert summary.run_flops == summary.spent_flops == BATCH * PER_EXAMPLE
    assert summary.lineage_flops == 2**90 + 1 + BATCH * PER_EXAMPLE
    # A base whose compute nobody knows is unknown, not zero.
    assert quiet(base_model="llama").summary().lineage_flops is None


@pytest.mark.parametrize("same", [True, False])
def test_the_meter_of_a_callbacks_next_fit(same):
    failures, last = Failures(), quiet()
    meter = next_meter(
        last, {"ledger": None, "trackers": None, "warn_at": 2.5}, failures, same=same
    )
    assert (meter.options.warn_at, meter.failures) == (2.5, failures)
    # What was told of one training is news of another.
    assert (meter.telling is last.telling) is same
    # Nothing is attached yet: that is not a zero.
    assert meter.summary().model_flops is None
    meter.metering = True
    assert meter.summary().model_flops == 0
