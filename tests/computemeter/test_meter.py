"""A meter on real PyTorch loops: its totals, its time, and that it never harms the training.

The net is 12 -> 16 -> 4. For one example: forward 2*(12*16 + 16*4) = 512 FLOPs, the gradients of
the weights 512 again, and that of the second layer's input 2*16*4 = 128: 1,152 in all.
"""

import copy
import gc
import json
import logging
import os
import random
import weakref
from contextlib import nullcontext
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from computemeter import Device, Meter
from computemeter.book import StepBook
from computemeter.carried import Carried
from computemeter.clock import TrainingClock
from computemeter.counters import torch_counter
from computemeter.counters.torch_counter import TorchCounter
from computemeter.counters.torch_tally import Tally
from computemeter.failures import Failures
from computemeter.journal import Journal
from computemeter.ledger import read_ledger
from computemeter.meter import next_meter
from computemeter.records import SegmentTotals

PER_EXAMPLE = 1_152
# With the first layer frozen: forward 512, the second's weight 128, no gradient of its input.
PER_EXAMPLE_FROZEN = 640
BATCH = 8
PFS_DAY = 864 * 10**17


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Keep the environment out, ledgers in a folder of their own, and no mode behind."""
    for name in [name for name in os.environ if name.startswith("COMPUTEMETER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    assert _get_current_dispatch_mode() is None
    yield
    left = _get_current_dispatch_mode()
    while (mode := _get_current_dispatch_mode()) is not None:
        mode.__exit__(None, None, None)
    assert left is None


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that share a busy core wait for each other longer than these nets compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.time = 1_000.0

    def __call__(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds


@pytest.fixture
def hands():
    return Hands()


def quiet(**options):
    return Meter(**{"ledger": None, "trackers": None, "verbose": 0, **options})


def handed_on(meter):
    return Carried.from_state(meter.state_dict())


def on_clock(meter, hands):
    meter._clock = TrainingClock(now=hands)
    return meter


def net():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))


def batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "x": torch.randn(size, 12, generator=generator),
            "y": torch.randint(0, 4, (size,), generator=generator),
        }
        for size in sizes
    ]


def backward(model, batch):
    loss = F.cross_entropy(model(batch["x"]), batch["y"])
    loss.backward()
    return loss.detach()


def train(meter, model, data, *, given=True):
    """Train one epoch, each step in the meter."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in data:
        with meter.step(batch if given else None):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()


# Totals.


@pytest.mark.parametrize("given", [True, False], ids=["batch given", "no batch given"])
def test_the_total_is_steps_times_flops(given):
    model = net()
    with quiet() as meter:
        train(meter, model, batches(*[BATCH] * 100), given=given)
    summary = meter.summary()
    assert summary.steps == 100
    assert summary.model_flops == summary.hardware_flops == 100 * BATCH * PER_EXAMPLE
    assert summary.flops_per_step == BATCH * PER_EXAMPLE
    assert summary.pfs_days == pytest.approx(921_600 / PFS_DAY)
    assert sum(summary.by_op.values()) == sum(summary.by_dtype.values()) == 921_600
    assert summary.precision == "fp32"
    # octaves 1, 2-3, 4-7, 8-15, 16-31, 32-63, and perhaps 64-127
    assert summary.counted_steps in {6, 7}
    assert summary.predicted_steps == 100 - summary.counted_steps
    assert summary.estimated_steps == 0
    assert summary.flops_standard_error is None
    assert summary.uncounted_ops == {}
    assert summary.samples == (800 if given else None)
    # 12*16 + 16 + 16*4 + 4
    assert (summary.parameters, summary.trainable_parameters) == (276, 276)
    assert (summary.run_flops, summary.spent_flops, summary.lineage_flops) == (921_600,) * 3
    assert summary.warnings == ()


def test_a_partial_last_batch_is_counted_for_itself():
    with quiet() as meter:
        for _epoch in range(3):
            train(meter, net(), batches(8, 8, 8, 5))
    summary = meter.summary()
    assert summary.model_flops == 3 * (8 + 8 + 8 + 5) * PER_EXAMPLE
    assert (summary.steps, summary.samples, summary.estimated_steps) == (12, 87, 0)


