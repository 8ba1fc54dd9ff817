"""The forward passes of published networks in `keras.applications`, on each backend.

Every count is derived from the layers that the network's paper gives, and stands beside the
figures that were printed for it. The networks have shapes and no weights, so none of them is slow.

Multiply-adds are places x weights, with weights = kernel x channels read x channels written.
"""

import keras
import pytest
from backend_nets import BACKEND, resnet

IMAGE = (1, 224, 224, 3)


def forward(name):
    """Count the forward pass of one image."""
    make = getattr(keras.applications, name)
    counted = {"jax": of_jaxpr, "tensorflow": of_graph, "torch": of_call}[BACKEND](make)
    assert counted.uncounted_ops == {}
    assert counted.model_flops == counted.hardware_flops == sum(counted.by_op.values())
    assert counted.by_dtype == {"float32": counted.model_flops}
    return counted


def of_jaxpr(make):
    import jax

    from computemeter.counters.jax_flops import count_jaxpr

    def count(model, weights):
        return count_jaxpr(jax.make_jaxpr(model)(*weights, jax.ShapeDtypeStruct(IMAGE, "float32")))

    return stateless(make, jax.ShapeDtypeStruct, count)


def of_graph(make):
    import tensorflow as tf

    from computemeter.counters.tf_flops import count_graph

    def count(model, weights):
        function = tf.function(model, autograph=False)
        return count_graph(function.get_concrete_function(*weights, tf.TensorSpec(IMAGE)).graph)

    return stateless(make, tf.TensorSpec, count)


def of_call(make):
    import torch

    from computemeter import Meter

    with keras.device("meta"):
        return Meter.count(make(weights=None), torch.empty(IMAGE), training=False)


def stateless(make, spec, count):
    """Count a network whose weights are arguments, and nowhere made."""
    with keras.StatelessScope(initialize_variables=False):
        network = make(weights=None)
        weights = [
            [spec(variable.shape, variable.dtype) for variable in variables]
            for variables in (network.trainable_variables, network.non_trainable_variables)
        ]
        counted = count(lambda *arguments: network.stateless_call(*arguments)[0], weights)
    # Keras still has the variables on its list, to make later.
    keras.utils.clear_session(free_memory=False)
    return counted


def inverted_residuals(stages, *, side, channels, squeezed=False):
    """Multiply-adds of blocks that widen, convolve each channel apart, and narrow again.

    Args:
        stages: expansion, channels, blocks, stride of the first block, kernel.
        side: of the image that goes in.
        channels: that go in.
        squeezed: each block also weighs its channels, by two dense layers around a quarter as many
            units as channels went into the block.
    """
    total = 0
    for expansion, width, blocks, stride, kernel in stages:
        for block in range(blocks):
            inner = expansion * channels
            if expansion > 1:
                total += side**2 * channels * inner
            side = side // stride if block == 0 else side
            total += side**2 * (kernel**2 * inner + inner * width)
            total += 2 * inner * (channels // 4) if squeezed else 0
            channels = width
    return total


# Each stage halves the image; its first layer doubles the channels, except in the last.
VGG16_CONVOLUTIONS = (
    9 * 224**2 * (3 * 64 + 64 * 64)
    + 9 * 112**2 * (64 * 128 + 128 * 128)
    + 9 * 56**2 * (128 * 256 + 2 * 256 * 256)
    + 9 * 28**2 * (256 * 512 + 2 * 512 * 512)
    + 9 * 14**2 * (3 * 512 * 512)
)
VGG16 = VGG16_CONVOLUTIONS + 7 * 7 * 512 * 4096 + 4096 * 4096 + 4096 * 1000

# As in the paper, the first 1x1 convolution of a stage halves the image.
RESNET152 = sum(resnet((3, 8, 36, 3), (112, 56, 28, 14, 7))) + 2048 * 1000

# Sandler et al. 2018, table 2.
MOBILENET_V2 = (
    112**2 * (9 * 3 * 32)
    + inverted_residuals(
        [
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 32, 3, 2, 3),
            (6, 64, 4, 2, 3),
            (6, 96, 3, 1, 3),
            (6, 160, 3, 2, 3),
            (6, 320, 1, 1, 3),
        ],
        side=112,
        channels=32,
    )
    + 7 * 7 * 320 * 1280
    + 1280 * 1000
)

# Tan and Le 2019, table 1.
EFFICIENTNET_B0 = (
    112**2 * (9 * 3 * 32)
    + inverted_residuals(
        [
            (1, 16, 1, 1, 3),
            (6, 24, 2, 2, 3),
            (6, 40, 2, 2, 5),
            (6, 80, 3, 2, 3),
            (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5),
            (6, 320, 1, 1, 3),
        ],
        side=112,
        channels=32,
        squeezed=True,
    )
    + 7 * 7 * 320 * 1280
    + 1280 * 1000
)

COUNTS = {
    "VGG16": (VGG16, 15_470_264_320),
    "ResNet152": (RESNET152, 11_282_415_616),
    "MobileNetV2": (MOBILENET_V2, 300_774_272),
    "EfficientNetB0": (EFFICIENTNET_B0, 385_814_752),
}


@pytest.mark.parametrize("name", COUNTS)
def test_forward_pass_as_derived_by_hand(name):
    by_hand, expected = COUNTS[name]
    assert by_hand == expected
    assert forward(name).model_flops == 2 * expected


# Where the 3x3 convolution of a stage halves the image, as in torchvision, the 1x1 before it runs
# at the places of the stage before: for stages of 128, 256 and 512 on 256, 512 and 1024 channels.
LATER_STRIDE = (
    (56**2 - 28**2) * 256 * 128 + (28**2 - 14**2) * 512 * 256 + (14**2 - 7**2) * 1024 * 512
)

# Billions of multiply-adds, and what of them was counted. The torchvision figures are the "GFLOPS"
# of its documentation's table of weights.
PRINTED = {
    # He et al. 2015, section 3.3: "VGG-16/19 nets (15.3/19.6 billion FLOPs)", convolutions only.
    "VGG16, He et al.": ("15.3", VGG16_CONVOLUTIONS),
    "VGG16, torchvision": ("15.47", VGG16),
    # He et al. 2015, table 1: 11.3e9 FLOPs, which are its multiply-adds.
    "ResNet152, He et al.": ("11.3", RESNET152),
    "ResNet152, torchvision": ("11.51", RESNET152 + LATER_STRIDE),
    # Sandler et al. 2018, table 4: 300 million multiply-adds; torchvision 0.30.
    "MobileNetV2": ("0.30", MOBILENET_V2),
    # Tan and Le 2019, table 2: 0.39 billion FLOPs, which are multiply-adds; torchvision 0.39. With
    # two digits that is 1.1 % above the exact number.
    "EfficientNetB0": ("0.39", EFFICIENTNET_B0),
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_exact_numbers_are_the_printed_ones_to_their_last_digit(name):
    printed, exact = PRINTED[name]
    digits = len(printed.partition(".")[2])
    assert f"{exact / 1e9:.{digits}f}" == printed


def test_the_convolutions_of_vgg16_are_the_ones_of_the_paper():
    convolutions = {
        "jax": "jax::conv_general_dilated",
        "tensorflow": "tf::Conv2D",
        "torch": "aten::convolution",
    }
    assert forward("VGG16").by_op[convolutions[BACKEND]] == 2 * VGG16_CONVOLUTIONS
