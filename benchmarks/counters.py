"""What three counters say of the same models, beside what was derived by hand.

    python benchmarks/counters.py            # writes docs/counters.md
    python benchmarks/counters.py --print    # prints the page, writes nothing

The counters: this one; PyTorch's own `FlopCounterMode`; fvcore's `FlopCountAnalysis`, which counts
forward passes only. All models run on the CPU, in training mode and with gradients, with random
weights. The figures by hand are those of tests/computemeter: counters/test_whole_steps.py,
counters/test_decoders.py and test_published_counts.py derive them.
"""

from __future__ import annotations

import argparse
import logging
import platform
import runpy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from computemeter import Meter
from computemeter.counters.torch_ops import is_uncounted

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "counters.md"
BATCH, CLASSES = 32, 10
# fvcore counts a multiply-add of these as one; of norms and pooling it counts operations.
FVCORE_CONTRACTIONS = frozenset(
    {"addmm", "baddbmm", "bmm", "conv", "einsum", "linear", "matmul", "mm", "mv"}
)


@dataclass(frozen=True, slots=True)
class Case:
    """A model, what it is fed, and its FLOPs by hand.

    Attributes:
        build: makes the model and its input, afresh for every count.
        forward: FLOPs of a forward pass, by hand.
        step: FLOPs of a forward and a backward pass, by hand.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Tensor]]
    forward: int
    step: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a counter says: FLOPs, or why it cannot, and the operators it has wrong.

    Attributes:
        flops: None where the counter does not support the model.
        missed: operators without a formula, or counted wrongly, and what is wrong.
        told: whether the counter itself says so.
    """

    flops: int | None
    missed: tuple[str, ...] = ()
    told: bool = True
    why: str = "not supported"


class Logits(nn.Module):
    """A `transformers` model as a function from a tensor to a tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(inputs, use_cache=False).logits
        return logits


class LastStep(nn.Module):
    """A recurrent layer and a classifier on its last output."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(32, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.rnn(inputs)[0][:, -1])
        return logits


