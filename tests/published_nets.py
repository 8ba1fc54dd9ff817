"""Published convolutional networks as plain modules, at the sizes their papers and codes give.

No weights: what is asked of them is how many multiply-adds they do. Activations, pooling and
normalisation are there because they decide the sizes that the convolutions see.
"""

from itertools import pairwise

from torch import nn


def alexnet():
    """Krizhevsky, Sutskever and Hinton 2012: on two GPUs.

    The second, fourth and fifth layers see only the channels on their own GPU. The paper says
    224x224 with 11x11 at stride 4 and 55x55 places: a padding of 2 makes both true.
    """
    return nn.Sequential(
        *_block(3, 96, 11, stride=4, padding=2),
        nn.MaxPool2d(3, 2),
        *_block(96, 256, 5, padding=2, groups=2),
        nn.MaxPool2d(3, 2),
        *_block(256, 384, 3, padding=1),
        *_block(384, 384, 3, padding=1, groups=2),
        *_block(384, 256, 3, padding=1, groups=2),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        *_fully_connected(256 * 6 * 6, 4096, 4096, 1000),
    )


def alexnet_one_tower():
    """Krizhevsky 2014 ("One weird trick"): one GPU, narrower layers in place of two halves."""
    return nn.Sequential(
        *_block(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, 2),
        *_block(64, 192, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *_block(192, 384, 3, padding=1),
        *_block(384, 256, 3, padding=1),
        *_block(256, 256, 3, padding=1),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        *_fully_connected(256 * 6 * 6, 4096, 4096, 1000),
    )


def vgg16():
    """Simonyan and Zisserman 2014, configuration D."""
    layers, channels = [], 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _layer in range(depth):
            layers += _block(channels, width, 3, padding=1)
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), *_fully_connected(512 * 7 * 7, 4096, 4096, 1000))


def dqn(frames=3, actions=None):
    """Mnih et al. 2013; without `actions`, the layers that "AI and compute" adds up."""
    return nn.Sequential(
        *_block(frames, 16, 8, stride=4),
        *_block(16, 32, 4, stride=2),
        nn.Flatten(),
        *_fully_connected(32 * 9 * 9, 256, *([actions] if actions else [])),
    )


def resnet50(stride_in="1x1"):
    """He et al. 2015, 50 layers; see `ResNet`."""
    return ResNet((3, 4, 6, 3), stride_in)


def resnet152(stride_in="1x1"):
    """He et al. 2015, 152 layers; see `ResNet`."""
    return ResNet((3, 8, 36, 3), stride_in)


class ResNet(nn.Module):
    """A residual network of bottleneck blocks, with projections where the size changes.

    Args:
        depths: blocks of each of the four stages.
        stride_in: the convolution of a stage's first block that halves the image: "1x1" as in
            the paper and its code, "3x3" as in most later code ("v1.5").
    """

    def __init__(self, depths, stride_in):
        super().__init__()
        self.stem = nn.Sequential(
            *_normed(3, 64, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        )
        blocks, channels = [], 64
        for stage, depth in enumerate(depths):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(_Bottleneck(channels, 64 << stage, stride, stride_in))
                channels = 4 * (64 << stage)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class _Bottleneck(nn.Module):
    def __init__(self, channels, width, stride, stride_in):
        super().__init__()
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.branch = nn.Sequential(
            *_normed(channels, width, 1, stride=first),
            nn.ReLU(),
            *_normed(width, width, 3, stride=second, padding=1),
            nn.ReLU(),
            *_normed(width, 4 * width, 1),
        )
        self.shortcut = nn.Sequential(
            *(_normed(channels, 4 * width, 1, stride=stride) if channels != 4 * width else ())
        )

    def forward(self, x):
        return (self.branch(x) + self.shortcut(x)).relu()


def _block(*sizes, **options):
    return [nn.Conv2d(*sizes, **options), nn.ReLU()]


def _normed(channels, width, kernel, **options):
    return [nn.Conv2d(channels, width, kernel, bias=False, **options), nn.BatchNorm2d(width)]


def _fully_connected(*widths):
    """Linear layers with rectifiers between them."""
    layers = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]
