"""A probe's forecast of an epoch against the epoch, on the network of "Training-time forecast".

    python benchmarks/forecast.py              # all of it; the machine should be otherwise idle
    python benchmarks/forecast.py --quick      # does it work; prints, writes nothing

The network is that of the project's third source: an embedding of 300, an LSTM of 128 units,
dropout 0.5, one sigmoid; a sentence has 25 words, drawn at random. The optimizer that the source
used is not known here: it is Adam, with PyTorch's dense gradients of the embedding, as by default.

Before each epoch a probe times a few steps at batch sizes that are *not* the epoch's, and its fit,
seconds = a + b x batch, forecasts it. Then the epoch is run, of as many sentences as are forecast
to take the minutes asked for, and timed from first step to last.

An epoch is not a run's first: as in a probe, its optimizer keeps no zeros (see `age` in
`computemeter/planning/_torch_probe.py`). What a step takes before, while most words were never met,
is shown beside it.

No machine is as fast in one minute as in the next. What that does to any forecast is shown by one
without a probe: as many of the epoch's own first steps as a probe times, after as many to warm up,
times the number of steps.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from computemeter.devices import torch_device
from computemeter.planning._torch_probe import age
from computemeter.planning.probe import ProbeResult, probe
from computemeter.planning.step_time import StepTimeFit, fit_line
from computemeter.units import format_flops, format_seconds

RESULTS = Path(__file__).parent / "results"
LOAD_BEFORE = os.getloadavg()[0]
SEED = 20_170_101

EMBEDDING, UNITS, WORDS = 300, 128, 25
VOCABULARIES = (20_000, 280_000)
LENGTHS = (12, 25, 50)
BATCHES = (32, 128, 1024)
PROBED = (16, 64, 256, 768)
# Not past the largest epoch's by much: at 2,048 a sentence was seen to take 14 % more, as what a
# step touches falls out of the processor's caches, and no line goes through that.
WARMUP = 3
AIM = 0.15

# The source's tables: thousands of seconds for an epoch of a million sentences.
SOURCE_SENTENCES = 1_000_000
SOURCE_BY_BATCH = {
    "CPU": {32: 25.0, 128: 7.0, 1024: 2.1},
    "GPU": {32: 2.7, 128: 0.76, 1024: 0.19},
}
SOURCE_BY_VOCABULARY = {
    "CPU": {20_000: 2.0, 280_000: 9.2, 2_000_000: 57.0},
    "GPU": {20_000: 0.5, 280_000: 0.95, 2_000_000: 4.0},
}


class SentenceNet(nn.Module):
    """The source's network.

    Args:
        words: in the vocabulary.
        frozen: whether the embedding is left as it is, to see what training it takes.
    """

    def __init__(self, words: int, *, frozen: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, EMBEDDING)
        self.embedding.weight.requires_grad_(not frozen)
        self.lstm = nn.LSTM(EMBEDDING, UNITS, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(UNITS, 1), nn.Sigmoid())

    def forward(self, sentences: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(sentences))
        out: Tensor = self.head(states[:, -1]).squeeze(-1)
        return out


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run.

    Attributes:
        minutes: that an epoch is to take.
        vocabularies: of the epochs.
        batches: of the epochs.
        probed: batch sizes of the probes.
        device: of torch's name.
        steps: timed by a probe for each batch size.
    """

    minutes: float
    vocabularies: Sequence[int]
    batches: Sequence[int]
    probed: Sequence[int]
    device: str
    steps: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """One of the epochs.

    Attributes:
        words: in the vocabulary.
        batch: sentences in a step.
        sentences: in the epoch.
        probe: taken just before.
        forecast: seconds by the probe's fit.
        own: seconds by the epoch's own first steps.
        measured: its seconds.
        new: seconds of a step before it, with an optimizer that has met few words.
    """

    words: int
    batch: int
    sentences: int
    probe: ProbeResult
    forecast: float
    own: float
    measured: float
    new: float

    @property
    def error(self) -> float:
        """The forecast's, as a share of what was measured."""
        return self.forecast / self.measured - 1

    @property
    def seconds_per_step(self) -> float:
        """As measured."""
        return self.measured * self.batch / self.sentences

    @property
    def own_error(self) -> float:
        """That of its own first steps, which no probe can be blamed for."""
        return self.own / self.measured - 1


