"""A few real steps of a copy: what is measured and dropped, and all that stays as it was."""

import copy
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from probe_models import Hungry, Sleepy, StaysHere, Suicidal
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn

from computemeter.planning import _trial
from computemeter.planning._batches import resized
from computemeter.planning._trial import Job, Orders, Pace, measure
from computemeter.planning.probe import (
    Dropped,
    ProbeError,
    ProbeResult,
    StepTime,
    StepTimeFit,
    probe,
    probe_devices,
)

GIB = 2**30


def net():
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, CLASSES),
    )


def data():
    return torch.randn(BATCH, INPUTS), torch.randint(CLASSES, (BATCH,))


def ones(size=BATCH, width=4):
    return torch.ones(size, width)


def everything(model, optimizer, batch):
    """All that a probe must leave as it was, as bytes that can be compared."""
    state = [*model.state_dict().values(), *batch]
    state += [each.grad for each in model.parameters() if each.grad is not None]
    state += [part for slot in optimizer.state.values() for part in slot.values()]
    return (
        [each.detach().numpy().tobytes() for each in state],
        [each.training for each in model.modules()],
        random.getstate(),
        str(np.random.get_state()),  # noqa: NPY002 - the shared generator is what is looked at
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
    )


@pytest.mark.parametrize("in_process", [None, True])
def test_steps_are_measured_and_nothing_of_the_user_s_is_touched(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, batch, loss = net(), data(), nn.functional.cross_entropy
    optimizer = torch.optim.Adam(model.parameters())
    loss(model(batch[0]), batch[1]).backward()
    optimizer.step()
    model[2].eval()
    before = everything(model, optimizer, batch)
    result = probe(model, batch, loss=loss, optimizer=optimizer, in_process=in_process)
    assert everything(model, optimizer, batch) == before
    assert [step.batch_size for step in result.measured] == [2, 4, 8, 16, 32]
    assert all(step.seconds > 0 and step.spread >= 0 for step in result.measured)
    assert {step.steps for step in result.measured} == {10}
    assert result.flops_per_example == FLOPS_PER_EXAMPLE
    assert (result.dropped, result.notes) == ((), ())
    assert result.fit is not None
    assert result.device_name
    assert list(tmp_path.glob("computemeter*")) == []
    assert "_worker" not in children()


def children():
    command = ["ps", "--ppid", str(os.getpid()), "-o", "args="]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_batch_that_does_not_fit_is_dropped_with_all_larger_ones():
    # 4 GiB and more, of which a process that may take 2 gets none.
    result = probe(Hungry(), ones(), batch_sizes=[8192, 4096, 16], memory_limit=2 * GIB)
    assert [step.batch_size for step in result.measured] == [16]
    assert [(each.batch_size, each.too_large) for each in result.dropped] == [
        (4096, True),
        (8192, True),
    ]
    assert result.dropped[0].reason == "does not fit in memory"
    assert result.dropped[1].reason == "not tried: 4096 does not fit in memory"
    assert result.fit is None
    assert result.seconds_per_step(16) > 0
    assert result.seconds_per_step(4096) is None


def test_a_process_that_is_killed_is_not_this_one():
    result = probe(Suicidal(4, 1), ones(), batch_sizes=[4, 8, 16, 32])
    assert [step.batch_size for step in result.measured] == [4, 8]
    assert [each.batch_size for each in result.dropped] == [16, 32]
    assert "its process was ended (SIGKILL)" in result.dropped[0].reason


def test_a_step_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr("computemeter.planning._apart._GRACE", 0.5)
    result = probe(Sleepy(4, 1), ones(), batch_sizes=[4, 8, 16, 32], seconds=2)
    assert [step.batch_size for step in result.measured] == [4, 8]
    assert [each.reason for each in result.dropped] == [
        "not measured within 2 s",
        "no time left of 2 s",
    ]
    # It may well fit: the fit still speaks for it.
    assert result.seconds_per_step(16) > 0


def test_no_batch_at_all_is_an_error_of_one_line():
    # A thousandth of what importing PyTorch takes.
    with pytest.raises(ProbeError, match="the probe's process could not begin: "):
        probe(Hungry(), ones(), memory_limit=2**18)


def test_what_a_step_raises_is_said_in_one_line():
    with pytest.raises(ProbeError, match=r"2: RuntimeError: .*shapes cannot be mult") as error:
        probe(nn.Linear(5, 1), ones(width=4), in_process=True)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_model_of_a_script_can_be_probed(tmp_path):
    pytest.importorskip("cloudpickle")
    script = tmp_path / "script.py"
    script.write_text("""
import torch
from computemeter.planning.probe import probe

class Own(torch.nn.Linear):
    pass

result = probe(Own(4, 1), torch.ones(2, 4), batch_sizes=[2], steps=1)
print(len(result.measured), [note for note in result.notes if "process" in note])
""")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "1 []\n"


def test_a_model_for_which_there_is_no_other_process_is_measured_here_and_carefully():
    result = probe(StaysHere(4, 1), ones())
    assert [step.batch_size for step in result.measured] == [2, 4, 8]
    assert [each.batch_size for each in result.dropped] == [16, 32]
    assert "Measured in this process" in result.notes[0]
    assert "it stays here" in result.notes[0]
    with pytest.raises(ProbeError, match="no other process can train this model"):
        probe(StaysHere(4, 1), ones(), in_process=False)


def test_the_model_s_own_loss_or_a_stand_in_and_said_so():
    class WithLoss(nn.Linear):
        def forward(self, x, y):
            return {"loss": (super().forward(x) - y).square().mean()}

    given = {"x": ones(), "y": ones(width=1)}
    own = probe(WithLoss(4, 1), given, batch_sizes=[2, 8], in_process=True)
    assert own.notes == ("No optimizer was given: Adam with its defaults stands in.",)
    stand_in = probe(nn.Linear(4, 1), ones(), batch_sizes=[2], in_process=True)
    assert stand_in.notes[1] == "No loss was given: the mean of the output stands in for it."


class NeedsClosure(torch.optim.SGD):
    """Runs the step by itself, twice, as LBFGS does."""

    def step(self, closure):
        closure()
        return super().step(closure)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, NeedsClosure])
