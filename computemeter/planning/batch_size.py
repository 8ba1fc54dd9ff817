"""What a larger batch asks of the learning rate, and where accuracy was reported to break.

The linear scaling rule is that of Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet
in 1 Hour", 2017 (arXiv:1706.02677). The batch sizes up to which it was reported to hold are those
of You et al., "ImageNet Training in Minutes", 2017 (arXiv:1709.05011, at first "100-epoch ImageNet
Training with AlexNet in 24 Minutes").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

LINEAR_SCALING = (
    "linear scaling: a batch k times as large takes k times the learning rate, with a warm-up over"
    " the first 5 epochs (Goyal et al. 2017, arXiv:1706.02677)"
)
"""The rule in one line."""


@dataclass(frozen=True, slots=True)
class BatchLimit:
    """The largest batch at which a network was reported to keep its accuracy with linear scaling.

    Attributes:
        network: its name.
        batch_size: examples of one step, all devices together.
        source: who reported it.
        with_lars: batch size that layer-wise rates (LARS) were reported to hold instead: You,
            Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017.
    """

    network: str
    batch_size: int
    source: str
    with_lars: int


LIMITS = (
    BatchLimit("AlexNet", 1024, "You et al. 2017, arXiv:1709.05011", 8192),
    BatchLimit("ResNet-50", 8192, "Goyal et al. 2017, arXiv:1706.02677", 32_768),
)
"""Both on ImageNet, with SGD and momentum."""

LARGEST_LIMIT = max(LIMITS, key=lambda limit: limit.batch_size)
"""What a network of which nothing was reported is compared with."""


def learning_rate_factor(batch_size: float, base_batch: float) -> float:
    """Return what linear scaling multiplies the learning rate by.

    >>> learning_rate_factor(8192, 256)
    32.0

    Args:
        batch_size: examples of one step, all devices together.
        base_batch: the batch size that the learning rate was found at.

    Raises:
        ValueError: one is not a finite number above 0.
    """
    for name, value in (("batch_size", batch_size), ("base_batch", base_batch)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return batch_size / base_batch


def limit_of(network: str | None) -> BatchLimit | None:
    """Return what was reported of a network, None where nothing was.

    >>> limit_of("resnet50").batch_size
    8192

    Args:
        network: letter case and punctuation do not matter; None where it is not known.
    """
    return next((each for each in LIMITS if _key(each.network) == _key(network or "")), None)


def is_past_limit(batch_size: int, network: str | None = None) -> bool:
    """Say whether a batch is larger than the network's limit, or than 8,192 for any other."""
    return batch_size > (limit_of(network) or LARGEST_LIMIT).batch_size


def limit_warning(batch_sizes: Iterable[int], network: str | None = None) -> str:
    """Return one line on the batches that are past what was reported; "" where none is.

    Args:
        batch_sizes: examples of one step, all devices together.
        network: "AlexNet" or "ResNet-50"; any other gets a general notice past 8,192.
    """
    past = sorted({size for size in batch_sizes if is_past_limit(size, network)})
    if not past:
        return ""
    which = f"batch {past[0]:,} is" if len(past) == 1 else f"batch {past[0]:,} and more are"
    own = limit_of(network)
    limit = own or LARGEST_LIMIT
    reported = (
        f"{which} past {limit.batch_size:,}, above which {limit.network} on ImageNet was reported"
        f" to lose accuracy with linear scaling ({limit.source})"
    )
    if own is None:
        return f"{reported}; the limit of other networks is not known, and may be lower"
    return (
        f"{reported}; LARS was reported to hold it up to {own.with_lars:,} (You, Gitman and"
        " Ginsburg 2017, arXiv:1708.03888)"
    )


def _key(network: str) -> str:
    return re.sub(r"[^a-z0-9]", "", network.casefold())
