"""Published networks: the counter's multiply-adds beside the figures that were printed for them.

The printed figures are those of "AI and compute" (OpenAI, 2018, appendix) and, for ResNet-50, of
"ImageNet Training in 24 Minutes" (You et al., 2017). Every count here is also derived by hand, from
the layers of the paper; the networks run on the meta device, which has shapes and no numbers.

A convolution's multiply-adds are places x weights, with weights = out x in / groups x kernel.
"""

import pytest
import torch
from published_nets import alexnet, alexnet_one_tower, dqn, resnet50, resnet152, vgg16

from computemeter import Meter
from computemeter.appendix import load_appendix
from computemeter.estimate import flops_from_operations
from computemeter.units import pfs_days

IMAGE = (3, 224, 224)
PRINTED = {entry.name: entry for entry in load_appendix()}


def forward(network, size=IMAGE):
    """Count the multiply-adds of one forward pass over one example."""
    with torch.device("meta"):
        model, example = network(), torch.empty(1, *size)
    count = Meter.count(model, example)
    assert count.uncounted_ops == {}
    assert count.model_flops % 2 == 0
    return count.model_flops // 2


def step(network, size=IMAGE):
    """Count the multiply-adds of a forward and a backward pass over one example."""
    with torch.device("meta"):
        model, example = network(), torch.empty(1, *size)
    count = Meter.count(lambda: model(example).sum().backward())
    assert count.uncounted_ops == {}
    assert count.model_flops == count.hardware_flops
    return count.model_flops // 2


# AlexNet. 55*55 places: 96 * 3*121; 27*27: 256 * 48*25; 13*13: 384 * 256*9, 384 * 192*9,
# 256 * 192*9; then 9,216 -> 4,096 -> 4,096 -> 1,000.
ALEXNET = (
    3_025 * 34_848  # 105,415,200
    + 729 * 307_200  # 223,948,800
    + 169 * (884_736 + 663_552 + 442_368)  # 336,420,864
    + 37_748_736
    + 16_777_216
    + 4_096_000
)

# One tower. 55*55: 64 * 363; 27*27: 192 * 64*25; 13*13: 384 * 192*9, 256 * 384*9, 256 * 256*9;
# the same three linear layers.
ALEXNET_ONE_TOWER = (
    3_025 * 23_232  # 70,276,800
    + 729 * 307_200
    + 169 * (663_552 + 884_736 + 589_824)  # 361,340,928
    + 58_621_952
)

# VGG-16. Each stage halves the image; its first layer doubles the channels, except in the last.
# 25,088 -> 4,096 -> 4,096 -> 1,000.
VGG16 = (
    9 * 224**2 * (3 * 64 + 64 * 64)  # 1,936,392,192
    + 9 * 112**2 * (64 * 128 + 128 * 128)  # 2,774,532,096
    + 9 * 56**2 * (128 * 256 + 2 * 256 * 256)  # 4,624,220,160
    + 9 * 28**2 * (256 * 512 + 2 * 512 * 512)  # 4,624,220,160
    + 9 * 14**2 * 3 * 512 * 512  # 1,387,266,048
    + 102_760_448
    + 16_777_216
    + 4_096_000
)

# DQN. 20*20 places: 16 * 3*64; 9*9: 32 * 16*16; 2,592 -> 256. No output layer: it depends on
# the game (4 to 18 actions, at most 4,608).
DQN = 400 * 3_072 + 81 * 8_192 + 663_552


def resnet(depths, places=(112, 56, 28, 14, 7)):
    """Multiply-adds of a bottleneck ResNet whose images are `places` wide, stem and stages.

    A block of width w on 4w channels has 4w*w + 9w*w + w*4w = 17 w*w weights. A stage's first
    block reads the c channels before it: c*w in place of 4w*w, and a projection of c*4w. In the
    paper it is the first 1x1 convolution that halves the image, so all of a block is at the
    stage's own places.
    """
    total, channels = places[0] ** 2 * 64 * 3 * 49, 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        weights = depth * 17 * width**2 - 4 * width**2 + channels * width + channels * 4 * width
        total += places[stage + 1] ** 2 * weights
        channels = 4 * width
    return total + 2048 * 1000


