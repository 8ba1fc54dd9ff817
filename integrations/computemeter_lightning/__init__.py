"""The compute meter as a callback of a Lightning Trainer, of either import namespace."""

import computemeter_lightning._namespace  # noqa: F401  # first: it says so where Lightning is missing
from computemeter_lightning._callback import ComputeMeter

__all__ = ["ComputeMeter"]
