"""Whose FLOPs: by module, without hooks; what a causal mask could skip; work seen only in part."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from computemeter import Meter
from computemeter.book import StepBook
from computemeter.counters.torch_recompute import RecomputeWatch
from computemeter.records import Count

B, T, WIDTH, HEADS = 2, 6, 8, 2


class Block(nn.Module):
    """Attention between two projections, and a layer after it."""

    def __init__(self, *, causal=False):
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "inputs": nn.Linear(WIDTH, 3 * WIDTH, bias=False),
                "outputs": nn.Linear(WIDTH, WIDTH, bias=False),
            }
        )
        self.after = nn.Linear(WIDTH, 4)
        self.causal = causal

    def forward(self, x):
        q, k, v = (
            part.view(B, T, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.attention["inputs"](x).chunk(3, -1)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.after(self.attention["outputs"](mixed.transpose(1, 2).reshape(B, T, WIDTH)))


def quiet():
    return Meter(ledger=None, trackers=None, verbose=0)


def step(meter, model, call=None):
    x = torch.randn(B, T, WIDTH)
    with meter.step(x):
        (call or model)(x).square().sum().backward()


# Forward and weight gradient; the first layer's input needs no gradient.
INPUTS = 2 * 2 * B * T * WIDTH * 3 * WIDTH
OUTPUTS = 3 * 2 * B * T * WIDTH * WIDTH
AFTER = 3 * 2 * B * T * WIDTH * 4
# Two products, three times over: 2*B*T*T*WIDTH each.
SCORES = 6 * 2 * B * T * T * WIDTH


def test_by_module_in_both_passes():
    model = Block()
    with quiet() as meter:
        step(meter, model)
    assert meter.breakdown(model) == {
        "attention.inputs": INPUTS,
        "attention": SCORES,  # between the projections
        "attention.outputs": OUTPUTS,
        "after": AFTER,
    }
    assert sum(meter.breakdown(model).values()) == meter.summary().model_flops


def test_without_names_nothing_is_lost():
    with quiet() as meter:
        assert meter.breakdown() == {}
        step(meter, Block())
    assert meter.breakdown() == {"(unknown)": INPUTS + OUTPUTS + AFTER + SCORES}


def test_what_a_causal_mask_could_skip():
    with quiet() as meter:
        step(meter, Block(causal=True))
    summary = meter.summary()
    assert summary.model_flops == INPUTS + OUTPUTS + AFTER + SCORES
    # Of T*T pairs the T*(T-1)/2 above the diagonal.
    assert summary.causal_flops == SCORES * (T - 1) // (2 * T)
    assert "causal masks could skip" in str(summary)


@pytest.mark.parametrize(("queries", "keys", "masked"), [(3, 5, 15 - 6), (5, 3, 15 - 12)])
def test_causal_from_the_top_left(queries, keys, masked):
    q, k = torch.randn(1, 1, queries, 4), torch.randn(1, 1, keys, 4)
    count = Meter.count(scaled_dot_product_attention, q, k, k, is_causal=True)
    # 3 queries see 1 + 2 + 3 keys; 5 queries of 3 keys see 1 + 2 + 3 + 3 + 3.
    assert count.causal_flops == 2 * 2 * masked * 4


def test_attention_in_a_checkpoint_that_is_compiled():
    """Its random state is kept and put back by an operator around the one that counts."""
    torch._dynamo.reset()
    model = Block()
    compiled = torch.compile(
        lambda x: checkpoint(model, x, use_reentrant=False), backend="aot_eager"
    )
    with quiet() as meter:
        step(meter, model, compiled)
    summary = meter.summary()
    assert summary.model_flops == INPUTS + OUTPUTS + AFTER + SCORES
    # Run again: all but the last layer. A fused backward computes the scores once more besides.
    again = INPUTS // 2 + OUTPUTS // 3 + SCORES // 3
    assert summary.hardware_flops == summary.model_flops + again + SCORES // 6
    assert summary.uncounted_ops == {}


def test_a_forward_pass_in_other_threads_is_unknown_and_not_less():
    model, outputs = nn.Linear(8, 8), []
    with quiet() as meter:
        x = torch.randn(8, 8)
        with meter.step(x):
            threads = [
                threading.Thread(target=lambda half=half: outputs.append(model(half)))
                for half in x.chunk(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            torch.cat(outputs).sum().backward()
    summary = meter.summary()
    assert summary.model_flops is None
    assert summary.cause == "count_suspect"
    assert any("other threads" in warning for warning in summary.warnings)


def test_steps_counted_in_two_threads_at_once_leave_the_engine_as_it_was():
    before = torch.autograd._engine_run_backward
    first, second = RecomputeWatch(), RecomputeWatch()
    first.start()
    second.start()
    first.stop()
    assert torch.autograd._engine_run_backward != before
    second.stop()
    second.stop()
    assert torch.autograd._engine_run_backward is before


def test_a_scalar_in_the_batch_has_no_size_and_no_name():
    weight = torch.randn(4, 5)
    with quiet() as meter:
        for rows in (8, 3, 5, 6, 7):
            x = torch.randn(rows, 4)
            with meter.step((torch.tensor(1.0), x)):
                torch.mm(x, weight)
    assert meter.summary().model_flops == 2 * 29 * 4 * 5


def test_steps_that_are_all_of_a_kind_of_their_own_are_not_all_counted():
    """A stride rounds, so no shape can be predicted; counting every step would slow the run."""
    book, counted = StepBook(lambda: steps * 0.01), 0
    for steps in range(5000):
        key = ("shape", steps)
        if counting := book.wants_count(key):
            counted += 1
        book.add(key, Count(100 + steps % 7) if counting else None, 0.02 if counting else 0.01)
    totals = book.totals()
    # 200, and then 5 % of 50 s in counted steps of 20 ms.
    assert 200 <= counted <= 200 + 0.05 * 50 / 0.02
    assert totals.estimated_steps == 5000 - counted
    assert totals.count.model_flops == pytest.approx(5000 * 103, rel=0.01)


def test_what_an_earlier_segment_could_not_measure_stays_unknown():
    with quiet() as meter:
        meter.load_state_dict(
            {
                "schema": 1,
                "run_flops": None,
                "run": "r",
                "parent": "s",
                "segments": {"s": {"steps": 2, "model_flops": None, "gpu_time_flops": 10}},
                "base": None,
                "trackers": {},
            }
        )
        step(meter, Block())
    summary = meter.summary()
    assert summary.model_flops == INPUTS + OUTPUTS + AFTER + SCORES
    assert summary.run_flops is summary.spent_flops is summary.lineage_flops is None
