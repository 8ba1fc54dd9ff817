"""Keras nets to train on every backend, and the FLOPs of one of their training steps, by hand.

A multiply-add is 2 FLOPs. A layer costs three products of its size: its output, its weight's
gradient and its input's; the first layer two, for nobody needs the gradient of the data.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import layers

BACKEND = keras.backend.backend()


@dataclass(frozen=True)
class Net:
    """A net that ends in 10 logits.

    Attributes:
        build: makes it.
        shape: of one example.
        first: multiply-adds of an example in the layers that see the data.
        rest: in all others.
        batch: examples in a step.
        parameters: all of them.
        frozen: of them not trained: the moving means and variances of batch normalisation.
        unneeded: multiply-adds of an example that PyTorch alone spares itself.
        scores: multiply-adds of the attention scores of an example, where one operator of
            PyTorch's runs all of attention: its backward computes them once more.
        tokens: how many there are, where an example is a sequence of them.
    """

    build: Callable[[], keras.Model]
    shape: tuple[int, ...]
    first: int
    rest: int
    batch: int = 32
    parameters: int = 0
    frozen: int = 0
    unneeded: int = 0
    scores: int = 0
    tokens: int = 0

    @property
    def multiply_adds(self) -> int:
        """Of one example, as every backend is to count them."""
        return 2 * self.first + 3 * self.rest - (self.unneeded if BACKEND == "torch" else 0)

    @property
    def flops(self) -> int:
        """Model FLOPs of a step."""
        return 2 * self.batch * self.multiply_adds

    @property
    def hardware_flops(self) -> int:
        """The same with what is computed a second time."""
        return self.flops + (2 * self.batch * self.scores if BACKEND == "torch" else 0)

    def fit(self, *callbacks, examples, optimizer="sgd", **options) -> keras.Model:
        """Train a new model on random data for an epoch, and return it."""
        random = np.random.default_rng(1)
        x = random.normal(size=(examples, *self.shape)).astype("float32")
        if self.tokens:
            x = random.integers(self.tokens, size=(examples, *self.shape))
        y = random.integers(10, size=examples)
        model = self.build()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, **options)
        model.fit(x, y, batch_size=self.batch, verbose=0, callbacks=list(callbacks))
        return model


def sequential(shape, *stack):
    """Return what makes the net of these layers and a last one with 10 logits."""
    return lambda: keras.Sequential([keras.Input(shape), *(each() for each in stack), dense(10)()])


def dense(units, activation=None):
    return lambda: layers.Dense(units, activation)


def conv(filters, **options):
    return lambda: layers.Conv2D(filters, 3, **options)


def attention(dropout=0.0):
    """Return what makes a net of one self-attention layer."""

    def build():
        tokens = keras.Input((16, 64))
        mixed = layers.MultiHeadAttention(4, 16, dropout=dropout)(tokens, tokens)
        pooled = layers.GlobalAveragePooling1D()(mixed)
        return keras.Model(tokens, layers.Dense(10)(pooled))

    return build


def transformer():
    """Make six layers, each of 4 heads of 32 and two dense layers, over embedded tokens."""
    tokens = keras.Input((64,), dtype="int32")
    x = layers.Embedding(100, 128)(tokens)
    for _ in range(6):
        normed = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 32)(normed, normed)])
        hidden = layers.Dense(512, "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(128)(hidden)])
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(tokens, layers.Dense(10)(pooled))


def resnet(depths, sides):
    """Multiply-adds of a bottleneck ResNet (He et al. 2015): of its stem, and of its blocks.

    Args:
        depths: blocks of each of the four stages.
        sides: of the image after the stem, and in each stage.
    """
    blocks, channels = 0, 64
    for stage, (depth, side) in enumerate(zip(depths, sides[1:], strict=True)):
        width = 64 << stage
        for block in range(depth):
            # 1x1, which halves the image, 3x3, 1x1; a stage's first block projects its input too.
            weights = channels * width + 9 * width * width + width * 4 * width
            blocks += side**2 * (weights + (channels * 4 * width if block == 0 else 0))
            channels = 4 * width
    return sides[0] ** 2 * (7 * 7 * 3 * 64), blocks


_STEM, _BLOCKS = resnet((3, 4, 6, 3), (32, 16, 8, 4, 2))

MLP = Net(
    sequential((784,), dense(256, "relu"), dense(256, "relu")),
    (784,),
    first=784 * 256,
    rest=256 * 256 + 256 * 10,
    parameters=785 * 256 + 257 * 256 + 257 * 10,
)
# A convolution's multiply-adds: places x kernel x channels read x channels written.
CNN_SAME = Net(
    sequential(
        (32, 32, 3),
        conv(16, padding="same"),
        conv(32, padding="same", strides=2),
        layers.GlobalAveragePooling2D,
    ),
    (32, 32, 3),
    first=32 * 32 * (9 * 3 * 16),
    rest=16 * 16 * (9 * 16 * 32) + 32 * 10,
    parameters=(9 * 3 + 1) * 16 + (9 * 16 + 1) * 32 + 33 * 10,
)
CNN_VALID = replace(
    CNN_SAME,
    build=sequential((32, 32, 3), conv(16), conv(32), layers.GlobalAveragePooling2D),
    first=30 * 30 * (9 * 3 * 16),
    rest=28 * 28 * (9 * 16 * 32) + 32 * 10,
)
MIX = Net(
    sequential(
        (32, 32, 8),
        conv(16, padding="same"),
        layers.BatchNormalization,
        lambda: layers.DepthwiseConv2D(3, padding="same"),
        conv(32, padding="same", groups=4),
        lambda: layers.Conv2DTranspose(16, 3, strides=2, padding="same"),
        layers.GlobalAveragePooling2D,
    ),
    (32, 32, 8),
    first=32 * 32 * (9 * 8 * 16),
    # Depthwise; 4 groups, each of 16 / 4 channels; transposed, at the places that it reads.
    rest=32 * 32 * (9 * 16 + 9 * 4 * 32 + 9 * 32 * 16) + 16 * 10,
    parameters=(9 * 8 + 1) * 16
    + 4 * 16
    + (9 + 1) * 16
    + (9 * 4 + 1) * 32
    + (9 * 32 + 1) * 16
    + 17 * 10,
    frozen=2 * 16,
)
# Four gates of 32 units, 20 time steps.
LSTM = Net(
    sequential((20, 16), lambda: layers.LSTM(32)),
    (20, 16),
    first=20 * 16 * (4 * 32),
    rest=20 * 32 * (4 * 32) + 32 * 10,
    parameters=(16 + 32 + 1) * 4 * 32 + 33 * 10,
    # Nobody needs the gradient of the first state either. The other backends run every time step
    # with one loop body; PyTorch has no loop, and sees that.
    unneeded=32 * (4 * 32),
)
MHA = Net(
    attention(),
    (16, 64),
    first=3 * 16 * 64 * 64,  # queries, keys, values
    rest=2 * 4 * 16 * 16 * 16 + 16 * 64 * 64 + 64 * 10,  # scores and their use, output, head
    parameters=4 * 65 * 64 + 65 * 10,
    scores=4 * 16 * 16 * 16,
)
# With dropout Keras computes the scores in an operation of their own, and they are kept.
MHA_DROPOUT = replace(MHA, build=attention(dropout=0.1), scores=0)
RESNET50 = Net(
    lambda: keras.applications.ResNet50(
        weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
    ),
    (64, 64, 3),
    first=_STEM,
    rest=_BLOCKS + 2048 * 10,
    batch=4,
    # Keras documents 25,636,712 for 1000 classes, of them 25,583,592 trained.
    parameters=25_636_712 - 990 * 2049,
    frozen=25_636_712 - 25_583_592,
)
TRANSFORMER = Net(
    transformer,
    (64,),
    first=0,  # the embedding only looks up; its gradient needs that of the first products' input
    rest=6 * (64 * (4 * 128 * 128 + 2 * 128 * 512) + 2 * 64 * 64 * 128) + 128 * 10,
    batch=4,
    parameters=100 * 128
    + 6 * (4 * 129 * 128 + 129 * 512 + 513 * 128 + 2 * 2 * 128)
    + 2 * 128
    + 129 * 10,
    scores=6 * 64 * 64 * 128,
    tokens=100,
)