def later(depths, places=(112, 56, 28, 14, 7)):
    """Multiply-adds that a ResNet costs more where the 3x3 convolution halves the image.

    The 1x1 convolution before it then runs at the previous stage's places.
    """
    stages = range(1, len(depths))
    return sum(
        (places[stage] ** 2 - places[stage + 1] ** 2) * (128 << stage) * (64 << stage)
        for stage in stages
    )


RESNET152, RESNET50 = (3, 8, 36, 3), (3, 4, 6, 3)

COUNTS = {
    "AlexNet": (alexnet, IMAGE, ALEXNET, 724_406_816),
    "AlexNet, one tower": (alexnet_one_tower, IMAGE, ALEXNET_ONE_TOWER, 714_188_480),
    "VGG-16": (vgg16, IMAGE, VGG16, 15_470_264_320),
    "DQN": (dqn, (3, 84, 84), DQN, 2_555_904),
    "ResNet-152": (resnet152, IMAGE, resnet(RESNET152), 11_282_415_616),
    "ResNet-50": (resnet50, IMAGE, resnet(RESNET50), 3_857_973_248),
    "ResNet-50, v1.5": (
        lambda: resnet50("3x3"),
        IMAGE,
        resnet(RESNET50) + later(RESNET50),
        4_089_184_256,
    ),
    "ResNet-152, v1.5": (
        lambda: resnet152("3x3"),
        IMAGE,
        resnet(RESNET152) + later(RESNET152),
        11_513_626_624,
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_forward_pass_as_derived_by_hand(name):
    network, size, by_hand, expected = COUNTS[name]
    assert forward(network, size) == by_hand == expected


# The printed multiply-adds of one pass, and how far the exact ones are from them. ResNet-152 as
# the paper has it is 1.0 % below the printed figure, with its stride in the 3x3 it is 1.0 % above.
PASSES = {
    "AlexNet": (ALEXNET, 0.75e9, -0.034),
    "VGG": (VGG16, 16e9, -0.033),
    "ResNet-152": (resnet(RESNET152), 11.4e9, -0.010),
    "DQN": (DQN, 2.5e6, +0.022),
}


@pytest.mark.parametrize("name", PASSES)
def test_multiply_adds_beside_the_printed_ones(name):
    exact, printed, difference = PASSES[name]
    assert PRINTED[name].operations.add_multiplies_per_pass == printed
    assert exact / printed - 1 == pytest.approx(difference, abs=0.0005)


# The printed totals in pfs-days, and how far the exact passes are from them:
#   AlexNet     724,406,816 * 1.2e6 * 90 * 6 = 469.4e15: rounded, the printed 470 PF, although the
#               printed factors give 486.
#   VGG         15,470,264,320 * 1.2e6 * 74 * 6 = 8.243e18 = 0.0954. The print has 16e9 for 15.47e9,
#               which makes 0.0987, and cuts it to 0.098.
#   ResNet-152  11,282,415,616 * 1.2e6 * 128 * 6 = 10.398e18 = 0.1203. The printed factors give
#               10,506 PF = 0.1216, the printed 10,000 PF are 0.1157: 0.117 follows from neither.
#   DQN         2,555,904 * 160e6 * 6 = 2.454e15 = 2.84e-5: 5.2 % above, more than a rounding. The
#               appendix takes 2.5e6 for the 2,555,904 that its layers add up to (2.2 %), and
#               prints 2.3 PF where its factors give 2.4 (4.3 %); 2.3 PF are the printed 2.7e-5.
TOTALS = {
    "AlexNet": (ALEXNET, 0.0054, +0.006),
    "VGG": (VGG16, 0.098, -0.027),
    "ResNet-152": (resnet(RESNET152), 0.117, +0.029),
    "DQN": (DQN, 2.7e-5, +0.052),
}


@pytest.mark.parametrize("name", TOTALS)
def test_training_compute_beside_the_printed_one(name):
    exact, printed, difference = TOTALS[name]
    factors = PRINTED[name].operations
    assert PRINTED[name].printed_operations.pfs_days == printed
    total = pfs_days(flops_from_operations(exact, factors.examples, factors.epochs))
    assert total / printed - 1 == pytest.approx(difference, abs=0.0005)


def test_alexnet_prints_the_exact_count_and_not_its_rounded_factor():
    # 724,406,816 * 1,200,000 * 90 * 2 * 3
    flops = flops_from_operations(ALEXNET, 1_200_000, 90)
    assert flops == 469_415_616_768_000_000
    assert round(flops, -16) == PRINTED["AlexNet"].printed_operations.pf * 10**15


def test_dqn_as_published_is_wider_than_the_appendix_has_it():
    # The paper stacks 4 frames, not 3 colours: 400 * 16 * 4*64 = 1,638,400 for 1,228,800. With
    # 18 actions, 256 * 18 = 4,608 more: 16 % above the appendix's layers.
    exact = forward(lambda: dqn(frames=4, actions=18), (4, 84, 84))
    assert exact == DQN + 400 * 1_024 + 4_608 == 2_970_112
    assert exact / DQN - 1 == pytest.approx(0.162, abs=0.0005)


# The other source: "7.72 billion single precision operations" for one 225x225 image. It counts a
# multiply and an add apart, as FLOPs are counted here, and so it is to be met by the count itself.


def test_resnet_50_operations_of_the_second_source():
    # At 224x224, 2 * 3,857,973,248 = 7.716e9: the printed figure, to its last digit.
    assert round(2 * forward(resnet50) / 1e9, 2) == 7.72


def test_resnet_50_at_the_printed_225_costs_more_than_printed():
    # 225 rounds up at every halving: 113, 57, 29, 15 and 8 places for 112, 56, 28, 14 and 7. That
    # is 13.5 % above the printed figure, which is the one of 224x224.
    exact = forward(resnet50, (3, 225, 225))
    assert exact == resnet(RESNET50, (113, 57, 29, 15, 8)) == 4_382_657_728
    assert 2 * exact / 7.72e9 - 1 == pytest.approx(0.135, abs=0.0005)


@pytest.mark.parametrize("places", [(112, 56, 28, 14, 7), (113, 57, 29, 15, 8)])
def test_90_epochs_of_resnet_50_are_about_10_to_the_18(places):
    # Forward passes only, as the source has it: 8.89e17 and 1.01e18; training takes three times it.
    passes = flops_from_operations(resnet(RESNET50, places), 1.28e6, 90, passes=1)
    assert passes == pytest.approx(1e18, rel=0.12)


# "Backward is twice forward" is an upper bound: nobody needs the gradient of the image.

FIRST_LAYERS = {
    "AlexNet": (alexnet, IMAGE, ALEXNET, 3_025 * 34_848, 2.85),
    "VGG-16": (vgg16, IMAGE, VGG16, 9 * 224**2 * 3 * 64, 2.99),
    "DQN": (dqn, (3, 84, 84), DQN, 400 * 3_072, 2.52),
    "ResNet-50": (resnet50, IMAGE, resnet(RESNET50), 112**2 * 64 * 147, 2.97),
}


@pytest.mark.parametrize("name", FIRST_LAYERS)
def test_a_training_step_is_three_passes_but_for_the_first_layer(name):
    network, size, passes, first, times = FIRST_LAYERS[name]
    exact = step(network, size)
    assert exact == 3 * passes - first
    assert exact / passes == pytest.approx(times, abs=0.006)
