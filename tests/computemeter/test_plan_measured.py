"""A plan with a model: what is measured beside what is worked out."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy

from computemeter import plan
from computemeter.planning import probe as probing
from computemeter.planning.plan_plot import plot
from computemeter.planning.plan_table import render
from computemeter.planning.probe import Dropped, ProbeResult, StepTime
from computemeter.planning.step_time import StepTimeFit


def test_a_model_is_measured_beside():
    network = torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)
    )
    batch = torch.randn(8, 64), torch.randint(0, 10, (8,))
    told = plan(network, batch, loss=cross_entropy, examples=100, epochs=2, batch_sizes=(8, 32),
                device="cpu", in_process=True, steps=2, warmup=1)  # fmt: skip
    # Forward 2 x 64 x 256 and 2 x 256 x 10; backward the same for the weights, and again for the
    # input of the second layer alone: 2 x 32,768 + 3 x 5,120 = 80,896.
    assert told.flops == 80_896 * 100 * 2
    (measured,) = told.probes
    for row in told.rows:
        (seconds,) = row.measured_seconds
        assert seconds == pytest.approx(2 * measured.epoch_seconds(100, row.batch_size))
    assert "measured" in str(told)
    assert json.loads(json.dumps(told.to_dict()))["probes"][0]["measured"][0]["batch_size"] == 8


def probed(name="Mystery 1", flops=None):
    return ProbeResult(
        device_name=name,
        measured=(StepTime(batch_size=8, seconds=2.0), StepTime(batch_size=16, seconds=3.0)),
        dropped=(Dropped(batch_size=32, reason="it wants 9 GB", too_large=True),),
        fit=StepTimeFit(1.0, 0.125, ((8, 0.0), (16, 0.5))),
        flops_per_example=flops,
        notes=("a note of the probe",),
    )


@pytest.fixture
def two_devices(monkeypatch):
    """A CPU that is not known, and a GPU that is; neither counted the operations."""
    found = (probed(), probed("NVIDIA A100-SXM4-80GB"))
    monkeypatch.setattr(probing, "probe_devices", lambda model, batch, **options: found)


def test_what_was_not_counted_or_measured_is_unknown_and_not_0(two_devices):
    told = plan(torch.nn.Linear(2, 2), torch.ones(8, 2), examples=80, batch_sizes=(8, 32))
    assert told.flops is told.pfs_days is told.rows[0].ideal_seconds is None
    assert [(row.device, row.machine is None) for row in told.rows] == [
        *[("Mystery 1", True)] * 2,
        *[("NVIDIA A100-SXM4-80GB at bf16", False)] * 2,
    ]
    assert told.rows[0].measured_seconds == (20.0, 20.0)  # 10 steps of 2 s
    assert told.rows[1].measured_seconds == (None, None)
    assert (
        "the model's operations could not all be counted: give flops_per_example" in told.warnings
    )
    assert "batch 32 was not measured on Mystery 1: it wants 9 GB" in told.warnings
    assert any("Mystery 1 are up to 50 % off a line" in one for one in told.warnings)
    assert "a note of the probe" in told.notes
    # 1 s + 0.125 s x batch: 0.9 of the highest speed at 9 x 1 / 0.125 = 72
    assert any("from batch 72 on, beyond what was measured (up to 16)" in n for n in told.notes)
    text = render(told, 80)
    assert "operations unknown" in text
    assert "1 x Mystery 1" in text
    assert any(line.split()[:1] == ["32"] and line.endswith("-") for line in text.splitlines())
    assert "0 FLOP" not in text
    assert plot(told).startswith(b"\x89PNG")


def test_with_the_operations_given_the_probe_only_measures(two_devices):
    told = plan(torch.nn.Linear(2, 2), torch.ones(8, 2), examples=80, flops_per_example=1e9)
    assert told.flops == 80 * 10**9
    assert {row.batch_size for row in told.rows} == {8, 16}  # those that were measured


def test_counts_are_those_of_the_probed_devices(two_devices):
    told = plan(torch.nn.Linear(2, 2), torch.ones(8, 2), examples=80, counts=(1, 8))
    assert [(row.device, row.devices) for row in told.rows if row.batch_size == 8] == [
        ("Mystery 1", 1),
        ("Mystery 1", 8),
        ("NVIDIA A100-SXM4-80GB at bf16", 1),
        ("NVIDIA A100-SXM4-80GB at bf16", 8),
    ]


def test_devices_without_a_peak_are_told_apart_and_each_is_there_once(monkeypatch):
    found = (probed("odd cpu"), probed("odd gpu"), probed("odd gpu"))
    monkeypatch.setattr(probing, "probe_devices", lambda model, batch, **options: found)
    told = plan(torch.nn.Linear(2, 2), torch.ones(8, 2), examples=80)
    assert [(row.device, row.batch_size) for row in told.rows] == [
        (name, size) for name in ("odd cpu", "odd gpu") for size in (8, 16)
    ]
    assert [row.batch_size for row in told.batches] == [8, 16]
    lines = [line.split() for line in str(told).splitlines()]
    assert sum(line[:1] == ["16"] for line in lines) == 1
    assert sum(line[:4] == ["1", "x", "odd", "gpu"] for line in lines) == 1


def test_a_batch_that_the_model_refuses_has_no_measured_time():
    class Eight(torch.nn.Linear):
        def forward(self, examples):
            if len(examples) > 8:
                raise RuntimeError("positions end at 8")
            return super().forward(examples)

    told = plan(Eight(4, 1), torch.ones(8, 4), examples=80, batch_sizes=(4, 8, 16),
                device="cpu", in_process=True, steps=1, warmup=1)  # fmt: skip
    assert [row.measured_seconds[0] is None for row in told.rows] == [False, False, True]
    assert any("batch 16 was not measured" in one and "positions end" in one
               for one in told.warnings)  # fmt: skip
    assert [line.split()[0] for line in str(told).splitlines() if line.endswith(" -")] == ["16"]


@pytest.mark.parametrize(
    ("flops", "said"),
    [
        # 20 s are measured of batch 8 and 15 s of batch 16; an A100 does 312e12 x 0.33 FLOP/s in
        # bf16, so that 80 x 1.287e10 FLOP are expected to take 10 ms: 2,000 times less.
        (12.87e9, "batch 8 takes 20 s on one NVIDIA A100-SXM4-80GB, measured, where 10 ms"),
        (12.87e9, "(2,000x apart): likely small operations or updates of embeddings"),
        # and 80 x 3.861e14 take 300 s: 20 times as much as batch 16
        (3.861e14, "batch 16 takes 15 s"),
        (3.861e14, "(20x apart): likely the operations are not this model's"),
        (1.287e13, ""),  # 10 s
    ],
)
def test_measured_far_from_expected_is_told_of(monkeypatch, flops, said):
    found = (probed("NVIDIA A100-SXM4-80GB"),)
    monkeypatch.setattr(probing, "probe_devices", lambda model, batch, **options: found)
    told = plan(torch.nn.Linear(2, 2), torch.ones(8, 2), examples=80, flops_per_example=flops,
                devices=1e12)  # fmt: skip
    lines = [one for one in told.warnings if "apart)" in one]
    assert len(lines) == bool(said)
    assert said in "".join(lines)


def test_with_a_model_a_batch_is_in_examples():
    with pytest.raises(ValueError, match="give examples too: its batch is in examples, not tok"):
        plan(torch.nn.Linear(2, 2), torch.ones(8, 2), parameters=3200, tokens=1e6)


def test_no_device_in_particular_is_all(two_devices):
    told = plan(torch.nn.Linear(2, 2), torch.ones(8, 2), examples=80, device=None)
    assert len(told.probes) == 2
