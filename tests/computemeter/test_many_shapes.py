"""Runs of many shapes: most are predicted from few counts, exactly, and the formula is shown."""

import random

import pytest
import torch
from torch import nn

from computemeter import Meter
from computemeter.book import StepBook
from computemeter.families import StepKey
from computemeter.records import Count

WIDTH, WORDS = 8, 12


class Tiny(nn.Module):
    """One attention layer without a bias anywhere, on sequences of words."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids):
        q, k, v = self.qkv(self.embed(ids)).unsqueeze(1).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1))


def flops(b, t):
    # Weights, each forward, for its gradient and for its input's: 3 * 2*B*T*(8*24 + 8*12).
    # Attention: 2 products of 2*B*T*T*8, three times over.
    return 3 * 2 * b * t * (WIDTH * 3 * WIDTH + WIDTH * WORDS) + 3 * 2 * 2 * b * t * t * WIDTH


def train(meter, shapes):
    torch.manual_seed(0)
    model = Tiny()
    for b, t in shapes:
        ids = torch.randint(0, WORDS, (b, t))
        with meter.step(ids):
            model(ids).sum().backward()
        model.zero_grad()


def test_shapes_not_met_yet_are_predicted_exactly():
    shapes = [(b, t) for b in range(1, 9) for t in range(2, 30)]
    random.Random(1).shuffle(shapes)
    with Meter(ledger=None, trackers=None, verbose=0) as meter:
        train(meter, shapes)
    summary = meter.summary()
    assert summary.model_flops == sum(flops(b, t) for b, t in shapes)
    assert summary.hardware_flops == summary.model_flops + sum(2 * b * t * t * 8 for b, t in shapes)
    assert summary.samples == sum(b for b, _ in shapes)
    assert summary.counted_steps < len(shapes) / 3
    assert summary.steps == summary.counted_steps + summary.predicted_steps
    # 3 * 2 * (192 + 96) and 3 * 2 * 2 * 8
    assert summary.flops_formula == "96*B*T**2 + 1728*B*T"
    assert sum(summary.by_op.values()) == summary.model_flops


def test_at_one_batch_size_no_other_is_predicted():
    """The trap: a fit over lengths alone passes every shape until the partial last batch."""
    shapes = [(8, t) for t in range(2, 40)]
    random.Random(4).shuffle(shapes)
    shapes.append((3, 20))
    with Meter(ledger=None, trackers=None, verbose=0) as meter:
        train(meter, shapes)
    assert meter.summary().model_flops == sum(flops(b, t) for b, t in shapes)
    assert meter.summary().predicted_steps > 0


def test_strided_convolutions_switch_prediction_off():
    model = nn.Conv1d(4, 6, 3, stride=2)
    lengths = list(range(5, 65))
    random.Random(2).shuffle(lengths)
    with Meter(ledger=None, trackers=None, verbose=0) as meter:
        for length in lengths:
            x = torch.randn(2, 4, length)
            with meter.step(x):
                model(x).sum().backward()
    # Forward and weight gradient: 2 * 2*2*out*(6*4*3), out = (length - 3) // 2 + 1.
    expected = sum(2 * 2 * 2 * ((length - 3) // 2 + 1) * 72 for length in lengths)
    assert meter.summary().model_flops == expected
    assert meter.summary().flops_formula is None


def count_of(value):
    return Count(value, value, {"aten::mm": value}, {"float32": value})


def key_of(b, t):
    return StepKey((((b, t), "int64"),), ("facts",))


def test_500_shapes_over_10_000_steps_stay_within_1_percent():
    """On the book alone, as the meter drives it, with steps of 10 ms and its own budget."""
    rng = random.Random(3)
    shapes = [(rng.choice([8, 16, 24, 32]), rng.randint(16, 512)) for _ in range(500)]
    clock = [0.0]
    book = StepBook(lambda: clock[0])
    total = counted = 0
    for _ in range(10_000):
        b, t = rng.choice(shapes)
        counting = book.wants_count(key_of(b, t))
        seconds = 0.025 if counting else 0.010
        clock[0] += seconds
        counted += counting
        book.add(key_of(b, t), count_of(flops(b, t)) if counting else None, seconds, lambda b=b: b)
        total += flops(b, t)
    totals = book.totals()
    assert totals.count.model_flops == pytest.approx(total, rel=0.01)
    assert totals.steps == 10_000
    # Counting every new shape would be 500.
    assert counted < 120
    assert book.formula() == "96*B*T**2 + 1728*B*T"


def test_a_contradicted_form_makes_its_predictions_estimates():
    book = StepBook(lambda: 1e9)

    def step(b, t, value):
        counting = book.wants_count(key_of(b, t))
        book.add(key_of(b, t), count_of(value) if counting else None, 0.01, lambda: b)

    lengths = list(range(2, 80))
    random.Random(5).shuffle(lengths)
    for t in lengths:
        step(4, t, 100 * t)
    assert book.totals().predicted_steps > 0
    assert book.totals().estimated_steps == 0
    # From 80 on the work doubles: the first check there finds it out.
    for t in range(80, 160):
        step(4, t, 200 * t)
    totals = book.totals()
    assert totals.estimated_steps > 0
    assert totals.predicted_steps == 0
