"""The trainings that all tools watch, and their FLOPs by hand, layer by layer.

All of them learn from scikit-learn's handwritten digits: 8x8 pixels of 0 to 16, ten classes. The
transformer reads an image as 64 tokens out of 17, and learns to tell the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.overhead_parts.nets import Batch, Net

SEED = 0
BATCH, BATCHES, LEFT_OVER = 16, 12, 5
PIXELS, TOKENS, CLASSES = 64, 17, 10
SIDE = ROWS = 8
HIDDEN = 128  # of the MLP
UNITS = 64  # of the LSTM
WIDTH, HEADS = 64, 4  # of the transformer, which has 2 blocks
FIRST, SECOND, STRIDED = 16, 32, 4  # channels of the CNN; side of the image after its stride


@dataclass(frozen=True, slots=True)
class Layer:
    """The contractions of a layer, for one example.

    Attributes:
        name: of the layer.
        forward: FLOPs of the forward pass, 2 for a multiply-add.
        passes: 1 forward; 1 for the gradient of the weights, or of the one factor; 1 for that of
            the input, or of the other factor. What is frozen, or needs no gradient, has fewer.
        again: FLOPs that are done a second time in the backward pass.
    """

    name: str
    forward: int
    passes: int
    again: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A training of one epoch.

    Attributes:
        name: of the run.
        body: makes the model.
        layers: its work by hand.
        shape: of an image, as the model takes it; empty for tokens.
        examples: how many there are.
        accumulate: batches to a step of the optimizer.
        on_meta: whether the model runs on the meta device.
    """

    name: str
    body: Callable[[], nn.Module]
    layers: tuple[Layer, ...]
    shape: tuple[int, ...] = ()
    examples: int = BATCHES * BATCH
    accumulate: int = 1
    on_meta: bool = True
    model_flops: int = field(init=False)
    as_run_flops: int = field(init=False)

    def __post_init__(self) -> None:
        model = sum(layer.forward * layer.passes for layer in self.layers)
        again = sum(layer.again for layer in self.layers)
        object.__setattr__(self, "model_flops", self.examples * model)
        object.__setattr__(self, "as_run_flops", self.examples * (model + again))

    @property
    def is_language_model(self) -> bool:
        """Whether it is a model of `transformers`, which their Trainer takes."""
        return not self.shape

    def tensors(self) -> Batch:
        """Return all inputs and targets."""
        images, labels = digits()
        if self.is_language_model:
            tokens = images[: self.examples].long()
            return tokens, tokens
        inputs = images[: self.examples].reshape(-1, *self.shape) / (TOKENS - 1)
        return inputs, labels[: self.examples]

    def build(self, batch: int = BATCH) -> Net:
        """Make the module afresh, with the same weights each time, and its first batch."""
        torch.manual_seed(SEED)
        inputs, targets = self.tensors()
        kind = Predictor if self.is_language_model else Net
        return kind(self.body(), (inputs[:batch], targets[:batch]))

    def loader(self) -> DataLoader[Batch]:
        """Return the batches, the last one smaller where the examples do not divide."""
        return cast("DataLoader[Batch]", DataLoader(TensorDataset(*self.tensors()), BATCH))


class Predictor(Net):
    """A language model of `transformers`, which knows its loss."""

    def training_step(self, batch: Batch, _: int = 0) -> Tensor:
        """Return the loss."""
        loss: Tensor = self.body(input_ids=batch[0], labels=batch[1]).loss
        return loss


class RowByRow(nn.Module):
    """An LSTM that reads an image by rows, and a classifier on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(SIDE, UNITS, batch_first=True), nn.Linear(UNITS, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.rnn(rows)[0][:, -1])
        return logits


@cache
def digits() -> Batch:
    """Return the images (1797, 64) and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.as_tensor(images, dtype=torch.float32), torch.as_tensor(labels)


