"""A meter on real PyTorch loops: its totals.

How many FLOPs an example of the net takes is derived in `meter_loops`.
"""

import gc
import weakref
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from meter_loops import (
    PER_EXAMPLE,
    PER_EXAMPLE_FROZEN,
    PFS_DAY,
    backward,
    batches,
    net,
    quiet,
    train,
)
from small_runs import BATCH

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
    assert summary.flops_standard_error == 0  # no count differed from another
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


# What a batch may be, and a step.


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
