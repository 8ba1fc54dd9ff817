"""The source's network, its probes and its epochs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import torch
from torch import Tensor, nn

from computemeter.planning._torch_probe import age
from computemeter.planning.probe import ProbeResult, probe
from computemeter.planning.step_time import StepTimeFit, fit_line
from computemeter.units import format_seconds

SEED = 20_170_101

EMBEDDING, UNITS, WORDS = 300, 128, 25
LENGTHS = (12, 25, 50)
WARMUP = 3


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
    say(f"  {in_words(found.fit)}")
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


def length_row(words: int, settings: Settings, *, frozen: bool) -> LengthRow:
    """Time steps of sentences of three lengths at the middle batch size."""
    batch = sorted(settings.batches)[len(settings.batches) // 2]
    seconds = {}
    for length in LENGTHS:
        found = probe_of(words, settings, [batch], length=length, frozen=frozen)
        seconds[length] = found.measured[0].seconds
        state = "frozen" if frozen else "trained"
        say(f"length {length}, vocabulary {words:,} {state}: {ms(seconds[length])} a step")
    fit = fit_line(list(seconds.items()))
    assert fit is not None
    return LengthRow(words, frozen, seconds, fit)


def in_words(fit: StepTimeFit | None) -> str:
    """Write a fit in a line."""
    if fit is None:
        return "one batch size makes no line"
    at = "none in sight" if fit.saturates_at is None else f"{fit.saturates_at:,}"
    return (
        f"seconds = {fit.fixed:.4g} + {fit.per_example:.4g} x batch, worst residual "
        f"{fit.worst:.1%}, 90 % of the highest speed at batch {at}"
    )


def ms(seconds: float) -> str:
    """Write a step's time."""
    return f"{1000 * seconds:,.4g} ms"