def test_without_the_batch_steps_of_different_sizes_are_an_estimate():
    with quiet() as meter:
        train(meter, net(), batches(8, 4, 4, 4, 4, 4, 4), given=False)
    summary = meter.summary()
    # Counted: the first of 8 and two of 4, whichever: 9,216, 4,608 and 4,608, mean 6,144.
    # 7 steps of it are 43,008, where 32 * 1,152 = 36,864 would be right, and it says so.
    assert summary.model_flops == 43_008
    assert (summary.counted_steps, summary.predicted_steps, summary.estimated_steps) == (3, 0, 4)
    # Deviations 3,072, -1,536, -1,536: variance 14,155,776 / 2 = 7,077,888; of 4 steps around
    # a mean of 3: 7,077,888 * 4 * (1 + 4/3)
    assert summary.flops_standard_error == pytest.approx(sqrt(7_077_888 * 4 * 7 / 3))
    assert abs(43_008 - 36_864) < summary.flops_standard_error


def test_gradient_accumulation_in_steps_of_one_micro_batch():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for number, batch in enumerate(batches(*[BATCH] * 12), 1):
            with meter.step(batch):
                backward(model, batch)
                if number % 4 == 0:
                    optimizer.step()
                    optimizer.zero_grad()
    assert meter.summary().model_flops == 12 * BATCH * PER_EXAMPLE


def test_gradient_accumulation_within_one_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for _ in range(5):
            micro = batches(8, 8, 2)
            with meter.step(micro):
                for batch in micro:
                    backward(model, batch)
                optimizer.step()
                optimizer.zero_grad()
    summary = meter.summary()
    assert summary.model_flops == 5 * 18 * PER_EXAMPLE
    assert summary.steps == 5


@pytest.mark.parametrize("given", [True, False], ids=["batch given", "no batch given"])
def test_freezing_a_layer_changes_the_count_from_that_step(given):
    model, data = net(), batches(*[BATCH] * 10)
    with quiet() as meter:
        train(meter, model, data, given=given)
        model[0].requires_grad_(requires_grad=False)
        train(meter, model, data, given=given)
        frozen = meter.summary()
        model[0].requires_grad_(requires_grad=True)
        train(meter, model, data, given=given)
    # 10 steps of 1,152, 10 of 640, 10 of 1,152 an example
    assert frozen.model_flops == 80 * (PER_EXAMPLE + PER_EXAMPLE_FROZEN)
    # 16*4 + 4 of the second layer
    assert (frozen.parameters, frozen.trainable_parameters) == (276, 68)
    summary = meter.summary()
    assert summary.model_flops == 80 * (2 * PER_EXAMPLE + PER_EXAMPLE_FROZEN)
    assert summary.estimated_steps == 0


def test_a_step_without_gradients_is_a_step_of_its_own_kind():
    model, (batch,) = net(), batches(BATCH)
    with quiet() as meter:
        for number in range(20):
            with meter.step(batch), torch.set_grad_enabled(number % 2 == 0):
                loss = F.cross_entropy(model(batch["x"]), batch["y"])
                if number % 2 == 0:
                    loss.backward()
    # The key cannot know: what is set inside the step comes too late. So it is an estimate,
    # somewhere between 512 and 1,152 an example, and is called one.
    summary = meter.summary()
    assert 20 * BATCH * 512 < summary.model_flops < 20 * BATCH * PER_EXAMPLE
    assert summary.estimated_steps == 20 - summary.counted_steps
    with quiet() as meter:
        for number in range(20):
            with torch.set_grad_enabled(number % 2 == 0), meter.step(batch):
                loss = F.cross_entropy(model(batch["x"]), batch["y"])
                if number % 2 == 0:
                    loss.backward()
    # Set outside, it is known.
    assert meter.summary().model_flops == 10 * BATCH * (512 + PER_EXAMPLE)
    assert meter.summary().estimated_steps == 0


