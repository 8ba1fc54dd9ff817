"""The process in which a probe takes its steps: how it may end, and what becomes of the rest."""

import os
import subprocess
import sys
import time

import pytest
from probe_inputs import GIB, ones
from probe_models import Forking, Hungry, Leaving, Sleepy, StaysHere, Suicidal

from computemeter.planning import _apart
from computemeter.planning._trial import Note, Orders, Ready, Trying
from computemeter.planning._worker import encode
from computemeter.planning.probe import (
    Dropped,
    ProbeError,
    StepTime,
    probe,
)


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
