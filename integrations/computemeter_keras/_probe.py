"""Training steps of a Keras model, for a probe: `train_on_batch`, on the backend in use."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import keras
import numpy as np

from computemeter.planning._batches import mapped, resized
from computemeter.planning._trial import SMALL, Job, Pace
from computemeter.records import Count, Device
from computemeter_keras._backends import backend_of

_JUDGES = ("loss", "metrics", "weighted_metrics")
_HELD = (
    FunctionType,
    keras.constraints.Constraint,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
)
"""What a layer holds that a user may have made."""


def device_kind(_job: Job, device: str | None) -> str:
    """Return "cpu", or "gpu" where the backend computes on something else.

    Raises:
        ValueError: a device was asked for; Keras leaves the choice to its backend.
    """
    if device is not None:
        raise ValueError(f"device={device!r}: a Keras model is probed where its backend runs it")
    name = keras.backend.backend()
    if name == "jax":
        import jax

        return "cpu" if jax.local_devices()[0].platform == "cpu" else "gpu"
    if name == "tensorflow":
        import tensorflow as tf

        return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def environment() -> dict[str, str]:
    """Return what makes another process use the same backend, however it was chosen here."""
    return {"KERAS_BACKEND": keras.backend.backend()}


def save(job: Job, path: str) -> None:
    """Write the job as Keras does, with the classes and functions that are not its own."""
    _check(job)
    try:
        import cloudpickle as by_value  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ModuleNotFoundError:
        by_value = pickle
    parts = {
        "backend": keras.backend.backend(),
        "policy": keras.config.dtype_policy().name,
        "threads": _threads(),
        "own": _own_objects(job.model),
        "unnamed": _unnamed(job.model),
    }
    with _quiet():
        parts["job"] = by_value.dumps((job.model, _arrays(job.batch)))
    Path(path).write_bytes(by_value.dumps(parts))


def load(path: str) -> Job:
    """Read the job; the file is this package's own.

    Raises:
        RuntimeError: Keras has another backend here.
    """
    parts = pickle.loads(Path(path).read_bytes())  # noqa: S301
    if parts["backend"] != keras.backend.backend():
        raise RuntimeError(f"Keras runs on {keras.backend.backend()} there, not {parts['backend']}")
    keras.config.set_dtype_policy(parts["policy"])
    _set_threads(parts["threads"])
    with keras.saving.custom_object_scope(parts["own"]):
        model, batch = pickle.loads(parts["job"])  # noqa: S301
    return Job(_compiled_with(model, parts["unnamed"]), batch)


def copied(job: Job) -> Job:
    """Copy the model by saving it, as Keras copies its optimizer too."""
    _check(job)
    with keras.saving.custom_object_scope(_own_objects(job.model)), _quiet():
        model = _compiled_with(copy.deepcopy(job.model), copy.deepcopy(_unnamed(job.model)))
        return Job(model, _arrays(job.batch))


def trial(job: Job, _device: str | None) -> KerasTrial:
    """Make ready to train."""
    return KerasTrial(job)


class KerasTrial:
    """A copy of a model in training; see `computemeter.planning._trial.Trial`."""

    asynchronous = False  # `train_on_batch` returns numbers, and so waits for each step

    def __init__(self, job: Job) -> None:
        self.notes: list[str] = []
        self._model, self._batch = job.model, job.batch
        self._backend = keras.backend.backend()
        self._counter: Any = None
        self.device_name = _device().name

    def run(self, size: int, pace: Pace) -> None:
        """Train steps."""
        parts = self._parts(size)
        if self._backend == "torch" and not int(self._model.optimizer.iterations):
            self._model.train_on_batch(*parts)
            _age(self._model.optimizer)
        while pace.going():
            self._model.train_on_batch(*parts)

    def wait(self) -> None:
        """Wait for the last step's update, which nobody has read a number of."""
        if self._backend == "jax":
            import jax

            jax.block_until_ready([each.value for each in self._model.variables])
        elif self._backend == "tensorflow":
            import tensorflow as tf

            tf.test.experimental.sync_devices()
        else:
            import torch

            if torch.accelerator.is_available():
                torch.accelerator.synchronize()

    def count(self, size: int) -> Count | None:
        """Count one more step: live on PyTorch, from its program elsewhere."""
        parts, problems = self._parts(size), list[str]()
        backend = backend_of(self._model, problems.append)
        counter = backend.counter
        counter.start(_tensors(parts))
        try:
            self._model.train_on_batch(*parts)
        finally:
            found: Count | None = counter.stop()
        self.notes += problems
        return found

    def _parts(self, size: int) -> tuple[Any, ...]:
        """Return input, target and weights of so many examples, as far as they are there."""
        parts = keras.utils.unpack_x_y_sample_weight(resized(self._batch, size))
        parts = tuple(part for part in parts if part is not None)
        # `fit` gives PyTorch tensors, which losses and metrics may rely on; elsewhere tracing does.
        return _tensors(parts) if self._backend == "torch" else parts