def test_autocast_is_seen_in_the_precision():
    model = net()
    with quiet() as meter:
        for batch in batches(*[BATCH] * 3):
            with meter.step(batch):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(model(batch["x"]), batch["y"])
                loss.backward()
    summary = meter.summary()
    assert summary.by_dtype == {"bfloat16": 3 * BATCH * PER_EXAMPLE}
    assert summary.precision == "bf16"


def test_operators_without_a_formula_are_listed_for_all_steps():
    with quiet() as meter:
        for _ in range(50):
            with meter.step():
                torch.linalg.svd(torch.ones(3, 3))
                torch.ones(2, 3) @ torch.ones(3, 4)
    summary = meter.summary()
    assert summary.uncounted_ops == {"aten::_linalg_svd": 50}
    assert summary.model_flops == 50 * 48


def test_only_what_is_inside_a_step_is_counted():
    model, data = net(), batches(*[BATCH] * 3)
    with quiet() as meter:
        backward(model, data[0])
        train(meter, model, data)
        with meter.validation(), torch.no_grad():
            model(data[0]["x"])
        backward(model, data[0])
    assert meter.summary().model_flops == 3 * BATCH * PER_EXAMPLE


def test_validation_inside_a_step_is_not_training():
    model, (batch,) = net(), batches(BATCH)
    with quiet() as meter, meter.step(batch):
        backward(model, batch)
        with meter.validation(), torch.no_grad():
            model(batch["x"])
    assert meter.summary().model_flops == BATCH * PER_EXAMPLE


def test_a_step_may_be_left_early():
    with quiet() as meter:
        for batch in batches(*[BATCH] * 4):
            with meter.step(batch):
                torch.ones(2, 3) @ torch.ones(3, 4)
                if meter.summary().steps == 1:
                    break
                continue
    # The second was left by break, which is no failure.
    assert meter.summary().steps == 2
    assert meter.summary().model_flops == 96


def test_a_meter_needs_no_with():
    meter = quiet()
    train(meter, net(), batches(*[BATCH] * 3))
    assert meter.summary().model_flops == 3 * BATCH * PER_EXAMPLE
    meter.close("finished")
    meter.close("finished")


def test_a_summary_in_the_middle_changes_nothing():
    with quiet() as meter:
        for batch in batches(*[BATCH] * 10):
            train(meter, net(), [batch])
            first, second = meter.summary(), meter.summary()
            # Time goes by; nothing else does.
            passed = {"wall_seconds": 0.0, "host_seconds": {}}
            assert replace(first, **passed) == replace(second, **passed)
    assert meter.summary().model_flops == 10 * BATCH * PER_EXAMPLE


def test_the_meter_keeps_neither_model_nor_batch_alive():
    meter, model, (batch,) = quiet(), net(), batches(BATCH)
    train(meter, model, [batch])
    watched = [weakref.ref(model), weakref.ref(model[0].weight), weakref.ref(batch["x"])]
    del model, batch
    gc.collect()
    assert [each() for each in watched] == [None, None, None]
    assert meter.summary().model_flops == BATCH * PER_EXAMPLE
    # What was known of it while it lived: 12*16 + 16 and 16*4 + 4.
    assert meter.summary().parameters == 276


# What the user adds.


def test_added_flops_count_as_model_and_hardware_flops():
    with quiet() as meter:
        train(meter, net(), batches(BATCH))
        meter.add_flops(2**100)
        meter.add_flops(1)
        meter.add_flops(np.int64(5))
        meter.add_flops(1e6)
        meter.add_flops(0)
    summary = meter.summary()
    assert summary.model_flops == BATCH * PER_EXAMPLE + 2**100 + 6 + 10**6
    assert summary.hardware_flops == summary.model_flops


@pytest.mark.parametrize("bad", [-1, 1.5, "12", True, -(2**70)])
def test_bad_flops_are_refused(bad):
    meter = quiet()
    with pytest.raises(ValueError, match="accepted is a whole number of at least 0") as raised:
        meter.add_flops(bad)
    assert f"flops={bad!r}" in str(raised.value)
    assert meter.summary().model_flops == 0


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), "many", [1]])
def test_other_bad_flops_are_refused_in_the_same_words(bad):
    with pytest.raises(ValueError, match="accepted is a whole number of at least 0"):
        quiet().add_flops(bad)