class SelfAttention(nn.Module):
    """Multi-head attention on itself through the fused kernel, averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))
        return logits


def mlp() -> tuple[nn.Module, Tensor]:
    """784 to 256 to 256 to 10."""
    layers = nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(256, CLASSES)), torch.randn(BATCH, 784)


def strided_cnn() -> tuple[nn.Module, Tensor]:
    """Two convolutions, the second with stride 2."""
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
    return nn.Sequential(*layers, *_classifier(32)), torch.randn(BATCH, 3, 32, 32)


def mixed_cnn() -> tuple[nn.Module, Tensor]:
    """A plain, a depthwise, a grouped and a transposed convolution."""
    layers = (
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 32, 3, padding=1, groups=4),
        nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1),
    )
    return nn.Sequential(*layers, *_classifier(16)), torch.randn(BATCH, 8, 32, 32)


def recurrent(cell: type[nn.LSTM | nn.GRU]) -> tuple[nn.Module, Tensor]:
    """20 steps of 16 features, 32 units."""
    return LastStep(cell(16, 32, batch_first=True)), torch.randn(BATCH, 20, 16)


def attention() -> tuple[nn.Module, Tensor]:
    """16 tokens of width 64, 4 heads."""
    return SelfAttention(), torch.randn(BATCH, 16, 64)


def gpt2() -> tuple[nn.Module, Tensor]:
    """GPT-2 small cut to 2 of its 12 layers, one sequence of 128 tokens."""
    config = transformers.GPT2Config(n_layer=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = transformers.GPT2LMHeadModel(config).train()
    return Logits(model), torch.randint(0, config.vocab_size, (1, 128))


def resnet50() -> tuple[nn.Module, Tensor]:
    """One 224x224 image."""
    nets = runpy.run_path(str(ROOT / "tests" / "published_nets.py"))
    return nets["resnet50"](), torch.randn(1, 3, 224, 224)


def mixtral(experts: str) -> tuple[nn.Module, Tensor]:
    """A mixture of 4 experts, 2 for each of 24 tokens."""
    options: dict[str, Any] = {"experts_implementation": experts}  # goes to the base class
    config = transformers.MixtralConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        **options,
    )
    return Logits(transformers.MixtralForCausalLM(config).train()), torch.randint(0, 97, (2, 12))


def _classifier(channels: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)


# GPT-2 small: a layer has 12 * 768^2 weights, the head 768 * 50,257; 2 FLOPs for each and token;
# two products of attention of 2 * 128*128*768 FLOPs a layer. Backward is twice forward: the
# embedding below is trained.
GPT2_FORWARD = 2 * 128 * (2 * 12 * 768**2 + 768 * 50_257) + 2 * 2 * (2 * 128**2 * 768)
# ResNet-50: 3,857,973,248 multiply-adds an image, which needs no gradient, so the first
# convolution, 112*112 * 64*147, is done twice and not three times.
RESNET50_FORWARD = 2 * 3_857_973_248
RESNET50_STEP = 3 * RESNET50_FORWARD - 2 * 112**2 * 64 * 147
MIXTRAL_STEP = 6_013_440

CASES = (
    Case("MLP", mlp, 17_203_200, 38_764_544),
    Case("CNN with a stride", strided_cnn, 103_829_504, 283_176_960),
    Case("CNN, grouped, depthwise, transposed", mixed_cnn, 462_432_256, 1_311_799_296),
    Case("LSTM on a CPU", lambda: recurrent(nn.LSTM), 7_884_800, 23_654_400),
    Case("GRU on a CPU", lambda: recurrent(nn.GRU), 5_918_720, 15_593_472),
    Case("Multi-head attention, fused on a CPU", attention, 18_915_328, 44_163_072),
    Case("GPT-2 small, 2 layers, fused on a CPU", gpt2, GPT2_FORWARD, 3 * GPT2_FORWARD),
    Case("ResNet-50, 1 image", resnet50, RESNET50_FORWARD, RESNET50_STEP),
    Case(
        "Mixtral, tiny, a product for each expert",
        lambda: mixtral("eager"),
        MIXTRAL_STEP // 3,
        MIXTRAL_STEP,
    ),
    Case(
        "Mixtral, tiny, grouped product (the default)",
        lambda: mixtral("grouped_mm"),
        MIXTRAL_STEP // 3,
        MIXTRAL_STEP,
    ),
)


# The counters.


def work(case: Case, *, backward: bool) -> Callable[[], None]:
    """Return a function that runs the model, afresh and with the same numbers for each counter."""
    torch.manual_seed(0)
    model, inputs = case.build()

    def run() -> None:
        out = model(inputs)
        if backward:
            out.float().logsumexp(-1).sum().backward()

    return run


def ours(case: Case, *, backward: bool) -> tuple[Answer, Mapping[str, int | None]]:
    """Count with this project; also FLOPs by operator, None for those without a formula."""
    count = Meter.count(work(case, backward=backward))
    by_op = {**dict.fromkeys(count.uncounted_ops), **count.by_op}
    return Answer(count.model_flops, tuple(sorted(count.uncounted_ops))), by_op


def stock(case: Case, by_op: Mapping[str, int | None], *, backward: bool) -> Answer:
    """Count with PyTorch; it does not say what it has no formula for, so that is compared."""
    run = work(case, backward=backward)
    mode = FlopCounterMode(display=False)
    try:
        with mode:
            run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this counter's answer
        return Answer(None, why=f"not supported: {type(error).__name__}")
    found = mode.get_flop_counts().get("Global", {})
    theirs = {str(packet).replace(".", "::"): flops for packet, flops in found.items()}
    missed = [
        f"{name}, {theirs[name] / flops:.3g} times" if flops and name in theirs else name
        for name, flops in by_op.items()
        if name not in theirs or (flops is not None and theirs[name] != flops)
    ]
    return Answer(mode.get_total_flops(), tuple(sorted(missed)), told=False)


def fvcore(case: Case) -> Answer:
    """Count a forward pass with fvcore: twice its multiply-adds, contractions only."""
    torch.manual_seed(0)
    model, inputs = case.build()
    analysis = FlopCountAnalysis(model, inputs)
    analysis.unsupported_ops_warnings(enabled=False)
    analysis.uncalled_modules_warnings(enabled=False)
    analysis.tracer_warnings("none")
    try:
        by_op = analysis.by_operator()
        missed = [name for name in analysis.unsupported_ops() if is_uncounted(name)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this counter's answer
        return Answer(None, why=f"not supported: {type(error).__name__}")
    multiply_adds = sum(int(by_op[name]) for name in FVCORE_CONTRACTIONS & set(by_op))
    return Answer(2 * multiply_adds, tuple(sorted(missed)))


# The page.


def table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write a table in Markdown; the first column is text."""
    lines = [f"## {title}", "", "| " + " | ".join(header) + " |"]
    lines.append("|---" + "|---:" * (len(header) - 1) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def cell(answer: Answer, by_hand: int) -> str:
    """Write a count with its error."""
    if answer.flops is None:
        return answer.why
    if answer.flops == by_hand:
        return f"{answer.flops:,} (exact)"
    return f"{answer.flops:,} ({100 * (answer.flops / by_hand - 1):+.1f} %)"


def remarks(name: str, answers: Mapping[str, Answer]) -> list[str]:
    """Write which operators each counter misses in a model, if any."""
    lines = []
    for counter, answer in answers.items():
        if answer.missed:
            operators = ", ".join(
                f"`{operator}`{factor}" for operator, factor in map(_split, answer.missed)
            )
            says = "listed" if answer.told else "silently"
            lines.append(f"- {name}: {counter}, {says}: {operators}")
    return lines


def _split(missed: str) -> tuple[str, str]:
    operator, comma, factor = missed.partition(",")
    return operator, comma + factor


def page() -> str:
    """Count everything and write the page."""
    forward, step, missed = [], [], []
    for case in CASES:
        mine, by_op = ours(case, backward=False)
        torchs, fv = stock(case, by_op, backward=False), fvcore(case)
        hand = f"{case.forward:,}"
        cells = (cell(each, case.forward) for each in (mine, torchs, fv))
        forward.append((case.name, hand, *cells))
        mine, by_op = ours(case, backward=True)
        torchs = stock(case, by_op, backward=True)
        cells = (cell(each, case.step) for each in (mine, torchs))
        step.append((case.name, f"{case.step:,}", *cells, "not supported"))
        answers = {"computemeter": mine, "FlopCounterMode": torchs, "fvcore, forward": fv}
        missed += remarks(case.name, answers)
    header = ("model", "by hand", "computemeter", "FlopCounterMode", "fvcore")
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("computemeter", "torch", "fvcore", "transformers")
    )
    return "\n".join(
        [
            "# Counters on the same models",
            "",
            f"Written by `python benchmarks/counters.py` on {datetime.now(UTC):%Y-%m-%d}, on a",
            f"CPU: Python {platform.python_version()}, {versions}.",
            "",
            "FLOPs of contractions, 2 for a multiply-add; recomputation left out. In brackets the",
            "error against the figure derived by hand; the derivations are in `tests/computemeter`",
            "(`counters/test_whole_steps.py`, `counters/test_decoders.py`,",
            "`test_published_counts.py`).",
            "",
            "- **computemeter**: `Meter.count`, the live call.",
            "- **FlopCounterMode**: `torch.utils.flop_counter`, as PyTorch ships it.",
            "- **fvcore**: `FlopCountAnalysis`, which traces a forward pass and knows no backward.",
            '  It counts a multiply-add as one "flop": its products and convolutions are doubled',
            "  here, and what it counts of norms and pooling is left out.",
            "",
            table("Forward pass", header, forward),
            "",
            table("Training step: forward and backward", header, step),
            "",
            "## What each counter has no formula for, or counts wrongly",
            "",
            "In the training step; of fvcore, in the forward pass. *Listed*: the counter itself",
            "names the operator; *silently*: it does not.",
            "",
            *(missed or ["Nothing."]),
            "",
            "A kernel is counted where it runs: on a GPU, recurrent layers and attention are other",
            "operators than here, and the counters know others of them. This page shows the CPU.",
            "",
        ]
    )


def main() -> None:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--print", action="store_true", help="print the page, write nothing")
    options = parser.parse_args()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # of tracing and of libraries among themselves
    text = page()
    if options.print:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")


_Raw = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
