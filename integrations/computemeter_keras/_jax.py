"""Keras on JAX: a step is one traced program, and runs behind the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import keras

from computemeter.counters.jax_flops import count_jaxpr
from computemeter.counters.traced import TracedCounter
from computemeter.devices import jax_device
from computemeter.jax_clock import JaxClock
from computemeter.ranks import SoloRanks
from computemeter.records import Count
from computemeter_keras._backends import Parameters
from computemeter_keras._fit import Call, Fit, now


class KerasModel:
    """One Keras model on JAX."""

    def __init__(self, model: Any, warn: Callable[[str], None]) -> None:
        self._model = model
        self._results: Any = None
        devices = _devices()
        # AMD's GPUs are "gpu" too, and have no TF32.
        on_amd = "rocm" in devices[0].client.platform_version
        self._platform = "rocm" if on_amd else devices[0].platform
        self.device_clock = JaxClock()
        self.counter = TracedCounter(
            self._count,
            lambda: jax_device(devices[0]),
            Parameters(model),
            warn,
            dtype=model.compute_dtype,
        )
        # The program is that of all devices together; a host's cores are one device, however many
        # parts it has been told to show itself in.
        on_cpu = devices[0].platform == "cpu"
        hosts = {device.process_index for device in devices}
        self.ranks = SoloRanks(
            rank=jax.process_index(), devices=len(hosts) if on_cpu else len(devices)
        )

    def metered(self, call: Call, fit: Fit) -> Call:
        """Return the train function; it draws its batches from an iterator."""

        def train_function(state: Any, iterator: Any) -> Any:
            batches = _Watched(iterator, fit)
            self._results, state = call(state, batches)
            fit.end()
            fit.safely(self.device_clock.dispatched, batches.began, self._results)
            return self._results, state

        return train_function

    def settle(self) -> None:
        """Wait for the steps in flight; whatever comes next would have to wait for them too."""
        jax.block_until_ready(self._results)
        self._results = None

    def _count(self, batch: Any) -> Count:
        model = self._model
        state = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        # Shapes alone: by now the step has taken the arrays of the state for its results.
        shapes = [[_shape_of(variable) for variable in variables] for variables in state]
        with self.device_clock.own_trace():
            traced = jax.make_jaxpr(model.train_step)(
                tuple(shapes), jax.tree_util.tree_map(_shape_of, batch)
            )
        return count_jaxpr(traced, platform=self._platform)


class _Watched:
    """Passes batches on; a step lasts from one batch until the next is asked for.

    Attributes:
        began: when the first batch was there.
    """

    def __init__(self, batches: Iterator[Any], fit: Fit) -> None:
        self.began = 0.0
        self._batches, self._fit = batches, fit
        self._begun = False

    def __iter__(self) -> _Watched:
        return self

    def __next__(self) -> Any:
        if self._begun:
            self._fit.end()
            self._begun = False
        batch = self._fit.next_batch(self._batches)
        self.began = self.began or now()
        self._fit.begin(batch)
        self._begun = True
        return batch


def _shape_of(array: Any) -> Any:
    if not hasattr(array, "shape"):
        return array
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _devices() -> list[Any]:
    """Return the devices that the model is spread over; the default one without a distribution."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return [jax.local_devices()[0]]
    return list(distribution.device_mesh.backend_mesh.devices.flat)