def mlp() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def cnn() -> nn.Module:
    """Two convolutions, the second with stride 2, and a classifier."""
    convolutions = (
        nn.Conv2d(1, FIRST, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(FIRST, SECOND, 3, stride=2, padding=1),
        nn.ReLU(),
    )
    head = nn.Linear(SECOND * STRIDED**2, CLASSES)
    return nn.Sequential(*convolutions, nn.Flatten(), head)


def gpt2(*, frozen: bool = False, checkpointed: bool = False) -> nn.Module:
    """GPT-2 of two blocks, without dropout, through `scaled_dot_product_attention`.

    Args:
        frozen: train neither the embeddings nor the first block.
        checkpointed: keep only what goes into a block, and compute the block again.
    """
    import transformers

    options: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    options |= {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": "sdpa"}
    config = transformers.GPT2Config(
        n_layer=2, n_embd=WIDTH, n_head=HEADS, n_positions=PIXELS, vocab_size=TOKENS, **options
    )
    model: Any = transformers.GPT2LMHeadModel(config).train()
    if checkpointed:
        config.use_cache = False
        model.gradient_checkpointing_enable()
    if frozen:
        for part in (model.transformer.wte, model.transformer.wpe, model.transformer.h[0]):
            part.requires_grad_(requires_grad=False)
    return cast("nn.Module", model)


# The images need no gradient: the first layer is done twice, not three times.
MLP = (
    Layer("linear 64 to 128", 2 * PIXELS * HIDDEN, 2),
    Layer("linear 128 to 10", 2 * HIDDEN * CLASSES, 3),
)
CNN = (
    Layer("convolution 1 to 16, 3x3, 8x8 pixels", 2 * SIDE**2 * FIRST * 3**2, 2),
    Layer("convolution 16 to 32, 3x3, 4x4 pixels", 2 * STRIDED**2 * SECOND * FIRST * 3**2, 3),
    Layer("linear 512 to 10", 2 * SECOND * STRIDED**2 * CLASSES, 3),
)
# Four gates, each from the row and the last state. The CPU's fused kernel computes the gradients
# of the rows and of the first state too, though nobody needs them.
LSTM = (
    Layer("LSTM, 8 steps", ROWS * 2 * 4 * UNITS * (SIDE + UNITS), 3),
    Layer("linear 64 to 10", 2 * UNITS * CLASSES, 3),
)
# Of a block: queries, keys and values 3 d^2 weights, the projection d^2, the feed-forward net
# 4 d^2 and 4 d^2. Attention: scores, and sums of values. The backward pass of the fused kernel
# computes the scores again.
WEIGHTS = 2 * PIXELS * 12 * WIDTH**2
SCORES = 2 * PIXELS * PIXELS * WIDTH
ATTENTION = 2 * SCORES
HEAD = 2 * PIXELS * WIDTH * TOKENS
GPT2 = (
    Layer("block 1, 12 d^2 weights", WEIGHTS, 3),
    Layer("block 1, attention", ATTENTION, 3, SCORES),
    Layer("block 2, 12 d^2 weights", WEIGHTS, 3),
    Layer("block 2, attention", ATTENTION, 3, SCORES),
    Layer("head", HEAD, 3),
)
# No gradient reaches block 1. The head is the frozen embedding: it hands its gradient on, and has
# none of its own. In block 2 all have both, as its first layer norm is trained.
FROZEN = (
    Layer("block 1, 12 d^2 weights, frozen", WEIGHTS, 1),
    Layer("block 1, attention, frozen", ATTENTION, 1),
    Layer("block 2, 12 d^2 weights", WEIGHTS, 3),
    Layer("block 2, attention", ATTENTION, 3, SCORES),
    Layer("head, frozen", HEAD, 2),
)
# The block again, and the scores once more in its attention's backward pass as before. PyTorch
# stops when the last tensor that it needs is there: the last product of a block, of 4 d^2
# weights, is not done again.
_WEIGHTS_AGAIN = WEIGHTS - 2 * PIXELS * 4 * WIDTH**2
_ATTENTION_AGAIN = ATTENTION + SCORES
CHECKPOINTED = (
    replace(GPT2[0], again=_WEIGHTS_AGAIN),
    replace(GPT2[1], again=_ATTENTION_AGAIN),
    replace(GPT2[2], again=_WEIGHTS_AGAIN),
    replace(GPT2[3], again=_ATTENTION_AGAIN),
    GPT2[4],
)

MLP_RUN = Run("MLP", mlp, MLP, (PIXELS,))
GPT2_RUN = Run("GPT-2, 2 blocks, fused attention", gpt2, GPT2)
RUNS = (
    MLP_RUN,
    Run("CNN", cnn, CNN, (1, SIDE, SIDE)),
    Run("LSTM", RowByRow, LSTM, (ROWS, SIDE)),
    GPT2_RUN,
    Run("GPT-2, first block frozen", lambda: gpt2(frozen=True), FROZEN),
    Run(
        "GPT-2, activation checkpointing",
        lambda: gpt2(checkpointed=True),
        CHECKPOINTED,
        on_meta=False,  # transformers looks into the positions, and there are none on meta
    ),
    Run("GPT-2, last batch partial", gpt2, GPT2, examples=BATCHES * BATCH + LEFT_OVER),
    Run("GPT-2, gradients of 2 batches accumulated", gpt2, GPT2, accumulate=2),
)