def _age(optimizer: Any) -> None:
    """Leave no zero in what it keeps of each weight: see `age` of `planning/_torch_probe.py`."""
    for kept in optimizer.variables:
        if kept.shape and keras.backend.is_float_dtype(kept.dtype):
            kept.assign(keras.ops.where(kept == 0, SMALL, kept))


def _check(job: Job) -> None:
    if job.loss is not None or job.optimizer is not None:
        raise ValueError("a Keras model brings its own loss and optimizer: compile it with them")
    if not job.model.compiled:
        raise ValueError("the model is not compiled: call model.compile(optimizer, loss) first")


def _own_objects(model: Any) -> dict[str, Any]:
    """Return the classes and functions, by name, that Keras cannot find by itself."""
    layers = model._flatten_layers()  # noqa: SLF001 - no public name
    rate = getattr(model.optimizer, "_learning_rate", None)
    parts = [model, *layers, *_judges(model), model.optimizer, rate]
    parts += [each for layer in layers for each in vars(layer).values() if isinstance(each, _HELD)]
    named = [part if isinstance(part, type | FunctionType) else type(part) for part in parts]
    return {
        each.__name__: each
        for each in named
        if not each.__module__.startswith(("keras.", "builtins", "torch."))
    }


def _judges(model: Any, *names: str) -> list[Any]:
    """Return the losses and metrics that a model was compiled with."""
    given = model._compile_config.config  # noqa: SLF001 - no public name
    return keras.tree.flatten([given[name] for name in names or _JUDGES])  # type: ignore[no-any-return]


def _unnamed(model: Any) -> dict[str, Any]:
    """Return those arguments of `compile` with a lambda, which Keras keeps without its globals."""
    given = model._compile_config.config  # noqa: SLF001 - no public name
    return {
        name: given[name]
        for name in _JUDGES
        if any(getattr(each, "__name__", "") == "<lambda>" for each in _judges(model, name))
    }


def _compiled_with(model: Any, arguments: dict[str, Any]) -> Any:
    if arguments:
        model.compile(**{**model._compile_config.config, **arguments})  # noqa: SLF001 - no public name
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what Keras says of an optimizer that has not begun, and of a lambda."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _arrays(batch: Any) -> Any:
    return mapped(
        batch,
        lambda each: (
            keras.ops.convert_to_numpy(each) if keras.ops.is_tensor(each) else _as_array(each)
        ),
    )


def _as_array(value: Any) -> Any:
    return np.asarray(value) if hasattr(value, "__array__") else value


def _tensors(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(mapped(part, keras.ops.convert_to_tensor) for part in parts)


def _device() -> Device:
    from computemeter import devices

    name = keras.backend.backend()
    found: Device = getattr(devices, f"{name}_device")()
    return found


def _threads() -> int | None:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch and keras.backend.backend() == "torch" else None


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
