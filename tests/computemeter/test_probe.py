"""A few real steps of a copy: what is measured and dropped, and all that stays as it was."""

import copy
import os
import random
import subprocess
import sys
import time
import types
from collections import defaultdict

import numpy as np
import pytest
import torch
from probe_models import Forking, Hungry, Leaving, Sleepy, StaysHere, Suicidal, WritesIntoIt
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn

from computemeter.planning import _apart, _memory, _trial, _untouched
from computemeter.planning import probe as probing
from computemeter.planning._batches import batch_size_of, left_as_they_are, mapped, resized
from computemeter.planning._trial import Job, Note, Orders, Pace, Ready, Trying, measure
from computemeter.planning._worker import encode
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
    assert "its process ended (SIGKILL)" in result.dropped[0].reason


def test_a_process_that_ends_for_another_reason_is_not_said_to_want_memory():
    result = probe(Leaving(4, 1), ones(), batch_sizes=[4, 8, 16, 32])
    assert [step.batch_size for step in result.measured] == [4, 8]
    first, second = result.dropped
    assert first == Dropped(batch_size=16, reason="its process ended (code 1: bye)", failed=True)
    assert second.reason == "not tried: its process ended (code 1: bye) at 16"
    assert not second.too_large
    assert result.seconds_per_step(16) is None
    assert result.seconds_per_step(12) > 0


def test_what_the_model_s_process_has_started_ends_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr("computemeter.planning._apart._GRACE", 0.5)
    model = Forking(4, 1)
    model.named_in = tmp_path / "child"
    result = probe(model, ones(), batch_sizes=[8, 16], seconds=1)
    assert [each.batch_size for each in result.dropped] == [16]
    command = ["ps", "-p", model.named_in.read_text(), "-o", "stat="]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert state.strip()[:1] in ("", "Z")


def test_a_process_that_dies_while_it_counts_blames_no_batch(tmp_path):
    class Ended:
        stdout = iter(
            [encode(Ready("a cpu")), encode(Trying(8)), encode(StepTime(batch_size=8, seconds=1.0))]
        )

        def wait(self):
            return -11

    errors = tmp_path / "errors"
    errors.write_text("")
    orders = Orders(batch_sizes=(8, 16), count_at=8, steps=1, warmup=1, seconds=9)
    *_, note, dropped = _apart._Conversation(Ended(), orders, errors).messages()
    assert note == Note("The operations were not counted: its process ended (SIGSEGV).")
    assert dropped.reason == "not tried: its process ended (SIGSEGV) while a step was counted"
    assert (dropped.too_large, dropped.failed) == (False, True)


