"""The compute meter as a callback of a Lightning Trainer, of either import namespace."""

from computemeter_lightning._callback import ComputeMeter

__all__ = ["ComputeMeter"]