# Time and method 2.


def test_pauses_and_validation_are_not_training_time(hands):
    meter = on_clock(quiet(), hands)
    data = batches(*[BATCH] * 4)

    def step(batch):
        with meter.step(batch):
            backward(model, batch)
            hands.wait(2)

    model = net()
    hands.wait(100)  # before training
    step(data[0])
    hands.wait(1)  # waiting for data
    step(data[1])
    with meter.validation():
        hands.wait(30)
        with meter.pause():
            hands.wait(5)
    step(data[2])
    with meter.pause():
        hands.wait(50)
    step(data[3])
    with meter.pause():
        hands.wait(70)
    # 4 steps of 2 and one wait of 1
    summary = meter.summary()
    assert summary.training_seconds == pytest.approx(9.0)
    assert summary.busy_seconds == pytest.approx(8.0)


def test_an_exception_in_a_pause_ends_it(hands):
    meter = on_clock(quiet(), hands)
    with meter.step():
        hands.wait(2)

    def fails():
        with meter.validation():
            hands.wait(30)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    hands.wait(1)
    with meter.step():
        hands.wait(2)
    assert meter.summary().training_seconds == pytest.approx(5.0)


def steps_on(meter, hands, number):
    """Run steps of 1 s with 1 s between them."""
    model = net()
    for batch in batches(*[BATCH] * number):
        with meter.step(batch):
            backward(model, batch)
            hands.wait(1)
        hands.wait(1)
    return meter.summary()


def test_method_2_and_the_ratio(hands):
    # 4 steps: 4 * 8 * 1,152 = 36,864 FLOP in 4 + 3 = 7 s. At a peak of 36,864 FLOP/s and the
    # 17 % of a CPU: 7 * 36,864 * 0.17 = 43,868.16 FLOP.
    meter = on_clock(quiet(peak_flops=36_864, settle_steps=0, settle_seconds=0), hands)
    summary = steps_on(meter, hands, 4)
    assert summary.model_flops == 36_864
    assert summary.device_name
    assert (summary.device_count, summary.peak_flops) == (1, 36_864)
    assert summary.assumed_utilization == 0.17
    assert summary.training_seconds == summary.device_seconds == pytest.approx(7.0)
    assert summary.busy_seconds == pytest.approx(4.0)
    assert summary.pfs_days_gpu_time == pytest.approx(43_868 / PFS_DAY, rel=1e-12)
    assert summary.ratio == summary.divergence == pytest.approx(43_868 / 36_864)
    assert (summary.verdict, summary.cause) == ("agree", "none")
    assert summary.mfu == summary.hfu == pytest.approx(1 / 7)


def test_an_assumed_utilization_of_ones_own(hands):
    # 7 * 36,864 * 0.5 = 129,024, 3.5 times the 36,864 counted. Steps are 4 of 7 s: busy enough.
    options = {"assumed_utilization": 0.5, "settle_steps": 4, "settle_seconds": 7}
    meter = on_clock(quiet(peak_flops=36_864, **options), hands)
    summary = steps_on(meter, hands, 4)
    assert summary.ratio == summary.divergence == pytest.approx(3.5)
    assert (summary.verdict, summary.cause) == ("alarm", "low_utilization")


def test_before_it_has_settled_the_verdict_is_unknown(hands):
    meter = on_clock(quiet(peak_flops=36_864, settle_steps=5, settle_seconds=0), hands)
    summary = steps_on(meter, hands, 4)
    assert (summary.verdict, summary.cause) == ("unknown", "short_run")
    assert summary.ratio == pytest.approx(43_868 / 36_864)


def test_an_impossible_utilisation_is_no_number_and_is_warned_of_once(hands, caplog):
    # 36,864 FLOP in 7 s at a peak of 1,000: 5.3 times what is possible
    options = {"peak_flops": 1_000, "settle_steps": 0, "settle_seconds": 0, "log_every": 1}
    meter = on_clock(quiet(**options), hands)
    with caplog.at_level(logging.WARNING, "computemeter"), meter:
        summary = steps_on(meter, hands, 4)
    assert (summary.mfu, summary.hfu) == (None, None)
    assert summary.cause == "peak_suspect"
    assert len([each for each in caplog.messages if "peak_suspect" in each]) == 1


