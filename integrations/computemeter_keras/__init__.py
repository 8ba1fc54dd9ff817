"""The compute meter as a callback of a Keras 3 `fit`, on TensorFlow, JAX and PyTorch."""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise  # Keras is there, and its backend is not: that message is Keras's
    raise ModuleNotFoundError(
        "ComputeMeter needs Keras 3 and one of its backends: pip install 'computemeter[keras]'"
    ) from None

from computemeter_keras._callback import ComputeMeter

__all__ = ["ComputeMeter"]
