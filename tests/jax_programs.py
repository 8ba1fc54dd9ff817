"""Programs of JAX for the tests that count them, and what is asked of every count."""

import jax

from computemeter.counters.jax_flops import count_jaxpr

# One product of two 4x4 matrices.
PRODUCT = 2 * 4 * 4 * 4


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


SQUARE = shape(4, 4)


def count(function, *arguments, **options):
    return count_jaxpr(jax.make_jaxpr(function)(*arguments), **options)


def flops(function, *arguments):
    result = count(function, *arguments)
    assert not result.uncounted_ops
    assert sum(result.by_op.values()) == sum(result.by_dtype.values()) == result.model_flops
    assert type(result.model_flops) is type(result.hardware_flops) is int
    return result.model_flops


PLATFORMS = ["cpu", "gpu", "cuda", "rocm", "tpu"]
TF32, BF16, FULL = "tf32", "bfloat16", "float32"


def precisions(function, argument):
    counts = [count(function, argument, platform=platform) for platform in PLATFORMS]
    assert count(function, argument) == counts[0]
    return tuple(" ".join(each.by_dtype) for each in counts)