def test_a_precision_without_a_peak_is_named_and_what_to_do(hands, monkeypatch):
    old = Device("Old 1", "cuda", {"fp64": 1e12}, "its data sheet")
    monkeypatch.setattr(torch_counter, "torch_device", lambda _device: old)
    summary = steps_on(on_clock(quiet(settle_steps=0, settle_seconds=0), hands), hands, 4)
    assert summary.cause == "no_peak"
    assert "no fp32 peak of Old 1 is known; pass peak_flops= (dense FLOP/s" in summary.diagnosis
    assert "data sheet" not in summary.diagnosis


def test_an_unknown_device_has_no_method_2_and_no_zero(hands, monkeypatch):
    odd = Device("Mystery 1", "cuda", {}, '"Mystery 1" is not in the table')
    monkeypatch.setattr(torch_counter, "torch_device", lambda _device: odd)
    meter = on_clock(quiet(settle_steps=0, settle_seconds=0), hands)
    summary = steps_on(meter, hands, 4)
    assert summary.model_flops == 36_864
    assert summary.device_name == "Mystery 1"
    assert summary.peak_flops is summary.pfs_days_gpu_time is None
    assert summary.ratio is summary.divergence is summary.mfu is summary.hfu is None
    assert (summary.verdict, summary.cause) == ("unknown", "no_peak")
    assert "Mystery 1" in summary.diagnosis
    assert handed_on(meter).gpu_time_flops is None
    # A peak of the user's makes up for it, at the utilisation assumed of a GPU.
    known = on_clock(quiet(peak_flops=36_864), hands)
    assert steps_on(known, hands, 4).pfs_days_gpu_time == pytest.approx(
        round(7 * 36_864 * 0.33) / PFS_DAY
    )


def test_zero_steps():
    with quiet(peak_flops=1e12, settle_steps=0, settle_seconds=0) as meter:
        pass
    summary = meter.summary()
    assert (summary.steps, summary.model_flops, summary.flops_per_step) == (0, 0, None)
    assert (summary.verdict, summary.cause) == ("unknown", "short_run")
    assert summary.ratio is summary.mfu is summary.pfs_days_gpu_time is None
    assert summary.samples is summary.parameters is summary.precision is None
    assert summary.training_seconds == 0.0
    assert summary.warnings == ()
    assert json.loads(json.dumps(summary.to_dict()))["steps"] == 0


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_one_step_gets_no_verdict(hands, seconds):
    meter = on_clock(quiet(peak_flops=1e6, settle_steps=0, settle_seconds=0), hands)
    (batch,) = batches(BATCH)
    model = net()
    with meter, meter.step(batch):
        backward(model, batch)
        hands.wait(seconds)
    summary = meter.summary()
    assert (summary.steps, summary.model_flops) == (1, BATCH * PER_EXAMPLE)
    assert (summary.verdict, summary.cause) == ("unknown", "short_run")
    assert summary.training_seconds == seconds
    assert summary.warnings == ()


def test_a_run_whose_clock_stands_still_divides_by_nothing(hands, tmp_path):
    meter = on_clock(quiet(peak_flops=1e6, ledger=tmp_path, log_every=1), hands)
    with meter:
        train(meter, net(), batches(BATCH, BATCH))
    summary = meter.summary()
    assert summary.model_flops == 2 * BATCH * PER_EXAMPLE
    assert summary.mfu is summary.ratio is None
    assert summary.verdict == "unknown"
    assert summary.warnings == ()


# Exceptions in the user's code.


