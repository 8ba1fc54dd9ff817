"""Keras on TensorFlow: a step is one traced graph, and what it is fed can be seen beforehand.

One step at a time, the batch is drawn here and handed on. Several steps in one execution draw
their own batches within the graph, where a variable adds up how many there were and how large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import tensorflow as tf

from computemeter.counters.tf_flops import count_graph
from computemeter.counters.traced import TracedCounter
from computemeter.devices import tensorflow_device
from computemeter.ranks import SoloRanks
from computemeter.records import Count
from computemeter.tensorflow_clock import TensorflowClock
from computemeter_keras._backends import Parameters
from computemeter_keras._executions import Executions, Sizes
from computemeter_keras._fit import Call, Fit


class KerasModel:
    """One Keras model on TensorFlow."""

    def __init__(self, model: Any, warn: Callable[[str], None]) -> None:
        self._model, self._warn = model, warn
        self._strategy = model.distribute_strategy
        on_cpu = not tf.config.list_logical_devices("GPU")
        self.device_clock = TensorflowClock(on_cpu=on_cpu)
        self.counter = TracedCounter(
            self._count,
            tensorflow_device,
            Parameters(model),
            warn,
            dtype=model.compute_dtype,
        )
        self.ranks = _ranks(self._strategy, on_cpu=on_cpu)

    def settle(self) -> None:
        """Do nothing: a step is over when it returns, or what follows does not wait for it."""

    def metered(self, call: Call, fit: Fit) -> Call:
        """Return the train function; it draws its batches from an iterator."""
        if self._model.steps_per_execution > 1:
            return self._many_steps(call, fit)
        return self._one_step(call, fit)

    def _one_step(self, call: Call, fit: Fit) -> Call:
        new = True

        def train_function(iterator: Any) -> Any:
            nonlocal new
            batch = fit.next_batch(iterator)
            fit.begin(fit.safely(self._spread, batch))
            if new:
                new = False
                with suppress(Exception):  # what the user's step raises, the call will raise again
                    _trace_as_usual(call, iterator)
            logs = call(_Noted([batch], getattr(iterator, "element_spec", None)))
            fit.end()
            return logs

        return train_function

    def _many_steps(self, call: Call, fit: Fit) -> Call:
        usual = call
        while Fit.of(usual) is not None:  # another meter, in the same fit
            usual = usual.__wrapped__  # type: ignore[attr-defined]
        executions = Executions.of(self._model, usual)
        sizes = Sizes(executions)
        run = executions.call if call is usual else call

        def train_function(iterator: Any) -> Any:
            fit.begin_execution()
            specs, noted = getattr(iterator, "element_spec", None), _Noted(iterator)
            # An iterator of Python's own has no specs, and is drawn from by Python, step by step.
            logs = run(noted if specs is None else iterator)
            fit.end_execution(lambda: self._batches(sizes.new(), specs, noted))
            return logs

        return train_function

    def _batches(self, sizes: list[int], specs: Any, noted: _Noted) -> list[Any]:
        """Return the batches of an execution, or stand-ins where only their sizes are known."""
        if specs is None:
            return [self._spread(batch) for batch in noted.batches]
        return [self._stand_in(specs, size) for size in sizes]

    def _stand_in(self, specs: Any, size: int) -> Any:
        replicas = self._strategy.num_replicas_in_sync
        sizes = [size // replicas + (replica < size % replicas) for replica in range(replicas)]
        batch = tf.nest.map_structure(lambda spec: _sized(spec, sizes), specs)
        return _Spread(tf.TensorSpec([size]), batch) if replicas > 1 else batch

    def _spread(self, batch: Any) -> Any:
        """Return the batch with its size over all replicas, which none of its parts has."""
        if self._strategy.num_replicas_in_sync == 1:
            return batch
        parts = self._strategy.experimental_local_results(tf.nest.flatten(batch)[0])
        return _Spread(tf.TensorSpec([sum(part.shape[0] for part in parts)]), batch)

    def _count(self, batch: Any) -> Count:
        data = batch.parts if isinstance(batch, _Spread) else batch
        step = tf.function(
            lambda data: self._strategy.run(self._model.train_step, (data,)), autograph=False
        )
        return count_graph(step.get_concrete_function(data).graph, tf32=_uses_tf32())


class _Noted:
    """Passes batches on, and keeps them.

    Args:
        batches: to draw from.
        element_spec: of the iterator that they come from.
    """

    def __init__(self, batches: Iterable[Any], element_spec: Any = None) -> None:
        self._batches = iter(batches)
        self.element_spec = element_spec
        self.batches: list[Any] = []

    def __iter__(self) -> _Noted:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        self.batches.append(batch)
        return batch


class _Spread(NamedTuple):
    """A batch over several replicas, for the meter to name it by."""

    whole: Any
    parts: Any


def _sized(spec: Any, sizes: list[int]) -> Any:
    """Fill in a spec's first dimension, replica by replica, where it has one that is not known."""
    if isinstance(spec, tf.TensorSpec):
        if not spec.shape.rank or spec.shape[0] is not None:
            return spec
        return tf.TensorSpec([sizes[0], *spec.shape[1:]], spec.dtype)
    if type(spec).__name__ != "PerReplicaSpec":
        return spec
    parts = zip(spec._component_specs, sizes, strict=True)  # noqa: SLF001 - it has no public name
    return type(spec)(*[_sized(part, [size]) for part, size in parts])


def _trace_as_usual(call: Call, iterator: Any) -> None:
    """Trace Keras's step for batches of any size, as it is when Keras draws them in the graph.

    A batch handed on from here has one size, and TensorFlow would trace for that first, and again
    when another comes: other graphs than without the meter, and more of them.
    """
    names = getattr(getattr(call, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(call, "__closure__", None) or (), strict=True))
    spec = getattr(iterator, "element_spec", None)
    if "one_step_on_data" not in cells or spec is None:
        return
    step: Any = getattr(cells["one_step_on_data"].cell_contents, "__wrapped__", None)
    if hasattr(step, "get_concrete_function"):  # not when run eagerly
        step.get_concrete_function(spec)


def _uses_tf32() -> bool:
    """Say whether TensorFlow may round float32 to TF32, as it does on NVIDIA's GPUs by default."""
    return (
        bool(tf.config.list_logical_devices("GPU"))
        and tf.test.is_built_with_cuda()
        and tf.config.experimental.tensor_float_32_execution_enabled()
    )


def _ranks(strategy: Any, *, on_cpu: bool) -> SoloRanks:
    resolver = strategy.cluster_resolver
    workers = max(1, len(resolver.cluster_spec().as_dict().get("worker", []))) if resolver else 1
    rank = (resolver.task_id or 0) if resolver else 0
    # The cores of a host are one device, in however many parts they are shown.
    devices = workers if on_cpu else strategy.num_replicas_in_sync
    return SoloRanks(rank, workers, devices)
