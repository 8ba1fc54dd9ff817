"""The FLOPs of a JAX program, from its jaxpr: what `jax.make_jaxpr` returns.

Every equation that runs is counted once for each time that it runs: a scan's body times its
length, the dearest branch of a `cond`, the body of a `shard_map` once per device. A `while` whose
number of turns is not in the program goes on the list if it contracts anything.

Dead code is not counted: XLA removes it. What `jax.checkpoint` repeats in the backward pass is
hardware work only. (With `prevent_cse=False` XLA may find that it has those values and not repeat
it; the count says what the program asks for.)
"""

from __future__ import annotations

from typing import Any, Literal

from jax.interpreters.partial_eval import dce_jaxpr

from computemeter.counters.jax_formulas import FORMULAS
from computemeter.counters.jax_primitives import CALLS, LISTED, ZEROS
from computemeter.counters.jax_walk import CONTROL_FLOW, opened, tally_of
from computemeter.records import Count

PrimitiveClass = Literal["formula", "recursed", "zero", "listed"]


def count_jaxpr(jaxpr: Any, platform: str = "cpu") -> Count:
    """Count a program: `jax.make_jaxpr(train_step)(state, batch)`, closed or not.

    Args:
        jaxpr: the program.
        platform: what it will run on: "cpu", "gpu" or "cuda" (NVIDIA's), "rocm" or "tpu". JAX
            calls an AMD GPU "gpu" too; its client's `platform_version` tells. It matters for
            `by_dtype`: where float32 is rounded to TF32 or bfloat16 (see `jax_precision`), that
            is what is in there.

    >>> import jax
    >>> x = jax.ShapeDtypeStruct((32, 784), "float32")
    >>> w = jax.ShapeDtypeStruct((784, 256), "float32")
    >>> count_jaxpr(jax.make_jaxpr(jax.numpy.matmul)(x, w)).model_flops
    12845056
    """
    program = opened(jaxpr)
    consts = getattr(jaxpr, "consts", ())
    live, _used = dce_jaxpr(program, used_outputs=True)
    tally = tally_of(live, consts, platform)
    if tally.recomputed:
        dead = tally_of(program, consts, platform).model
        dead.subtract(tally.model)
        tally.reclaim(dead)
    return tally.count()


def classify(primitive: str) -> PrimitiveClass | None:
    """Say what a primitive is to the counter; None for one it does not know.

    An unknown one is recursed into if it holds one program, and else is on the list.
    """
    if primitive in FORMULAS:
        return "formula"
    if primitive in CALLS or primitive in CONTROL_FLOW:
        return "recursed"
    if primitive in ZEROS:
        return "zero"
    return "listed" if primitive in LISTED else None