@pytest.mark.parametrize(
    "kind", [ValueError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit, RuntimeError]
)
@pytest.mark.parametrize("before", [0, 5], ids=["in a counted step", "in a later step"])
def test_an_exception_passes_through_and_its_step_is_not_booked(kind, before):
    model, data = net(), batches(*[BATCH] * (before + 3))
    error, meter = kind("mine"), quiet()

    def run():
        train(meter, model, data[:before])
        with meter.step(data[before]):
            backward(model, data[before])
            raise error

    with pytest.raises(kind) as raised:
        run()
    assert raised.value is error
    assert error.__cause__ is error.__context__ is None
    assert _get_current_dispatch_mode() is None
    summary = meter.summary()
    assert (summary.steps, summary.model_flops) == (before, before * BATCH * PER_EXAMPLE)
    # and the meter goes on
    train(meter, model, data[:3])
    assert meter.summary().model_flops == (before + 3) * BATCH * PER_EXAMPLE
    assert meter.summary().warnings == ()


def test_an_exception_from_the_loader_between_steps_is_the_users():
    def loader():
        yield from batches(BATCH)
        raise OSError("disk")

    meter = quiet()
    with pytest.raises(OSError, match="disk"), meter:
        train(meter, net(), loader())
    assert meter.summary().steps == 1
    assert meter.summary().model_flops == BATCH * PER_EXAMPLE


def test_a_step_that_was_never_ended_is_given_up_when_the_next_begins():
    meter, (batch,) = quiet(), batches(BATCH)
    meter.start_step(batch)
    train(meter, net(), [batch])
    assert meter.summary().steps == 1
    assert meter.summary().model_flops == BATCH * PER_EXAMPLE


def test_a_mode_that_a_step_leaves_open_does_not_keep_ours_for_good():
    class Other(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    other = Other()
    with quiet() as meter:
        with meter.step():
            torch.ones(2, 3) @ torch.ones(3, 4)
            other.__enter__()
        assert _get_current_dispatch_mode() is other
        other.__exit__(None, None, None)
    if (ours := _get_current_dispatch_mode()) is not None:
        ours.__exit__(None, None, None)
    assert ours is None


# A run in several segments.


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


# The ledger and the trackers.


def the_ledger(folder):
    (path,) = folder.glob("*.jsonl")
    return read_ledger(path)


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


class ListSink:
    """A tracker in memory."""

    name, run_id = "list", "run-7"

    def __init__(self):
        self.logged, self.tags, self.closed = [], {}, 0

    def log(self, metrics, *, step, time):
        self.logged.append((step, time, dict(metrics)))

    def tag(self, tags):
        self.tags |= tags

    def close(self, timeout=5.0):
        self.closed += 1
        return 0


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


# The meter never harms the training.


def train_alone(meter_of):
    """Train from a fixed start; return everything that a meter must not change."""
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the state that old code shares
    random.seed(5)
    model = net()
    losses = []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    meter = meter_of()
    with meter or nullcontext():
        for batch in batches(8, 8, 5, 8, 8, 5, 8, 8):
            noise = np.random.rand() + random.random()  # noqa: NPY002
            with meter.step(batch) if meter else nullcontext():
                optimizer.zero_grad()
                losses.append(backward(model, {**batch, "x": batch["x"] + noise}))
                optimizer.step()
            with meter.validation() if meter else nullcontext(), torch.no_grad():
                model(batch["x"])
    random_state = (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    return meter, (losses, copy.deepcopy(model.state_dict()), random_state)


def assert_identical(one, other):
    (losses, weights, states), (same_losses, same_weights, same_states) = one, other
    assert [loss.item() for loss in losses] == [loss.item() for loss in same_losses]
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert torch.equal(states[0], same_states[0])
    assert all(
        np.array_equal(mine, its) for mine, its in zip(states[1], same_states[1], strict=True)
    )
    assert states[2] == same_states[2]


@pytest.fixture(scope="module")
def unmetered():
    return train_alone(lambda: None)[1]


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), random.random, np.random.rand])
def test_the_comparison_would_see_a_single_draw(unmetered, draw):
    def no_meter():
        draw()

    with pytest.raises(AssertionError):
        assert_identical(unmetered, train_alone(no_meter)[1])


def test_training_is_the_same_bit_for_bit(unmetered, tmp_path):
    meter, result = train_alone(lambda: quiet(ledger=tmp_path, log_every=1, verbose=1))
    assert_identical(unmetered, result)
    # 6 batches of 8 and 2 of 5
    assert meter.summary().model_flops == 58 * PER_EXAMPLE
    assert meter.summary().warnings == ()


