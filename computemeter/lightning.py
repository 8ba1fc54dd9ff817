"""The door to the Lightning callback: `from computemeter.lightning import ComputeMeter`."""

from computemeter_lightning import ComputeMeter

__all__ = ["ComputeMeter"]
