"""The compute meter as a callback of a Keras 3 `fit`, on TensorFlow, JAX and PyTorch."""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name in {"jax", "tensorflow", "torch"}:
        raise ModuleNotFoundError(
            f"Keras is set to run on {error.name}, which is not installed: pip install "
            f"{error.name}, or set KERAS_BACKEND to jax, tensorflow or torch, whichever is there",
            name=error.name,
        ) from None
    if error.name != "keras":
        raise
    raise ModuleNotFoundError(
        "ComputeMeter needs Keras 3 and one of its backends: pip install 'computemeter[keras]'"
    ) from None

from computemeter_keras._callback import ComputeMeter

__all__ = ["ComputeMeter"]