def test_an_optimizer_may_be_made_for_the_copy(optimizer):
    loss = nn.functional.cross_entropy
    result = probe(net(), data(), loss=loss, optimizer=optimizer, in_process=True)
    assert len(result.measured) == 5
    # One that runs the step twice takes two steps' operations.
    times = 2 if optimizer is NeedsClosure else 1
    assert result.flops_per_example == times * FLOPS_PER_EXAMPLE


def test_an_optimizer_of_another_model_is_refused():
    other = torch.optim.SGD(net().parameters())
    with pytest.raises(ProbeError, match="updates none of the model's parameters"):
        probe(net(), data(), optimizer=other, in_process=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": [0]}, "batch_sizes=0: accepted is a whole number of at least 1"),
        ({"batch_sizes": [-8]}, "batch_sizes=-8"),
        ({"batch_sizes": ["8"]}, "batch_sizes='8'"),
        ({"batch_sizes": []}, "batch_sizes is empty"),
        ({"steps": 0}, "steps=0"),
        ({"warmup": 0}, "warmup=0"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"seconds": float("nan")}, "seconds must be above 0"),
        ({"memory_limit": -1}, "memory_limit=-1"),
    ],
)
def test_bad_values_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        probe(net(), data(), **options)


def test_no_model_and_no_batch_are_refused():
    with pytest.raises(TypeError, match="not a function"):
        probe(lambda x: x, ones())
    for batch in (3.0, [], torch.tensor(1.0), torch.ones(0, 4)):
        with pytest.raises(ValueError, match="holds no array"):
            probe(net(), batch)


def test_cpu_comes_first_and_alone_where_there_is_nothing_else():
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    (result,) = probe_devices(net(), data(), batch_sizes=[8], steps=1, in_process=True)
    assert [step.batch_size for step in result.measured] == [8]


# What needs no model.


def test_batches_are_made_of_the_examples_in_order():
    batch = {"x": torch.tensor([1, 2, 3]), "pair": (np.array([[1], [2], [3]]), 0.5), "name": "n"}
    five = resized(batch, 5)
    assert five["x"].tolist() == [1, 2, 3, 1, 2]
    assert five["pair"][0].tolist() == [[1], [2], [3], [1], [2]]
    assert (five["pair"][1], five["name"]) == (0.5, "n")
    assert resized(batch, 2)["x"].tolist() == [1, 2]
    assert resized(batch, 3) is batch


class Clock:
    """Passes a second with every step of a batch of one."""

    def __init__(self):
        self.now, self.waits = 100.0, 0

    def perf_counter(self):
        return self.now

    def wait(self):
        self.waits += 1


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_trial, "time", clock)
    return clock


class Stub:
    """Takes seconds a step for a batch size, or raises."""

    device_name, asynchronous = "a device", False

    def __init__(self, clock, seconds):
        self._clock, self._seconds, self.notes = clock, seconds, ["a note"]
        self.wait = clock.wait

    def run(self, size, pace):
        while pace.going():
            took = self._seconds[size]
            if isinstance(took, Exception):
                raise took
            self._clock.now += took

    def count(self, size):
        raise RuntimeError("no graph")


