"""In which precision JAX computes a product: on which platform, and as the program asks."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from jax_programs import BF16, FULL, SQUARE, TF32, count, precisions, shape


@pytest.mark.parametrize(
    ("precision", "computed_in"),  # on each of the platforms
    [
        (None, (FULL, TF32, TF32, FULL, BF16)),
        ("default", (FULL, TF32, TF32, FULL, BF16)),
        ("tensorfloat32", (FULL, TF32, TF32, FULL, FULL)),  # another name of HIGH
        (lax.Precision.HIGH, (FULL, TF32, TF32, FULL, FULL)),
        (lax.Precision.HIGHEST, (FULL,) * 5),
        (("default", "highest"), (FULL,) * 5),
    ],
    ids=str,
)
def test_precision_of_float32(precision, computed_in):
    assert precisions(lambda x: jnp.matmul(x, x, precision=precision), SQUARE) == computed_in


@pytest.mark.parametrize("function", ["matmul", "convolve", "ragged_dot"])
def test_precision_of_the_session(function):
    function, argument = {
        "matmul": (lambda x: x @ x, SQUARE),
        "convolve": (convolve_signal, shape(1, 1, 8)),
        "ragged_dot": (ragged_product, SQUARE),
    }[function]
    assert precisions(function, argument) == (FULL, TF32, TF32, FULL, BF16)
    with jax.default_matmul_precision("high"):
        assert precisions(function, argument) == (FULL, TF32, TF32, FULL, FULL)
    with jax.default_matmul_precision("highest"):
        assert precisions(function, argument) == (FULL,) * 5


def convolve_signal(x):
    return lax.conv(x, jnp.ones((1, 1, 3)), (1,), "SAME")


def ragged_product(x):
    return lax.ragged_dot(x, jnp.ones((2, 4, 4)), jnp.array([1, 3], "int32"))


@pytest.mark.parametrize(
    ("algorithm", "dtype", "computed_in"),
    [
        ("TF32_TF32_F32", "float32", "tf32"),
        ("BF16_BF16_F32", "float32", "bfloat16"),
        ("BF16_BF16_BF16", "bfloat16", "bfloat16"),
        ("F16_F16_F32", "float32", "float16"),
        ("F32_F32_F32", "float32", "float32"),
        ("F32_F32_F32", "bfloat16", "float32"),
        ("F64_F64_F64", "float32", "float64"),
        ("ANY_F8_ANY_F8_F32", "float8_e5m2", "float8_e5m2"),
        # At neither the peak of bfloat16 nor that of float32.
        ("BF16_BF16_F32_X3", "float32", "bfloat16_x3"),
        (lax.DotAlgorithm("float16", "float16", "float32"), "float32", "float16"),
        (
            lax.DotAlgorithm("bfloat16", "bfloat16", "float32", num_primitive_operations=6),
            "float32",
            "bfloat16_x6",
        ),
    ],
    ids=str,
)
def test_precision_of_a_named_algorithm(algorithm, dtype, computed_in):
    multiply = lambda x: jnp.matmul(x, x, precision=algorithm)  # noqa: E731
    expected = (dtype, *[computed_in] * 4)
    assert precisions(multiply, shape(4, 4, dtype=dtype)) == expected


def test_precision_of_the_default_algorithm_is_the_default():
    default = lax.DotAlgorithmPreset.DEFAULT
    multiply = lambda x: jnp.matmul(x, x, precision=default)  # noqa: E731
    assert precisions(multiply, SQUARE) == (FULL, TF32, TF32, FULL, BF16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
def test_precision_rounds_float32_alone(dtype):
    assert precisions(lambda x: x @ x, shape(4, 4, dtype=dtype)) == (dtype,) * 5


def test_precision_of_factorisations_is_full():
    assert precisions(lax.linalg.cholesky, SQUARE) == (FULL,) * 5


def test_precision_reaches_inner_programs():
    def step(w, x):
        body = jax.checkpoint(jax.jit(lambda c: jnp.sin(c @ w)))
        turns = lax.scan(lambda c, _: (body(c), None), x, None, length=3)[0]
        return lax.cond(x[0, 0] > 0, lambda y: y @ w, lambda y: y, turns).sum()

    result = count(jax.value_and_grad(step), SQUARE, SQUARE, platform="gpu")
    assert result.by_dtype == {"tf32": result.model_flops}
    assert result.model_flops
