"""What the frameworks' own profilers say of a Keras training step, beside a count by hand.

    python benchmarks/keras_profilers.py            # writes docs/keras-profilers.md
    python benchmarks/keras_profilers.py --print    # prints the page, writes nothing

XLA's cost analysis of the compiled step on JAX, `tf.compat.v1.profiler` on the step's graph on
TensorFlow, and `ComputeMeter` in a `fit` of one step on both. Each backend has its own process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

# As a script, Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring.running import answer_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "keras-profilers.md"
BATCH, CLASSES, FEATURES, UNITS = 32, 10, 16, 32
JAX, TENSORFLOW = "jax", "tensorflow"
# What a backend's process returns: a number of FLOPs for each net and way to count it.
Found = Mapping[str, Mapping[str, int]]


# By hand: a multiply-add is 2, contractions only, forward and backward. The first layer's input
# has no gradient; every other product costs the same again for each of its two factors.

_MLP_INPUT = 2 * BATCH * 784 * 256  # 12,845,056
_MLP_REST = 2 * BATCH * (256 * 256 + 256 * CLASSES)  # 4,358,144
_TO_GATES = 2 * BATCH * FEATURES * 4 * UNITS  # 131,072 for each moment
_RECURRENT = 2 * BATCH * UNITS * 4 * UNITS  # 262,144 for each moment
_CLASSIFIER = 2 * BATCH * UNITS * CLASSES  # 20,480


def lstm_by_hand(moments: int) -> int:
    """Count the LSTM; the gradient of its state is taken at every moment, the first included."""
    return moments * (2 * _TO_GATES + 3 * _RECURRENT) + 3 * _CLASSIFIER


@dataclass(frozen=True, slots=True)
class Case:
    """A net, and its training step by hand."""

    title: str
    flops: int
    shape: tuple[int, ...]
    layers: Callable[[Any], list[Any]]

    def build(self) -> tuple[Any, Any, Any]:
        """Return the net, with its inputs and labels."""
        import keras
        import numpy as np

        keras.utils.set_random_seed(0)
        net = keras.Sequential([keras.Input(self.shape), *self.layers(keras.layers)])
        net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        inputs = np.random.default_rng(0).normal(size=(BATCH, *self.shape))
        return net, inputs.astype("float32"), np.arange(BATCH, dtype="int32") % CLASSES


def _lstm(title: str, moments: int, flops: int, *, unroll: bool = False) -> Case:
    return Case(
        title,
        flops,
        (moments, FEATURES),
        lambda layers: [layers.LSTM(UNITS, unroll=unroll), layers.Dense(CLASSES)],
    )


MLP, LSTM, LONGER, UNROLLED = (
    Case(
        "MLP 784-256-256-10",
        2 * _MLP_INPUT + 3 * _MLP_REST,  # 38,764,544
        (784,),
        lambda layers: [
            layers.Dense(256, "relu"),
            layers.Dense(256, "relu"),
            layers.Dense(CLASSES),
        ],
    ),
    _lstm("LSTM 32, 20 moments", 20, lstm_by_hand(20)),  # 21,032,960
    _lstm("LSTM 32, 40 moments", 40, lstm_by_hand(40)),  # 42,004,480
    # Without a loop it is seen that nobody wants the gradient of the first state.
    _lstm("LSTM 32, 20 moments, unrolled", 20, lstm_by_hand(20) - _RECURRENT, unroll=True),
)
CASES = (MLP, LSTM, LONGER, UNROLLED)


# In the process of a backend.


def ours(case: Case) -> int:
    """Count a step as users do."""
    from computemeter.keras import ComputeMeter

    net, inputs, labels = case.build()
    meter = ComputeMeter(verbose=0, ledger=None, trackers=None)
    net.fit(inputs, labels, batch_size=BATCH, verbose=0, callbacks=[meter])
    summary = meter.summary()
    if summary.model_flops is None or summary.counted_steps != 1 or summary.uncounted_ops:
        raise RuntimeError(f"{case.title}: not one step counted completely: {summary}")
    return summary.model_flops


def on_jax() -> dict[str, dict[str, int]]:
    """Ask XLA; a product of two vectors shows whether it counts pointwise work."""
    import jax

    found = {}
    for case in CASES:
        net, *batch = case.build()
        net.optimizer.build(net.trainable_variables)
        variables = (
            net.trainable_variables,
            net.non_trainable_variables,
            net.optimizer.variables,
            net.metrics_variables,
        )
        state = tuple([each.value for each in group] for group in variables)
        found[case.title] = {"ours": ours(case), "xla": _xla(net.train_step, state, tuple(batch))}
    vector = jax.numpy.ones(1000)
    found["pointwise"] = {"xla": _xla(lambda a, b: a * b, vector, vector)}
    return found


def _xla(function: Callable[..., Any], *args: Any) -> int:
    import jax

    return int(jax.jit(function).lower(*args).compile().cost_analysis()["flops"])


def on_tensorflow() -> dict[str, dict[str, int]]:
    """Ask TensorFlow's profiler, in all and for its products of matrices."""
    import tensorflow as tf

    found = {}
    for case in CASES:
        net, *batch = case.build()
        step = tf.function(net.train_step, autograph=False)
        graph = step.get_concrete_function(tuple(map(tf.constant, batch))).graph
        by_op = _profile(graph)
        loops = sum(op.type in {"While", "StatelessWhile"} for op in graph.get_operations())
        found[case.title] = {
            "ours": ours(case),
            "profiler": sum(by_op.values()),
            "products": by_op.get("MatMul", 0) + by_op.get("BatchMatMulV2", 0),
            "loops": loops,
        }
    return found