@dataclass(frozen=True, slots=True)
class LengthRow:
    """Step times of sentences of different lengths.

    Attributes:
        words: in the vocabulary.
        frozen: whether the embedding is not trained.
        seconds: of a step by length.
        fit: seconds = a + c x length.
    """

    words: int
    frozen: bool
    seconds: dict[int, float]
    fit: StepTimeFit


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured."""

    environment: dict[str, str | int]
    epochs: list[Epoch]
    lengths: list[LengthRow]


def say(text: str) -> None:
    """Print progress at once, with the time."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def sentences(count: int, words: int, length: int = WORDS) -> tuple[Tensor, Tensor]:
    """Generate sentences of random words, and whether each is a positive one."""
    chance = torch.Generator().manual_seed(SEED)
    return (
        torch.randint(words, (count, length), generator=chance),
        torch.randint(2, (count,), generator=chance).float(),
    )


def probe_of(
    words: int,
    settings: Settings,
    sizes: Sequence[int],
    *,
    length: int = WORDS,
    frozen: bool = False,
) -> ProbeResult:
    """Probe the network at some batch sizes."""
    torch.manual_seed(SEED)
    return probe(
        SentenceNet(words, frozen=frozen),
        sentences(max(sizes), words, length),
        batch_sizes=sizes,
        loss=nn.functional.binary_cross_entropy,
        optimizer=torch.optim.Adam,
        steps=settings.steps,
        warmup=WARMUP,
        seconds=600,
        device=settings.device,
    )


def run_epoch(words: int, batch: int, settings: Settings) -> Epoch:
    """Probe, and train an epoch as long as wished by the forecast."""
    found = probe_of(words, settings, settings.probed)
    say(f"  {_line(found.fit)}")
    step = found.seconds_per_step(batch)
    assert step is not None
    count = batch * max(3, round(60 * settings.minutes / step))
    forecast = found.epoch_seconds(count, batch)
    assert forecast is not None
    say(f"  batch {batch}: {count:,} sentences, forecast {format_seconds(forecast)}")
    epoch = Epoch(words, batch, count, found, forecast, *_train(words, batch, count, settings))
    say(
        f"  batch {batch}: took {format_seconds(epoch.measured)}, forecast {epoch.error:+.1%} off, "
        f"its own first steps {epoch.own_error:+.1%}"
    )
    return epoch


