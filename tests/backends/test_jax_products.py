"""FLOPs of JAX's products and of its linear algebra, by hand."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from jax_programs import PRODUCT, SQUARE, count, flops, shape


@pytest.mark.parametrize(
    ("equation", "left", "right", "multiply_adds"),
    [
        ("mk,kn->mn", (3, 5), (5, 7), 3 * 5 * 7),
        ("bmk,bkn->bmn", (2, 3, 5), (2, 5, 7), 2 * 3 * 5 * 7),
        ("abk,kbc->ac", (3, 4, 5), (5, 4, 7), 3 * (4 * 5) * 7),
        ("i,i->", (9,), (9,), 9),
        ("i,j->ij", (9,), (4,), 9 * 4),
        ("mk,kn->mn", (0, 5), (5, 7), 0),
    ],
)
def test_dot_general(equation, left, right, multiply_adds):
    result = flops(lambda x, y: jnp.einsum(equation, x, y), shape(*left), shape(*right))
    assert result == 2 * multiply_adds


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int8"])
def test_dtype_is_that_of_the_inputs(dtype):
    narrow = shape(4, 4, dtype=dtype)
    result = count(lambda x, y: jnp.matmul(x, y, preferred_element_type="float32"), narrow, narrow)
    assert result.by_dtype == {dtype: PRODUCT}
    assert result.by_op == {"jax::dot_general": PRODUCT}


def test_complex_numbers_take_four_times_as_many():
    numbers = shape(4, 4, dtype="complex64")
    assert flops(jnp.matmul, numbers, numbers) == 4 * PRODUCT
    image = shape(1, 1, 8, dtype="complex64")
    kernel = shape(1, 1, 3, dtype="complex64")
    convolve = lambda x, w: lax.conv(x, w, (1,), "VALID")  # noqa: E731
    assert flops(convolve, image, kernel) == 8 * 6 * 3


def test_ragged_dot_and_its_gradients():
    def products(x, w):
        return lax.ragged_dot(x, w, jnp.array([3, 2, 4], "int32")).sum()

    # Each of 9 rows meets one of 3 matrices of 5 by 7.
    rows, matrices = shape(9, 5), shape(3, 5, 7)
    assert flops(products, rows, matrices) == 2 * 9 * 5 * 7
    both = jax.value_and_grad(products, argnums=(0, 1))
    assert flops(both, rows, matrices) == 3 * (2 * 9 * 5 * 7)


def test_scaled_products():
    from jax._src.cudnn import scaled_matmul_stablehlo as scaled

    narrow = shape(2, 32, 64, dtype="float8_e4m3fn")
    scales = shape(2, 32, 2, dtype="float8_e8m0fnu")
    multiply = lambda a, s: scaled._scaled_matmul_p_wrapper.bind(  # noqa: E731
        a, a, s, s, preferred_element_type=jnp.dtype("float32")
    )
    assert flops(multiply, narrow, scales) == 2 * 2 * 32 * 64 * 32


# Linear algebra.


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lax.linalg.cholesky, 6**3 // 3),
        (lambda a: lax.linalg.lu(a)[0], 2 * 6**3 // 3),
        (lambda a: jnp.linalg.qr(a, mode="r"), 2 * (4 * 6**3 // 3)),
        (lambda a: lax.linalg.triangular_solve(a, a[:, :2], left_side=True), 6 * 6 * 2),
        # LU, then two triangular systems of 2 columns.
        (lambda a: jnp.linalg.solve(a, a[:, :2]), 2 * 6**3 // 3 + 2 * (6 * 6 * 2)),
        (lambda a: lax.linalg.symmetric_product(a, a), 2 * 6 * 6 * 6),
    ],
    ids=["cholesky", "lu", "qr", "triangular", "solve", "symmetric"],
)
def test_factorisations(function, expected):
    assert flops(function, shape(6, 6)) == expected
    # Complex numbers need a conjugate that not all of them take.
    assert flops(jax.vmap(function), shape(3, 6, 6)) == 3 * expected


@pytest.mark.parametrize(
    ("function", "dtype", "expected"),
    [
        (jnp.fft.fft, "complex64", 2 * 5 * 8 * 3),
        (jnp.fft.rfft, "float32", 5 * 8 * 3),
        (lambda x: jnp.fft.irfft(x, 8), "complex64", 5 * 8 * 3),
        (jnp.fft.fft2, "complex64", 5 * 16 * 4),
    ],
    ids=["complex", "from real", "to real", "two axes"],
)
def test_fourier_transforms(function, dtype, expected):
    assert flops(function, shape(2, 8, dtype=dtype)) == expected


@pytest.mark.parametrize("function", [jnp.linalg.eigh, jnp.linalg.svd, jnp.linalg.eigvals])
def test_what_iterates_is_uncounted(function):
    assert count(function, SQUARE).uncounted_ops
