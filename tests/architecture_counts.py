"""Closed forms of what real architectures compute, for tests of those that `transformers` builds.

Random weights, small sizes. In the closed forms `linear(rows, inputs, outputs)` is one product of
a linear layer and `scores(...)` one of the two products of an attention, 2 FLOPs per multiply-add.
Training a layer takes three products: the output, the gradient of the weight and that of the input.
The input's is needed from the very first layer on where an embedding below is trained, and is not
where the input is data: the patches of an image, the frames of a sound. A lookup in an embedding, a
softmax, a norm and a rotation multiply nothing with anything that is summed: zeros, forward and
backward.

Eager attention keeps the probabilities for the backward pass. A fused kernel does not: it computes
the scores once more, which is hardware and not model FLOPs. PyTorch's kernel for the CPU is used
where there is neither dropout on the probabilities nor a bias to be trained.
"""

import pytest
import torch

from computemeter import Meter

BATCH, TOKENS, TARGETS = 2, 12, 7
VOCAB, WIDTH, HEADS, INNER, LAYERS = 97, 32, 4, 80, 2
HEAD = WIDTH // HEADS
ROWS = BATCH * TOKENS  # 24
TARGET_ROWS = BATCH * TARGETS  # 14
FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"

both_attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def linear(rows, inputs, outputs):
    return 2 * rows * inputs * outputs


def scores(queries, keys, head=HEAD):
    """FLOPs of queries by keys, and as many of probabilities by values."""
    return 2 * BATCH * HEADS * queries * keys * head


def attention_of(queries, keys, head=HEAD):
    """FLOPs of both products forward, and of the four gradients of their factors."""
    return 6 * scores(queries, keys, head)


def check(count, model, recomputed=0):
    assert count.uncounted_ops == {}
    assert count.model_flops == model
    assert count.hardware_flops - count.model_flops == recomputed
    assert sum(count.by_op.values()) == model


def ids(length=TOKENS):
    return torch.randint(3, VOCAB, (BATCH, length))


def step(model, **inputs):
    """Count one training step: forward, the model's own loss, backward."""

    def train():
        model(**inputs).loss.backward()

    return Meter.count(train)
