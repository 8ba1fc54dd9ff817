"""The page of forecasts and epochs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.forecast_parts.epochs import LENGTHS, WORDS, Epoch, LengthRow, in_words, ms
from benchmarks.forecast_parts.source import source
from benchmarks.measuring.report import Facts, table, written_by
from computemeter.units import format_flops, format_seconds

AIM = 0.15


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured."""

    environment: Facts
    epochs: list[Epoch]
    lengths: list[LengthRow]


def as_markdown(report: Report, purpose: str) -> str:
    """Write the report, which begins with what it is for."""
    return "\n".join(
        [
            "# A probe's forecast against the epoch\n",
            written_by("forecast", report.environment),
            purpose,
            "## Forecast and epoch\n",
            *_epochs(report),
            "## The probes\n",
            *_probes(report),
            "## Embeddings dominate time, not FLOPs\n",
            *_shares(report),
            "## Length of a sentence\n",
            *_lengths(report),
            "## The source's own tables\n",
            *source(),
        ]
    )


def _epochs(report: Report) -> Iterator[str]:
    yield table(
        (
            "vocabulary",
            "batch",
            "sentences",
            "forecast",
            "measured",
            "error",
            "error of its own first steps",
            "a step of it",
            "of a new optimizer",
        ),
        [
            (
                f"{each.words:,}",
                f"{each.batch:,}",
                f"{each.sentences:,}",
                format_seconds(each.forecast),
                format_seconds(each.measured),
                f"{each.error:+.1%}",
                f"{each.own_error:+.1%}",
                ms(each.seconds_per_step),
                ms(each.new),
            )
            for each in report.epochs
        ],
    )
    within = sum(abs(each.error) <= AIM for each in report.epochs)
    worst = max(report.epochs, key=lambda each: abs(each.error))
    own = sum(abs(each.own_error) <= AIM for each in report.epochs)
    yield (
        f"Aim: {AIM:.0%}. {within} of {len(report.epochs)} are within it; the worst is "
        f"{worst.error:+.1%} (vocabulary {worst.words:,}, batch {worst.batch:,}). Of the epochs' "
        f"own first steps, {own} are.\n"
    )


def _probes(report: Report) -> Iterator[str]:
    for epoch in report.epochs:
        found = epoch.probe
        yield f"{epoch.words:,} words, before batch {epoch.batch:,}: {in_words(found.fit)}.\n"
        residuals = dict(found.fit.residuals) if found.fit else {}
        yield table(
            ("batch", "measured", "half the quartiles' distance", "against the fit"),
            [
                (
                    f"{step.batch_size:,}",
                    ms(step.seconds),
                    ms(step.spread or 0.0),
                    f"{residuals[step.batch_size]:+.1%}",
                )
                for step in found.measured
            ],
        )
        yield "".join(f"- {each.batch_size:,}: {each.reason}\n" for each in found.dropped)


def _shares(report: Report) -> Iterator[str]:
    vocabularies = sorted({each.words for each in report.epochs})
    least, most = vocabularies[0], vocabularies[-1]
    by_case = {(each.words, each.batch): each for each in report.epochs}
    flops = [
        next(each.probe.flops_per_example for each in report.epochs if each.words == words)
        for words in (least, most)
    ]
    yield (
        f"A sentence takes {_flops(flops[0])} to train with {least:,} words and {_flops(flops[1])} "
        f"with {most:,}: an embedding looks up and multiplies nothing. What the larger vocabulary "
        "adds is all of it time:\n"
    )
    rows = []
    for batch in sorted({each.batch for each in report.epochs}):
        short, long = (by_case[words, batch].seconds_per_step for words in (least, most))
        share = 1 - short / long
        rows.append((f"{batch:,}", ms(short), ms(long), f"{share:.0%}", f"{long / short:.2f}"))
    yield table(
        (
            "batch",
            f"the epoch's step, {least:,} words",
            f"{most:,} words",
            "of it by the words added",
            "time, where FLOPs say 1",
        ),
        rows,
    )


def _lengths(report: Report) -> Iterator[str]:
    rows = [
        (
            f"{row.words:,}",
            "frozen" if row.frozen else "trained",
            *(ms(row.seconds[length]) for length in LENGTHS),
            ms(row.fit.fixed),
            ms(row.fit.per_example),
            f"{row.fit.worst:.1%}",
            f"{row.fit.fixed / row.fit.seconds(WORDS):.0%}",
            f"{row.seconds[50] / row.seconds[25]:.2f}",
        )
        for row in report.lengths
    ]
    yield table(
        (
            "vocabulary",
            "embedding",
            *(f"{length} words" for length in LENGTHS),
            "a",
            "c a word",
            "worst residual",
            "a at 25 words",
            "50 / 25 words",
        ),
        rows,
    )
    yield (
        "A step takes a + c x length. The source's author wondered why twice the length took less "
        "than twice the time: a does not grow with the length. In a is the optimizer's update of "
        "every word's vector, used in the sentence or not. The same network with its embedding "
        "frozen has no such update, and the difference of both a is what it takes:\n"
    )
    for words in sorted({row.words for row in report.lengths}):
        trained, frozen = (
            next(row for row in report.lengths if row.words == words and row.frozen is state)
            for state in (False, True)
        )
        if not trained.fit.fixed:
            yield f"- {words:,} words: a was fitted as 0, and explains nothing.\n"
            continue
        of_update = trained.fit.fixed - frozen.fit.fixed
        yield (
            f"- {words:,} words: a is {ms(trained.fit.fixed)} trained and {ms(frozen.fit.fixed)} "
            f"frozen; the embedding's training is {of_update / trained.fit.fixed:.0%} of it.\n"
        )


def _flops(flops: int | None) -> str:
    return "an unknown number of FLOPs" if flops is None else format_flops(flops)