def test_a_parent_that_is_ended_leaves_nothing_behind(tmp_path):
    script = f"""
import tempfile, torch
tempfile.tempdir = {str(tmp_path)!r}
from probe_models import Sleepy
from computemeter.planning.probe import probe
probe(Sleepy(4, 1), torch.ones(8, 4), batch_sizes=[16], seconds=60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    # The job is gone as soon as it is read, and then the steps begin.
    wait_until(lambda: any(tmp_path.glob("*/job")))
    wait_until(lambda: not any(tmp_path.glob("*/job")))
    parent.terminate()
    parent.wait()
    wait_until(lambda: not any(tmp_path.iterdir()))


def wait_until(done):
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_in_this_process_too_nothing_of_the_user_s_is_touched():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, out, target):
            self.calls += 1
            penalty = sum(each.square().sum() for each in model.parameters())
            return self.weight * (out - target).square().mean() + penalty

    model, loss, batch = WritesIntoIt(4, 1), Weighted(), (ones(), ones(width=1))
    model(ones()).sum().backward()
    gradient = model.weight.grad
    before = gradient.clone()
    assert len(probe(model, batch, loss=loss, in_process=True).measured) == 5
    assert model.weight.grad is gradient
    assert torch.equal(gradient, before)
    assert (loss.weight.grad, loss.calls.item()) == (None, 0)
    assert torch.equal(batch[0], ones())


def test_every_step_is_given_the_batch_as_it_was():
    # It ends at what is not a row of ones.
    result = probe(WritesIntoIt(4, 1), ones(), batch_sizes=[8, 16], in_process=True)
    assert [step.batch_size for step in result.measured] == [8, 16]


def test_a_generator_that_begins_with_the_probe_is_restored_too(monkeypatch):
    state = ["seeded"]
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: False,
        get_rng_state_all=lambda: list(state),
        set_rng_state_all=lambda states: state.__setitem__(slice(None), states),
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    with _untouched.untouched(None, "cuda"):
        state[0] = "drawn"
    assert state == ["seeded"]
    with _untouched.untouched(None, "cpu"):  # it is not begun for nothing
        state[0] = "drawn"
    assert state == ["drawn"]


@pytest.mark.slow
def test_compiled_code_is_counted_as_it_is_written():
    # 2 x (4 x 8 + 8) forward and again for the weights, 2 x 8 for the hidden units: 80 + 80 + 16.
    model = torch.compile(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
    result = probe(model, ones(), batch_sizes=[8], steps=1, in_process=True)
    assert result.flops_per_example == 176


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
    with pytest.raises(ProbeError, match="no other process can train this model"):
        probe(StaysHere(4, 1), ones(), memory_limit=2 * GIB)
    # Nor does it matter who chose the sizes.
    chosen = probe(StaysHere(4, 1), ones(), batch_sizes=[4, 4096])
    assert [each.batch_size for each in chosen.measured] == [4]
    assert "in_process=True tries it" in chosen.dropped[0].reason


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
        ({"batch_sizes": 5}, "batch_sizes=5: accepted are several whole numbers"),
        ({"seconds": "x"}, "seconds must be above 0, got 'x'"),
        ({"device": "gpu"}, "device='gpu': RuntimeError: "),
        ({"device": 3}, "device=3: accepted is a text"),
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


def test_a_device_that_fails_does_not_cost_the_other_s_result(monkeypatch):
    def found(model, batch, device):
        if device in failing:
            raise ProbeError(f"no step on a {device}")
        return RESULT

    monkeypatch.setattr(probing, "_torch_devices", lambda: ["cpu", "cuda"])
    monkeypatch.setattr(probing, "probe", found)
    failing = ["cpu"]
    (result,) = probe_devices(net(), data(), device=None)
    assert result.notes == ("Nothing was measured on cpu: no step on a cpu",)
    failing = ["cpu", "cuda"]
    with pytest.raises(ProbeError, match="on cpu: no step on a cpu; Nothing was measured on cuda"):
        probe_devices(net(), data())


# What needs no model.


def test_the_batch_size_is_what_most_arrays_say():
    one, rows = torch.ones(1), ones(32)
    assert batch_size_of({"lr": one, "x": rows}) == 32
    assert batch_size_of((rows, ones(32), torch.ones(10))) == 32
    assert left_as_they_are((rows, ones(32), torch.ones(10), torch.tensor(1.0))) == [10]
    assert batch_size_of((ones(1), one)) == 1
    names = resized({"x": ones(2), "names": ["a", "b"]}, 3)["names"]
    assert names == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((ones(32), torch.ones(10)), "may be of 10 and 32 examples"),
        ([torch.ones(3, 2, 2)] * 32, "a list of 32 alike parts"),
        (([torch.ones(50)] * 8, ones(8)), "a list of 8 alike parts"),
        (([torch.ones(3, 2, 2)] * 4, [{"boxes": torch.ones(3, 4)}] * 4), "a list of 4 alike parts"),
    ],
)
def test_a_batch_that_does_not_say_how_many_examples_it_has_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        batch_size_of(batch)
    three_inputs = [ones(8), ones(8), ones(8)]
    assert batch_size_of(three_inputs) == 8


def test_a_mapping_that_cannot_be_made_of_parts_is_a_dict():
    assert mapped(defaultdict(int, x=1), lambda each: each + 1) == {"x": 2}


@pytest.mark.parametrize(
    ("line", "folder", "names", "sizes"),
    [
        ("0::/job", "job", ("memory.max", "memory.current"), "inactive_file 200\nactive_file 40"),
        (
            "4:cpu,memory:/job",
            "memory/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file 200\ntotal_active_file 40",
        ),
    ],
)
def test_the_cache_of_files_is_memory_to_use(  # noqa: PLR0917
    tmp_path, monkeypatch, line, folder, names, sizes
):
    group = tmp_path / folder
    group.mkdir(parents=True)
    for name, text in zip(
        (*names, "memory.stat"), ("1000", "900", f"anon 5\n{sizes}\n"), strict=True
    ):
        (group / name).write_text(text)
    own = tmp_path / "own"
    own.write_text(f"{line}\n")
    monkeypatch.setattr(_memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(_memory, "_OWN_GROUPS", own)
    # Of 1000 bytes 900 are used, 240 of them for files: 340 are left, of which 9 in 10 are taken.
    assert _memory.usable_memory() == 306


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
    assert error == Dropped(batch_size=1, reason="ValueError: more than 1", failed=True)
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
        OSError(12, "Cannot allocate memory"),
        ImportError("libx.so: cannot allocate memory in static TLS block"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"),
    ],
)
def test_want_of_memory_is_known_by_what_the_frameworks_say(error):
    assert _trial.is_out_of_memory(error)
    assert not _trial.is_out_of_memory(ValueError("a memory of things past"))


RESULT = ProbeResult(
    device_name="a device",
    measured=(StepTime(batch_size=8, seconds=2.4), StepTime(batch_size=16, seconds=5.0)),
    dropped=(
        Dropped(batch_size=20, reason="RuntimeError: odd", failed=True),
        Dropped(batch_size=24, reason="no time left of 2 s"),
        Dropped(batch_size=64, reason="does not fit in memory", too_large=True),
    ),
    fit=StepTimeFit(fixed=0.5, per_example=0.25),
)


def test_a_forecast_is_what_was_measured_and_else_what_was_fitted():
    assert RESULT.seconds_per_step(8) == 2.4
    assert RESULT.seconds_per_step(4) == 1.5
    assert RESULT.seconds_per_step(32) == 8.5
    assert RESULT.seconds_per_step(20) is None
    assert RESULT.seconds_per_step(24) == 6.5
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


class Watched(torch.optim.Adam):
    """Tells of each step how many second moments are zero before it."""

    zeros = None

    def step(self, closure=None):
        kept = [slot["exp_avg_sq"] for slot in self.state.values()]
        Watched.zeros.append(sum(int((each == 0).sum()) for each in kept))
        return super().step(closure)


def test_what_a_new_optimizer_keeps_has_no_zeros_as_after_a_long_run():
    # One of 10 rows of 4 is used. Of the others the first step leaves 36 zeros, and then none is.
    Watched.zeros = []
    embedding, rows = nn.Embedding(10, 4), torch.zeros(3, dtype=torch.int64)
    probe(embedding, rows, batch_sizes=[3], optimizer=Watched, steps=2, warmup=1, in_process=True)
    assert Watched.zeros[0] == 0  # nothing is kept yet
    assert set(Watched.zeros[1:]) == {0}


def test_what_the_user_s_optimizer_keeps_is_left_as_it_is():
    Watched.zeros = []
    embedding, rows = nn.Embedding(10, 4), torch.zeros(3, dtype=torch.int64)
    optimizer = Watched(embedding.parameters())
    embedding(rows).mean().backward()
    optimizer.step()
    probe(embedding, rows, batch_sizes=[3], optimizer=optimizer, steps=2, warmup=1, in_process=True)
    assert set(Watched.zeros[1:]) == {36}