def _profile(graph: Any) -> dict[str, int]:
    import tensorflow as tf

    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    node = profiler.profile(graph, cmd="op", options=options.with_empty_output().build())
    total, by_op = node.total_float_ops, {}
    while node.children:  # each holds the next
        (node,) = node.children
        by_op[str(node.name)] = int(node.float_ops)
    if sum(by_op.values()) != total:
        raise RuntimeError(f"the profiler's operators add up to {by_op} and not to {total}")
    return by_op


# The page.


def measure(backend: str) -> Found:
    """Count on one backend, in a fresh process."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    found: Found = answer_of("keras_profilers", ("--on", backend), environment)
    return found


def cell(flops: int, by_hand: int) -> str:
    """Show a count with its error."""
    error = flops / by_hand - 1
    return f"{flops:,} ({'exact' if flops == by_hand else f'{error:+.1%}'})"


def table(jax: Found, tensorflow: Found) -> list[str]:
    """Lay all counts out beside those by hand."""
    header = (
        "training step",
        "by hand",
        "computemeter, JAX",
        "computemeter, TensorFlow",
        "XLA `cost_analysis`",
        "`tf.compat.v1.profiler`",
        "of that: products of matrices",
    )
    rows: list[Sequence[str]] = [header, ["---", *["---:"] * (len(header) - 1)]]
    for case in CASES:
        mine, theirs = jax[case.title], tensorflow[case.title]
        counts = mine["ours"], theirs["ours"], mine["xla"], theirs["profiler"], theirs["products"]
        rows.append((case.title, f"{case.flops:,}", *(cell(count, case.flops) for count in counts)))
    return [f"| {' | '.join(row)} |" for row in rows]


def why(jax: Found, tensorflow: Found) -> str:
    """Say why they differ, as long as that is what was measured."""
    xla, profiler = jax[LSTM.title]["xla"], tensorflow[LSTM.title]["products"]
    outside = _TO_GATES + _RECURRENT + 3 * _CLASSIFIER
    holds = (
        xla == jax[LONGER.title]["xla"],
        jax[UNROLLED.title]["xla"] >= UNROLLED.flops,
        jax["pointwise"]["xla"] == 1000,
        profiler == tensorflow[LONGER.title]["products"] == outside,
        tensorflow[LSTM.title]["loops"] == 2,
        all(tensorflow[case.title]["products"] == case.flops for case in (MLP, UNROLLED)),
    )
    if not all(holds):
        raise RuntimeError(f"the paragraph does not fit what was measured ({holds}): rewrite it")
    return (
        "XLA's figure holds the body of a loop once, however often it runs: it is the same "
        f"{xla:,} for 20 and for 40 moments, {xla / LSTM.flops:.1%} and {xla / LONGER.flops:.1%} "
        "of the truth; unrolled, the LSTM has no loop, and nothing is missing. XLA also counts "
        "pointwise work (the product of two vectors of 1,000: 1,000), which "
        "computemeter leaves out; so it is above the count by hand where there is no loop, by "
        f"{jax[MLP.title]['xla'] - MLP.flops:,} for the MLP (the excess was not taken apart "
        "further). TensorFlow's profiler reads the operators of the step's graph; an LSTM's two "
        "loops, forward and backward, are one operator each there and count nothing. "
        f"The {profiler:,} FLOPs of products that it does find are the "
        f"classifier's {3 * _CLASSIFIER:,} and {_TO_GATES + _RECURRENT:,} of one cell that Keras "
        "places before the loop to learn the shape of its output; nothing asks for its result. "
        "Without a loop its products are exact; what it adds to them is pointwise work again."
    )


def page() -> str:
    """Count everything and write the page."""
    jax, tensorflow = measure(JAX), measure(TENSORFLOW)
    packages = "computemeter", "keras", "jax", "jaxlib", "tensorflow-cpu"
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return "\n".join(
        [
            "# Keras: the frameworks' own profilers on the same training step",
            "",
            f"Written by `python benchmarks/keras_profilers.py` on {datetime.now(UTC):%Y-%m-%d},",
            f"on a CPU: Python {platform.python_version()}, {versions}.",
            "",
            f"One step of SGD on {BATCH} examples, ending in Dense {CLASSES}; an LSTM has",
            f"{FEATURES} features and {UNITS} units. *By hand*: FLOPs of contractions, 2 for a",
            "multiply-add, forward and backward; the script has the arithmetic. In brackets the",
            "error against that. Unrolled, the gradient of the LSTM's first state is not taken.",
            "",
            *table(jax, tensorflow),
            "",
            "Why they differ. " + why(jax, tensorflow),
            "",
        ]
    )


def main() -> None:
    """Write the page, print it, or be the process of a backend."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--print", action="store_true", help="print the page, write nothing")
    parser.add_argument("--on", choices=(JAX, TENSORFLOW), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.on:
        print(json.dumps(on_jax() if options.on == JAX else on_tensorflow()))
    elif options.print:
        print(page())
    else:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
