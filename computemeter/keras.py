"""The door to the Keras callback: `from computemeter.keras import ComputeMeter`."""

from computemeter_keras import ComputeMeter

__all__ = ["ComputeMeter"]
