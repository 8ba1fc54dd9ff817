"""Many steps in one TensorFlow execution, seen through a variable in the step itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_ATTRIBUTE = "_computemeter_executions"


class Executions:
    """A model's train function, made anew so that each step adds itself and its examples up.

    What the steps compute stays as it is. TensorFlow would trace a new function again, so it is
    kept with the model for its next fit.

    The sums are read after every execution, which on a GPU waits for it: the host cannot prepare
    the next one meanwhile. On the CPU they could not be kept: XLA compiles the step for one device.
    """

    def __init__(self, model: Any, usual: Any) -> None:
        self.usual = usual
        self._strategy = model.distribute_strategy
        with self._strategy.scope():
            self._sums = tf.Variable(
                tf.zeros([2], tf.int64),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
        self.call = self._make(model)

    @classmethod
    def of(cls, model: Any, usual: Any) -> Executions:
        """Return those of the model's train function, made once for each.

        Raises:
            NotImplementedError: the train function is not Keras's own, so it cannot be made anew.
        """
        code = getattr(usual, "__code__", None)
        if "multi_step_on_iterator" not in getattr(code, "co_freevars", ()):
            raise NotImplementedError(
                "several steps to an execution are metered in Keras's own train function, and this "
                "model has another"
            )
        known = vars(model).get(_ATTRIBUTE)
        if isinstance(known, Executions) and known.usual is usual:
            return known
        made = cls(model, usual)
        # Past Keras's tracking of attributes: it is no part of the model.
        vars(model)[_ATTRIBUTE] = made
        return made

    def total(self) -> tuple[int, int]:
        """Return how many steps ran, and how many examples they had, over all replicas."""
        steps, examples = (int(each) for each in self._total())
        return steps // self._strategy.num_replicas_in_sync, examples

    def _total(self) -> Any:
        if self._strategy.num_replicas_in_sync == 1:
            return self._sums.numpy()
        return self._strategy.reduce("SUM", self._sums, axis=None).numpy()

    def _make(self, model: Any) -> Callable[..., Any]:
        step, sums, before = model.train_step, self._sums, model.train_function

        def train_step(data: Any) -> Any:
            sums.assign_add(tf.stack([tf.constant(1, tf.int64), _examples_in(data)]))
            return step(data)

        # The model must not keep it: Keras binds the step when it makes the function.
        vars(model)["train_step"] = train_step
        try:
            # The class's own: the object's may be a meter's, which would wrap what it makes.
            type(model).make_train_function(model, force=True)
            made: Callable[..., Any] = model.train_function
            return made
        finally:
            del vars(model)["train_step"]
            model.train_function = before


class Sizes:
    """The batch sizes of one fit's steps, as its executions go by.

    Args:
        executions: of the model; what ran in them before is not this fit's.
    """

    def __init__(self, executions: Executions) -> None:
        self._executions = executions
        self._seen = executions.total()
        self._full = 0

    def new(self) -> list[int]:
        """Return the batch sizes of the steps since the last call, over all replicas.

        Their number and sum are known; a batch that is not full comes last.

        Raises:
            ValueError: the batches have no examples that could be told.
        """
        now = self._executions.total()
        steps, examples = now[0] - self._seen[0], now[1] - self._seen[1]
        self._seen = now
        if steps and not examples:
            raise ValueError("the data has no dense tensor, so the size of a batch is not known")
        return self._split(steps, examples)

    def _split(self, steps: int, examples: int) -> list[int]:
        if not steps:
            return []
        rest = examples - (steps - 1) * self._full
        if not 0 < rest <= self._full:  # the first execution, or batches of any size
            each, more = divmod(examples, steps)
            self._full = max(self._full, each + bool(more))
            return [each + (step < more) for step in range(steps)]
        return [self._full] * (steps - 1) + [rest]


def _examples_in(data: Any) -> Any:
    """Return how many examples a batch has: the first dimension of its first tensor with one.

    A dimension that is known when the step is traced may be anything: one that is not comes first.
    """
    leaves = [leaf for leaf in tf.nest.flatten(data) if isinstance(leaf, tf.Tensor)]
    leaves = [leaf for leaf in leaves if leaf.shape.rank != 0]
    for leaf in sorted(leaves, key=lambda leaf: leaf.shape[0] is not None):
        return tf.shape(leaf, tf.int64)[0]
    return tf.constant(0, tf.int64)