def _train(words: int, batch: int, count: int, settings: Settings) -> tuple[float, float, float]:
    """Train an epoch; return it by its first steps, its seconds, and those of a step before it."""
    torch.manual_seed(SEED)
    net = SentenceNet(words).to(settings.device)
    optimizer = torch.optim.Adam(net.parameters())
    few = WARMUP + settings.steps
    new = statistics.median(_steps(net, optimizer, batch, few, settings)[WARMUP:])
    age(optimizer)
    steps = _steps(net, optimizer, batch, count // batch, settings)
    return statistics.median(steps[WARMUP:few]) * len(steps), sum(steps), new


def _steps(
    net: SentenceNet, optimizer: torch.optim.Optimizer, batch: int, steps: int, settings: Settings
) -> list[float]:
    """Train, and return the seconds of each step."""
    x, y = sentences(batch * steps, net.embedding.num_embeddings)
    ends = [time.perf_counter()]
    told = ends[0]
    for start in range(0, len(x), batch):
        inputs, target = x[start : start + batch], y[start : start + batch]
        optimizer.zero_grad()
        out = net(inputs.to(settings.device))
        loss = nn.functional.binary_cross_entropy(out, target.to(settings.device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # waits for a device that works behind the host
        ends.append(time.perf_counter())
        if ends[-1] - told > 20:
            told = ends[-1]
            say(f"    {told - ends[0]:.0f} s")
    return [end - begin for begin, end in pairwise(ends)]


def measure(settings: Settings) -> Report:
    """Measure everything."""
    epochs = []
    for words in settings.vocabularies:
        for batch in settings.batches:
            say(f"{words:,} words: probe at batch {', '.join(map(str, settings.probed))}")
            epochs.append(run_epoch(words, batch, settings))
            gc.collect()
    return Report(
        environment=environment(settings),
        epochs=epochs,
        lengths=[
            length_row(words, settings, frozen=frozen)
            for words in settings.vocabularies
            for frozen in (False, True)
        ],
    )


def length_row(words: int, settings: Settings, *, frozen: bool) -> LengthRow:
    """Time steps of sentences of three lengths at the middle batch size."""
    batch = sorted(settings.batches)[len(settings.batches) // 2]
    seconds = {}
    for length in LENGTHS:
        found = probe_of(words, settings, [batch], length=length, frozen=frozen)
        seconds[length] = found.measured[0].seconds
        state = "frozen" if frozen else "trained"
        say(f"length {length}, vocabulary {words:,} {state}: {_ms(seconds[length])} a step")
    fit = fit_line(list(seconds.items()))
    assert fit is not None
    return LengthRow(words, frozen, seconds, fit)


def environment(settings: Settings) -> dict[str, str | int]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch_device(settings.device).name,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "load before": f"{LOAD_BEFORE:.1f}",
        "minutes an epoch": f"{settings.minutes:g}",
        "steps a probe": settings.steps,
    }


# The page.


def as_markdown(report: Report) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    purpose = (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]
    return "\n".join(
        [
            "# A probe's forecast against the epoch\n",
            f"Written by `benchmarks/forecast.py`: {facts}.\n",
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
            *_source(),
        ]
    )


def _epochs(report: Report) -> Iterator[str]:
    yield _table(
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
                _ms(each.seconds_per_step),
                _ms(each.new),
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
        yield f"{epoch.words:,} words, before batch {epoch.batch:,}: {_line(found.fit)}.\n"
        residuals = dict(found.fit.residuals) if found.fit else {}
        yield _table(
            ("batch", "measured", "half the quartiles' distance", "against the fit"),
            [
                (
                    f"{step.batch_size:,}",
                    _ms(step.seconds),
                    _ms(step.spread or 0.0),
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
        rows.append((f"{batch:,}", _ms(short), _ms(long), f"{share:.0%}", f"{long / short:.2f}"))
    yield _table(
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
            *(_ms(row.seconds[length]) for length in LENGTHS),
            _ms(row.fit.fixed),
            _ms(row.fit.per_example),
            f"{row.fit.worst:.1%}",
            f"{row.fit.fixed / row.fit.seconds(WORDS):.0%}",
            f"{row.seconds[50] / row.seconds[25]:.2f}",
        )
        for row in report.lengths
    ]
    yield _table(
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
            f"- {words:,} words: a is {_ms(trained.fit.fixed)} trained and {_ms(frozen.fit.fixed)} "
            f"frozen; the embedding's training is {of_update / trained.fit.fixed:.0%} of it.\n"
        )


def _source() -> Iterator[str]:
    rows = []
    for device, table in SOURCE_BY_BATCH.items():
        steps = [(b, 1000 * ks * b / SOURCE_SENTENCES) for b, ks in table.items()]
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
    for device, table in SOURCE_BY_VOCABULARY.items():
        epochs = [(words, 1000 * ks) for words, ks in table.items()]
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
    yield _table(("", "", "printed", "fitted", "residual"), rows)


def _line(fit: StepTimeFit | None) -> str:
    if fit is None:
        return "one batch size makes no line"
    at = "none in sight" if fit.saturates_at is None else f"{fit.saturates_at:,}"
    return (
        f"seconds = {fit.fixed:.4g} + {fit.per_example:.4g} x batch, worst residual "
        f"{fit.worst:.1%}, 90 % of the highest speed at batch {at}"
    )


def _flops(flops: int | None) -> str:
    return "an unknown number of FLOPs" if flops is None else format_flops(flops)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.4g} ms"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def settings_of(given: argparse.Namespace) -> Settings:
    if given.quick:
        return Settings(0.05, (2_000, 28_000), (8, 16, 32), (4, 12, 24, 48), given.device, 5)
    return Settings(given.minutes, given.vocabularies, BATCHES, PROBED, given.device, given.steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0] if __doc__ else "",
        epilog="Takes 6 epochs of --minutes and about 8 minutes of probes: 20 minutes by default; "
        "it says how far it is. Memory: 3 GB.",
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="of each epoch (default: 2)")
    parser.add_argument("--steps", type=int, default=10, help="timed by a probe (default: 10)")
    parser.add_argument(
        "--vocabularies", type=int, nargs="+", default=VOCABULARIES, help="default: 20000 280000"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="tiny, in a minute; write nothing")
    given = parser.parse_args()
    if given.minutes <= 0 or given.steps < 1 or min(given.vocabularies) < 1:
        parser.error("--minutes, --steps and --vocabularies must be above 0")
    report = measure(settings_of(given))
    markdown = as_markdown(report)
    print(markdown)
    if not given.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "forecast.md").write_text(markdown, encoding="utf-8")
        text = json.dumps(asdict(report), indent=1)
        (RESULTS / "forecast.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
