"""What a rank has counted, for the tests of adding it up."""

from dataclasses import replace

from computemeter.book import Totals
from computemeter.records import Count


def totals(flops, steps=10, **fields):
    count = Count(flops, flops + 1, {"mm": flops}, {"float32": flops}, {"fft": 1})
    plain = Totals(
        steps=steps,
        count=count,
        counted_steps=min(1, steps),
        predicted_steps=max(0, steps - 1),
        estimated_steps=0,
        standard_error=None,
        samples=4 * steps,
    )
    return replace(plain, **fields)