def fail(*_args, **_kwargs):
    raise RuntimeError("injected")


def stop_and_fail(self, stop=TorchCounter.stop):
    stop(self)
    fail()


FAILURES = {
    "StepBook.add": (StepBook, "add", fail),
    "StepBook.wants_count": (StepBook, "wants_count", fail),
    "StepBook.totals": (StepBook, "totals", fail),
    "TrainingClock.start_step": (TrainingClock, "start_step", fail),
    "TrainingClock.end_step": (TrainingClock, "end_step", fail),
    "TrainingClock.leave_out": (TrainingClock, "leave_out", fail),
    "TrainingClock.take_back": (TrainingClock, "take_back", fail),
    "TorchCounter.key": (TorchCounter, "key", fail),
    "TorchCounter.complete": (TorchCounter, "complete", fail),
    "TorchCounter.start": (TorchCounter, "start", fail),
    "TorchCounter.stop": (TorchCounter, "stop", stop_and_fail),
    "TorchCounter.stop, before it stops": (TorchCounter, "stop", fail),
    "TorchCounter.device": (TorchCounter, "device", fail),
    "TorchCounter.parameter_counts": (TorchCounter, "parameter_counts", fail),
    "Tally.book": (Tally, "book", fail),
    "Tally.count": (Tally, "count", fail),
    "Journal.__init__": (Journal, "__init__", fail),
    "Journal.write": (Journal, "write", fail),
    "Journal.close": (Journal, "close", fail),
    "take_snapshot": ("computemeter.run_meter", "take_snapshot", fail),
    "examples": ("computemeter.step_meter", "examples", fail),
    "print_start": ("computemeter.table", "print_start", fail),
    "print_summary": ("computemeter.table", "print_summary", fail),
    "LedgerWriter.open": ("computemeter.ledger_writer.LedgerWriter", "open", fail),
    "LedgerWriter.progress": ("computemeter.ledger_writer.LedgerWriter", "progress", fail),
    "LedgerWriter.end": ("computemeter.ledger_writer.LedgerWriter", "end", fail),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_inside_the_meter_stays_there(name, unmetered, monkeypatch, tmp_path, caplog):
    target, attribute, function = FAILURES[name]
    if isinstance(target, str):
        monkeypatch.setattr(f"{target}.{attribute}", function)
    else:
        monkeypatch.setattr(target, attribute, function)
    with caplog.at_level(logging.WARNING, "computemeter"):
        meter, result = train_alone(lambda: quiet(ledger=tmp_path, log_every=1, verbose=1))
    assert_identical(unmetered, result)
    assert _get_current_dispatch_mode() is None
    # Each trouble is logged once, and kept with how often it came.
    logged = [each.message for each in caplog.records if "injected" in each.message]
    assert logged
    assert len(logged) == len(set(logged))
    assert {each.levelname for each in caplog.records if each.message in logged} == {"WARNING"}
    assert any("injected" in message for message in meter.failures.messages)
    if name not in {"StepBook.totals", "TorchCounter.device", "TorchCounter.parameter_counts"}:
        assert any("injected" in message for message in meter.summary().warnings)
    if meter._journal is not None and meter._journal._ledger is not None:
        meter._journal._ledger.close()  # where the failure kept it open


@pytest.mark.parametrize(
    "name",
    [
        "StepBook.wants_count",
        "TorchCounter.key",
        "TorchCounter.start",
        "TorchCounter.stop",
        "Tally.book",
        "Tally.count",
    ],
)
def test_a_count_that_fails_once_is_made_up_for(name, monkeypatch, tmp_path):
    target, attribute, function = FAILURES[name]
    real, calls = getattr(target, attribute), []

    def fails_once(*args, **kwargs):
        calls.append(1)
        return (function if len(calls) == 1 else real)(*args, **kwargs)

    monkeypatch.setattr(target, attribute, fails_once)
    with quiet(ledger=tmp_path) as meter:
        train(meter, net(), batches(*[BATCH] * 10))
    summary = meter.summary()
    # The step that was not counted is booked like the others, if need be at their mean.
    assert summary.model_flops == 10 * BATCH * PER_EXAMPLE
    assert summary.steps == 10
    assert "injected" in summary.warnings[0]
    assert the_ledger(tmp_path).summary["warnings"] == list(summary.warnings)


def test_a_run_that_was_never_counted_is_unknown_and_not_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(Tally, "book", fail)
    sink = ListSink()
    with quiet(ledger=tmp_path, trackers=[sink], peak_flops=1e12) as meter:
        train(meter, net(), batches(*[BATCH] * 5))
    summary = meter.summary()
    assert (summary.steps, summary.estimated_steps, summary.counted_steps) == (5, 5, 0)
    assert (summary.verdict, summary.cause) == ("unknown", "count_suspect")
    assert summary.ratio is summary.mfu is None
    assert "unknown" in str(summary).partition("operations (method 1)")[2].partition("\n")[0]
    assert "compute/flops" not in sink.logged[-1][2]
    assert "compute/pfs_days" not in sink.logged[-1][2]


def test_the_flops_of_a_step_that_was_never_counted_are_not_zero(monkeypatch):
    monkeypatch.setattr(Tally, "book", fail)
    with quiet() as meter:
        train(meter, net(), batches(*[BATCH] * 5))
    assert meter.summary().flops_per_step is None


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


def test_a_tracker_that_always_fails_harms_nobody(unmetered, tmp_path):
    class Broken(ListSink):
        def log(self, metrics, *, step, time):
            raise RuntimeError("injected")

        def tag(self, tags):
            raise RuntimeError("injected")

        def close(self, timeout=5.0):
            raise RuntimeError("injected")

    meter, result = train_alone(lambda: quiet(ledger=tmp_path, trackers=[Broken()], log_every=1))
    assert_identical(unmetered, result)
    assert len([each for each in meter.summary().warnings if "injected" in each]) == 3
    assert the_ledger(tmp_path).last_totals["model_flops"] == 58 * PER_EXAMPLE
    assert the_ledger(tmp_path).status == "finished"


def test_a_folder_that_cannot_be_written_harms_nobody(unmetered, tmp_path):
    (tmp_path / "file").touch()
    meter, result = train_alone(lambda: quiet(ledger=tmp_path / "file" / "ledger", log_every=1))
    assert_identical(unmetered, result)
    assert meter.summary().model_flops == 58 * PER_EXAMPLE
    (warning,) = meter.summary().warnings
    assert "file" in warning


def test_an_error_that_cannot_even_be_printed_stays_inside(monkeypatch):
    class UnprintableError(Exception):
        def __str__(self):
            raise ValueError("no text")

    def unprintable(*_args, **_kwargs):
        raise UnprintableError

    monkeypatch.setattr(StepBook, "add", unprintable)
    with quiet() as meter:
        train(meter, net(), batches(BATCH))
    assert meter.failures.messages


def test_a_dict_with_attributes_is_a_batch_like_any_other():
    class AttributeDict(dict):
        __getattr__ = dict.__getitem__

    with quiet() as meter:
        train(meter, net(), [AttributeDict(batch) for batch in batches(*[BATCH] * 3)])
    assert meter.summary().model_flops == 3 * BATCH * PER_EXAMPLE


class Graph:
    """Stands in for `torch.cuda.CUDAGraph`, of which a build for the CPU has an empty shell."""

    def replay(self):
        return "replayed"


def test_a_step_that_replays_a_cuda_graph_is_unknown_and_not_less(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    replay = Graph.replay
    with quiet() as meter:
        for _ in range(3):
            with meter.step():
                torch.ones(2, 3) @ torch.ones(3, 4)  # beside the graph
                assert Graph().replay() == "replayed"
    assert meter.summary().model_flops is None
    assert meter.summary().cause == "count_suspect"
    assert Graph.replay is replay


def test_a_step_that_was_counted_before_it_became_a_graph_stays_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    with quiet() as meter:
        for number in range(100):  # several recounts fall into these
            with meter.step():
                if number == 0:
                    torch.ones(2, 3) @ torch.ones(3, 4)
                else:
                    Graph().replay()
    assert meter.summary().model_flops == 100 * 48


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
