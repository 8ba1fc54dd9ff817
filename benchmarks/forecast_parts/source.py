"""The source's own tables, fitted."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measuring.report import table
from computemeter.planning.step_time import fit_line

# Thousands of seconds for an epoch of a million sentences.
SOURCE_SENTENCES = 1_000_000
SOURCE_BY_BATCH = {
    "CPU": {32: 25.0, 128: 7.0, 1024: 2.1},
    "GPU": {32: 2.7, 128: 0.76, 1024: 0.19},
}
SOURCE_BY_VOCABULARY = {
    "CPU": {20_000: 2.0, 280_000: 9.2, 2_000_000: 57.0},
    "GPU": {20_000: 0.5, 280_000: 0.95, 2_000_000: 4.0},
}


def source() -> Iterator[str]:
    """Write the tables and their fits."""
    rows = []
    for device, printed in SOURCE_BY_BATCH.items():
        steps = [(b, 1000 * ks * b / SOURCE_SENTENCES) for b, ks in printed.items()]
        fit = fit_line(steps)
        assert fit is not None
        rows += [
            (
                device,
                f"batch {int(x):,}",
                f"{y:.4g} s a step",
                f"{fit.seconds(x):.4g} s",
                f"{r:+.1%}",
            )
            for (x, y), (_, r) in zip(steps, fit.residuals, strict=True)
        ]
        rows.append(
            (
                device,
                "a, b, saturated",
                f"{fit.fixed:.4g} s",
                f"{fit.per_example:.4g} s",
                f"{fit.saturates_at:,}",
            )
        )
    for device, printed in SOURCE_BY_VOCABULARY.items():
        epochs = [(words, 1000 * ks) for words, ks in printed.items()]
        fit = fit_line(epochs)
        assert fit is not None
        rows += [
            (
                device,
                f"{int(x):,} words",
                f"{y:,.0f} s an epoch",
                f"{fit.seconds(x):,.0f} s",
                f"{r:+.1%}",
            )
            for (x, y), (_, r) in zip(epochs, fit.residuals, strict=True)
        ]
        rows.append(
            (device, "a, a word", f"{fit.fixed:,.0f} s", f"{1000 * fit.per_example:.3g} ms", "")
        )
    yield (
        "An epoch is a million sentences of 25 words; a step takes epoch x batch / sentences. Both "
        "tables are on a line, against the batch size and against the vocabulary (whose batch size "
        "is not given).\n"
    )
    yield table(("", "", "printed", "fitted", "residual"), rows)