def found(clock, took, *, seconds=1000.0, warmup=2, count_at=0):
    orders = Orders(
        batch_sizes=tuple(took), count_at=count_at, steps=4, warmup=warmup, seconds=seconds
    )
    messages = list(measure(Stub(clock, took), orders))
    return [each for each in messages if isinstance(each, StepTime | Dropped)], messages


def test_warm_up_is_left_out_and_the_rest_is_timed(clock):
    (step,), _ = found(clock, {8: 2.0})
    assert step == StepTime(batch_size=8, seconds=2.0, spread=0.0, steps=4)
    assert clock.now == 100 + (2 + 4) * 2.0


def test_short_of_time_fewer_steps_are_run_but_one(clock):
    # 10 s for two sizes: 5 for the first, in which a step of warm-up and four timed ones begin...
    small, large = found(clock, {8: 1.0, 16: 2.0}, seconds=10.0, warmup=1)[0]
    assert (small.steps, large.steps) == (4, 2)  # 5 s are left: 2 + 2 + 2 ends past them
    # ...and a size for which not even two steps are to be expected is not begun.
    _, late = found(clock, {8: 6.0, 16: 1.0}, seconds=20.0)[0]
    assert late == Dropped(batch_size=16, reason="no time left of 20 s")


def test_a_slow_warm_up_is_cut_short(clock):
    (step,), _ = found(clock, {8: 30.0}, seconds=20.0, warmup=5)
    assert step.steps == 1
    assert clock.now == 100 + 30 + 30


def test_want_of_memory_ends_it_and_other_errors_do_not(clock):
    took = {1: ValueError("more than 1"), 2: 1.0, 4: MemoryError(), 8: 1.0}
    error, step, large, larger = found(clock, took)[0]
    assert error == Dropped(batch_size=1, reason="ValueError: more than 1")
    assert step.batch_size == 2
    assert (large.too_large, larger.too_large) == (True, True)


def test_a_count_that_fails_costs_no_time(clock):
    (step,), messages = found(clock, {8: 1.0}, count_at=8)
    assert step.seconds == 1.0
    texts = [each.text for each in messages if hasattr(each, "text")]
    assert texts == ["The operations were not counted (RuntimeError: no graph).", "a note"]


def test_behind_an_asynchronous_device_steps_are_timed_in_groups(clock):
    pace = Pace(warmup=1, steps=4, until=1000.0, wait=clock.wait, together=2)
    while pace.going():
        clock.now += 3.0
    assert (pace.times, pace.timed, clock.waits) == ([3.0, 3.0], 4, 3)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("std::bad_alloc"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"),
    ],
)
def test_want_of_memory_is_known_by_what_the_frameworks_say(error):
    assert _trial.is_out_of_memory(error)
    assert not _trial.is_out_of_memory(ValueError("a memory of things past"))


RESULT = ProbeResult(
    device_name="a device",
    measured=(StepTime(batch_size=8, seconds=2.4), StepTime(batch_size=16, seconds=5.0)),
    dropped=(Dropped(batch_size=64, reason="does not fit in memory", too_large=True),),
    fit=StepTimeFit(fixed=0.5, per_example=0.25),
)


def test_a_forecast_is_what_was_measured_and_else_what_was_fitted():
    assert RESULT.seconds_per_step(8) == 2.4
    assert RESULT.seconds_per_step(4) == 1.5
    assert RESULT.seconds_per_step(32) == 8.5
    assert RESULT.seconds_per_step(64) is None
    assert RESULT.seconds_per_step(128) is None
    assert RESULT.saturates_at == 18


def test_the_last_batch_of_an_epoch_is_as_large_as_it_is():
    # 100 = 12 batches of 8 and one of 4: 12 * 2.4 + 1.5
    assert RESULT.epoch_seconds(100, 8) == pytest.approx(30.3)
    assert RESULT.epoch_seconds(16, 8) == 4.8
    assert RESULT.epoch_seconds(100, 64) is None


@pytest.mark.parametrize("call", [("seconds_per_step", 0), ("epoch_seconds", 0, 8)])
def test_a_forecast_of_nothing_is_refused(call):
    name, *args = call
    with pytest.raises(ValueError, match="must be above 0"):
        getattr(RESULT, name)(*args)


def test_the_copy_of_a_job_shares_nothing():
    from computemeter.planning import _torch_probe

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    made = _torch_probe.copied(Job(model, data(), None, optimizer))
    own = {id(each) for each in made.model.parameters()}
    assert {id(each) for each in made.optimizer.param_groups[0]["params"]} == own
    assert not own & {id(each) for each in model.parameters()}
    assert copy.deepcopy(made.optimizer.defaults) == optimizer.defaults
