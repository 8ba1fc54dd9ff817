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
        self._seen = [0, 0]
        self._full = 0
        self.call = self._make(model)

    @classmethod
    def of(cls, model: Any, usual: Any) -> Executions:
        """Return those of the model's train function, made once for each."""
        known = vars(model).get(_ATTRIBUTE)
        if isinstance(known, Executions) and known.usual is usual:
            return known
        made = cls(model, usual)
        # Past Keras's tracking of attributes: it is no part of the model.
        vars(model)[_ATTRIBUTE] = made
        return made

    def sizes(self) -> list[int]:
        """Return the batch sizes of the steps since the last call, over all replicas.

        Their number and sum are known; a batch that is not full comes last.
        """
        now = [int(each) for each in self._total()]
        steps = (now[0] - self._seen[0]) // self._strategy.num_replicas_in_sync
        examples = now[1] - self._seen[1]
        self._seen = now
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

    def _total(self) -> Any:
        if self._strategy.num_replicas_in_sync == 1:
            return self._sums.numpy()
        return self._strategy.reduce("SUM", self._sums, axis=None).numpy()

    def _make(self, model: Any) -> Callable[..., Any]:
        step, sums = model.train_step, self._sums

        def train_step(data: Any) -> Any:
            examples = tf.shape(tf.nest.flatten(data)[0], tf.int64)[0]
            sums.assign_add(tf.stack([tf.constant(1, tf.int64), examples]))
            return step(data)

        # The model must not keep it: Keras binds the step when it makes the function.
        vars(model)["train_step"] = train_step
        try:
            model.make_train_function(force=True)
            made: Callable[..., Any] = model.train_function
            return made
        finally:
            del vars(model)["train_step"]
            model.train_function = self.usual
