"""Counts of JAX programs against numbers derived by hand.

Run with KERAS_BACKEND=jax.
"""

from __future__ import annotations

import importlib

import pytest

jax = pytest.importorskip("jax")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "jax":
    pytest.skip("needs KERAS_BACKEND=jax", allow_module_level=True)

from jax import lax  # noqa: E402
from jax import numpy as jnp  # noqa: E402
from jax.extend.core import Primitive  # noqa: E402
from keras import layers  # noqa: E402

from computemeter.counters import jax_formulas, jax_walk  # noqa: E402
from computemeter.counters.jax_flops import classify, count_jaxpr  # noqa: E402
from computemeter.counters.jax_primitives import CALLS, LISTED, ZEROS  # noqa: E402

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


# --- Keras: the training step of six models, B=32 -------------------------------------------------


def step_flops(shape_in, *stack):
    model = keras.Sequential([keras.Input(shape_in), *stack, layers.Dense(10)])
    return flops_of_model(model, shape_in)


def flops_of_model(model, shape_in):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    batch = shape(32, *shape_in), shape(32, dtype="int32")
    model._symbolic_build(data_batch=batch)
    model.optimizer.build(model.trainable_variables)
    state = [
        [shape(*v.shape, dtype=str(v.dtype)) for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    return flops(model.train_step, tuple(state), batch)


def test_keras_mlp():
    first, second, last = (2 * 32 * weights for weights in (784 * 256, 256 * 256, 256 * 10))
    # Each layer forward and for its weight; the input's gradient for all but the first.
    derived = 2 * first + 3 * second + 3 * last
    assert derived == 38_764_544
    stack = [layers.Dense(256, activation="relu"), layers.Dense(256, activation="relu")]
    assert step_flops((784,), *stack) == derived


@pytest.mark.parametrize(
    ("padding", "stride", "first_side", "second_side", "derived"),
    [("same", 2, 32, 16, 283_176_960), ("valid", 1, 30, 28, 743_460_864)],
)
def test_keras_cnn(padding, stride, first_side, second_side, derived):
    first = 2 * 32 * first_side**2 * (3 * 3 * 3 * 16)
    second = 2 * 32 * second_side**2 * (3 * 3 * 16 * 32)
    assert 2 * first + 3 * second + 3 * (2 * 32 * 32 * 10) == derived
    stack = [
        layers.Conv2D(16, 3, padding=padding),
        layers.Conv2D(32, 3, padding=padding, strides=stride),
        layers.GlobalAveragePooling2D(),
    ]
    assert step_flops((32, 32, 3), *stack) == derived


def test_keras_depthwise_grouped_and_transposed():
    positions = 2 * 32 * 32 * 32
    first = positions * (3 * 3 * 8 * 16)
    depthwise = positions * (3 * 3 * 16)
    grouped = positions * (3 * 3 * (16 // 4) * 32)
    transposed = positions * (3 * 3 * 32 * 16)  # at the positions of its input
    derived = 2 * first + 3 * (depthwise + grouped + transposed + 2 * 32 * 16 * 10)
    assert derived == 1_311_799_296
    stack = [
        layers.Conv2D(16, 3, padding="same"),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Conv2D(32, 3, padding="same", groups=4),
        layers.Conv2DTranspose(16, 3, strides=2, padding="same"),
        layers.GlobalAveragePooling2D(),
    ]
    assert step_flops((32, 32, 8), *stack) == derived


def test_keras_lstm():
    rows = 2 * 20 * 32  # steps times examples
    from_input, from_state = rows * 4 * 32 * 16, rows * 4 * 32 * 32
    derived = 2 * from_input + 3 * from_state + 3 * (2 * 32 * 32 * 10)
    assert derived == 21_032_960
    assert step_flops((20, 16), layers.LSTM(32)) == derived


def test_keras_multi_head_attention():
    projection = 2 * 32 * 16 * 64 * 64
    scores_and_values = 2 * (32 * 4 * 16 * 16) * (16 + 16)
    # Query, key and value are projections of the input, which needs no gradient.
    derived = (3 * 2 + 3) * projection + 3 * scores_and_values + 3 * (2 * 32 * 64 * 10)
    assert derived == 44_163_072
    inputs = keras.Input((16, 64))
    attended = layers.MultiHeadAttention(4, 16)(inputs, inputs)
    outputs = layers.Dense(10)(layers.GlobalAveragePooling1D()(attended))
    assert flops_of_model(keras.Model(inputs, outputs), (16, 64)) == derived


# --- Products -------------------------------------------------------------------------------------


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


PLATFORMS = ["cpu", "gpu", "cuda", "rocm", "tpu"]
TF32, BF16, FULL = "tf32", "bfloat16", "float32"


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


def precisions(function, argument):
    counts = [count(function, argument, platform=platform) for platform in PLATFORMS]
    assert count(function, argument) == counts[0]
    return tuple(" ".join(each.by_dtype) for each in counts)


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


# --- Convolutions: forward, and the gradients of both operands ------------------------------------


def pullback(function, operand):
    """The gradient of one operand; the forward pass is dead code."""

    def gradient(x, w):
        out, pull = jax.vjp(function, x, w)
        return pull(jnp.ones_like(out))[operand]

    return gradient


def assert_each_costs(expected, function, image, kernel):
    parts = function, pullback(function, 0), pullback(function, 1)
    assert [flops(part, image, kernel) for part in parts] == [expected] * 3


LAYOUTS = {
    1: ("NWC", "WIO", "NWC"),
    2: ("NCHW", "OIHW", "NCHW"),
    3: ("NDHWC", "DHWIO", "NDHWC"),
}


def operands(dimensions, side, kernel, channels, *, out, inner):
    if LAYOUTS[dimensions][0][1] == "C":
        return (
            shape(2, channels, *[side] * dimensions),
            shape(out, inner, *[kernel] * dimensions),
        )
    return shape(2, *[side] * dimensions, channels), shape(*[kernel] * dimensions, inner, out)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("window", [(3, 1, 1), (3, 2, 1), (4, 3, 1), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_convolution(dimensions, window, groups, padding):
    kernel, stride, dilation = window

    def convolve(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            (stride,) * dimensions,
            [(padding, padding)] * dimensions,
            rhs_dilation=(dilation,) * dimensions,
            dimension_numbers=LAYOUTS[dimensions],
            feature_group_count=groups,
        )

    span = (kernel - 1) * dilation + 1
    positions = ((6 + 2 * padding - span) // stride + 1) ** dimensions
    image, weight = operands(dimensions, 6, kernel, 4, out=8, inner=4 // groups)
    expected = 2 * 2 * positions * (kernel**dimensions * (4 // groups) * 8)
    assert_each_costs(expected, convolve, image, weight)


def test_kernel_larger_than_the_image():
    def convolve(x, w):
        return lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    # One position, whose other taps are padding.
    image, weight = shape(2, 2, 2, 3), shape(7, 7, 3, 5)
    assert_each_costs(2 * 2 * (7 * 7 * 3 * 5), convolve, image, weight)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(("side", "kernel"), [(1, 2), (4, 3), (2, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_transposed_convolution(dimensions, side, kernel, stride, padding):
    def convolve(x, w):
        return lax.conv_transpose(
            x,
            w,
            (stride,) * dimensions,
            padding,
            dimension_numbers=LAYOUTS[dimensions],
            transpose_kernel=True,
        )

    # The kernel is that of the convolution from 6 channels to 4 that this one transposes.
    image, weight = operands(dimensions, side, kernel, 4, out=4, inner=6)
    expected = 2 * 2 * side**dimensions * (kernel**dimensions * 4 * 6)
    assert_each_costs(expected, convolve, image, weight)


def test_transposed_convolution_with_an_unflipped_kernel():
    def convolve(x, w):
        return lax.conv_transpose(x, w, (2,), "VALID", dimension_numbers=LAYOUTS[1])

    assert_each_costs(2 * 2 * 5 * (3 * 4 * 6), convolve, shape(2, 5, 4), shape(3, 4, 6))


def test_batch_groups():
    def convolve(x, w):
        return lax.conv_general_dilated(x, w, (1,), "VALID", batch_group_count=2)

    # 4 examples in 2 groups: of each half of the 6 output features, 2 examples.
    image, weight = shape(4, 3, 9), shape(6, 3, 3)
    assert_each_costs(2 * 2 * 7 * (6 * 3 * 3), convolve, image, weight)


def test_convolutions_of_many_kernels_at_once():
    def convolve(x, w):
        return lax.conv(x, w, (2, 2), "SAME")

    many = jax.vmap(convolve)
    image, weight = shape(5, 2, 3, 8, 8), shape(5, 4, 3, 3, 3)
    assert_each_costs(5 * 2 * 2 * (4 * 4) * (4 * 3 * 3 * 3), many, image, weight)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_convolution_of_signals(mode):
    # 3 taps at each position of the result; beyond the signal's ends there is nothing to multiply.
    positions = {"full": 20, "same": 20, "valid": 18}[mode]
    convolve = lambda x, w: jnp.convolve(x, w, mode=mode)  # noqa: E731
    assert flops(convolve, shape(20), shape(3)) == 2 * 3 * positions


def test_flipped_kernel_across_calls():
    inner = jax.jit(lambda x, w: lax.conv(x, w.astype("float32"), (1, 1), "VALID"))

    @jax.jit
    def gradient_of_input(g, w):
        flipped = jnp.flip(w, (2, 3)).astype("float16").swapaxes(0, 1)
        return inner(jnp.pad(g, [(0, 0), (0, 0), (2, 2), (2, 2)]), flipped)

    # 4x4 positions, padded here by hand to 8x8, of which 6x6 come out.
    assert flops(gradient_of_input, shape(1, 5, 4, 4), shape(5, 3, 3, 3)) == 2 * 36 * (5 * 3 * 9)

    def step(x, w):
        return inner(jnp.sin(x), w).sum()

    both = jax.value_and_grad(step, argnums=(0, 1))
    assert flops(both, shape(1, 3, 6, 6), shape(5, 3, 3, 3)) == 3 * (2 * 16 * (5 * 3 * 9))


def test_resampling_by_a_fraction_is_uncounted():
    def resample(x, w):
        return lax.conv_general_dilated(x, w, (2,), [(1, 1)], lhs_dilation=(3,))

    result = count(resample, shape(1, 1, 9), shape(1, 1, 3))
    assert result.uncounted_ops == {"jax::conv_general_dilated": 1}
    assert result.model_flops == 0


# --- Control flow ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse):
    def loop(x, w):
        return lax.scan(lambda c, _: (c @ w, None), x, None, length=7, reverse=reverse)[0].sum()

    assert flops(loop, SQUARE, SQUARE) == 7 * PRODUCT
    both = jax.value_and_grad(loop, argnums=(0, 1))
    assert flops(both, SQUARE, SQUARE) == 3 * 7 * PRODUCT
    # The first input's gradient is not needed, those of the six states are.
    assert flops(jax.value_and_grad(loop, argnums=1), SQUARE, SQUARE) == 3 * 7 * PRODUCT


def test_scan_of_no_turns_leaves_nothing_uncounted():
    def loop(x):
        return lax.scan(lambda c, _: (jnp.linalg.eigh(c)[1], None), x, None, length=0)

    assert flops(loop, SQUARE) == 0


def test_training_steps_in_a_loop_of_convolutions_for_each_example():
    def loss(w, x):
        return jnp.square(lax.conv(x[None], w, (2, 2), "SAME")).sum()

    def steps(w, x):
        per_example = jax.vmap(jax.grad(loss), (None, 0))
        return lax.fori_loop(0, 3, lambda _, w: w - per_example(w, x).mean(0), w)

    # 3 steps of 5 examples, 4x4 positions, forward and for the weight.
    expected = 3 * 2 * (2 * 5 * 16 * (4 * 3 * 9))
    assert flops(steps, shape(4, 3, 3, 3), shape(5, 3, 8, 8)) == expected


def test_cond_takes_its_dearest_branch():
    def choose(i, x):
        return lax.switch(i, [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x], x)

    assert flops(choose, shape(dtype="int32"), SQUARE) == 2 * PRODUCT


def test_cond_lists_what_any_branch_leaves_uncounted():
    def choose(i, x):
        return lax.cond(i > 0, lambda x: x @ x, lambda x: jnp.linalg.eigh(x)[1], x)

    result = count(choose, shape(dtype="int32"), SQUARE)
    assert (result.model_flops, result.uncounted_ops) == (PRODUCT, {"jax::eigh": 1})


@pytest.mark.parametrize(
    ("condition", "step", "start", "turns"),
    [
        (lambda i: i < 10, 3, 0, 4),  # 0, 3, 6, 9
        (lambda i: i <= 8, 4, 0, 3),  # 0, 4, 8
        (lambda i: i > 0, -1, 5, 5),
        (lambda i: i >= 0, -2, 5, 3),  # 5, 3, 1
        (lambda i: i != 6, 2, 0, 3),
        (lambda i: i < 0, 1, 0, 0),
        (lambda i: jnp.int32(10) > i, 5, 0, 2),
    ],
)
def test_while_with_a_provable_number_of_turns(condition, step, start, turns):
    def loop(x):
        return lax.while_loop(
            lambda c: condition(c[0]), lambda c: (c[0] + step, c[1] @ c[1]), (start, x)
        )

    assert flops(loop, SQUARE) == turns * PRODUCT


def test_fori_loop_with_a_bound_from_outside():
    @jax.jit
    def loop(x, n):
        return lax.fori_loop(2, n, lambda _, c: c @ c, x)

    assert flops(lambda x: loop(x, 7), SQUARE) == 5 * PRODUCT
    assert count(loop, SQUARE, shape(dtype="int32")).uncounted_ops == {"jax::while": 1}


@pytest.mark.parametrize(
    ("condition", "step"),
    [
        (lambda c: c[1].sum() < 5, lambda i: i + 1),
        (lambda c: c[0] < 5, lambda i: i * 2),
        (lambda c: c[0] < 5, lambda i: i - 1),
        (lambda c: (c[0] < 5) & (c[1].sum() > 0), lambda i: i + 1),
    ],
    ids=["unknown condition", "doubled", "moves away", "two conditions"],
)
def test_while_with_unknown_turns_is_uncounted_only_where_it_contracts(condition, step):
    def loop(x, body):
        return lax.while_loop(condition, lambda c: (step(c[0]), body(c[1])), (1, x))

    twice = lambda x: lax.map(lambda y: loop(y, lambda z: z @ z), jnp.stack([x, x]))  # noqa: E731
    assert count(twice, SQUARE).uncounted_ops == {"jax::while": 2}
    assert flops(lambda x: loop(x, jnp.sin), SQUARE) == 0


def test_shard_map_runs_on_every_device():
    mesh = jax.sharding.AbstractMesh((2, 3), ("rows", "idle"))
    spec = jax.sharding.PartitionSpec

    def run(axes):
        function = jax.shard_map(
            lambda x, w: x @ w,
            mesh=mesh,
            in_specs=(spec("rows"), spec()),
            out_specs=spec("rows"),
            axis_names=axes,
        )
        return flops(jax.jit(function), SQUARE, SQUARE)

    assert run({"rows"}) == PRODUCT
    assert run({"rows", "idle"}) == 3 * PRODUCT  # thrice the same


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint])
def test_calls(wrap):
    assert flops(wrap(lambda x: x @ x), SQUARE) == PRODUCT


def test_custom_forward_derivative():
    @jax.custom_jvp
    def square(x):
        return x @ x

    square.defjvp(lambda x, t: (x[0] @ x[0], t[0] @ x[0] + x[0] @ t[0]))
    assert flops(square, SQUARE) == PRODUCT
    assert flops(lambda x: jax.jvp(square, (x,), (x,)), SQUARE) == 3 * PRODUCT


def test_custom_gradient_and_its_dead_part():
    @jax.custom_vjp
    def multiply(x, w):
        return x @ w

    multiply.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    loss = lambda x, w: multiply(x, w).sum()  # noqa: E731
    assert flops(jax.value_and_grad(loss, argnums=(0, 1)), SQUARE, SQUARE) == 3 * PRODUCT
    assert flops(jax.value_and_grad(loss, argnums=1), SQUARE, SQUARE) == 2 * PRODUCT


def test_dead_code_is_not_counted():
    def unused(x, w):
        _ = x @ w
        kept, _ = lax.scan(lambda c, _: ((c[0] @ w, c[1] @ w @ w), None), (x, x), None, length=3)
        return kept[0]

    assert flops(unused, SQUARE, SQUARE) == 3 * PRODUCT


# --- Recomputation --------------------------------------------------------------------------------


def two_layers(w, x):
    return jnp.sin(jnp.sin(x @ w) @ w)


def checkpointed(**options):
    wrapped = jax.checkpoint(two_layers, **options)
    return lambda w, x: wrapped(w, x).sum()


def test_checkpoint_repeats_in_hardware_only():
    result = count(jax.value_and_grad(checkpointed()), SQUARE, SQUARE)
    # Forward 2, weights' gradients 2, the second layer's input 1; again forward 2.
    assert (result.model_flops, result.hardware_flops) == (5 * PRODUCT, 7 * PRODUCT)


def test_checkpoint_policy_repeats_less():
    policy = jax.checkpoint_policies.dots_saveable
    result = count(jax.value_and_grad(checkpointed(policy=policy)), SQUARE, SQUARE)
    assert result.model_flops == result.hardware_flops == 5 * PRODUCT


def test_checkpoint_whose_first_run_is_dead_repeats_nothing():
    # Without the value, only the backward pass runs the layers.
    result = count(jax.grad(checkpointed()), SQUARE, SQUARE)
    assert result.model_flops == result.hardware_flops == 5 * PRODUCT


def test_checkpoint_in_a_scan():
    def loss(w, x):
        layer = jax.checkpoint(jax.jit(two_layers), prevent_cse=False)
        return lax.scan(lambda c, _: (layer(w, c), None), x, None, length=3)[0].sum()

    result = count(jax.jit(jax.value_and_grad(loss)), SQUARE, SQUARE)
    # Inside the loop no one knows that the first turn's input needs no gradient.
    assert (result.model_flops, result.hardware_flops) == (18 * PRODUCT, 24 * PRODUCT)


# --- Linear algebra -------------------------------------------------------------------------------


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


# --- cuDNN's fused layers -------------------------------------------------------------------------


def attention(name, layout, mask, offsets=(1,)):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    # 2 examples, 3 heads, 8 queries, 16 keys, size 32.
    sizes = [(2, 8, 3, 32), (2, 16, 3, 32)] if layout == 0 else [(2, 3, 8, 32), (2, 3, 16, 32)]
    query, key = (shape(*each, dtype="bfloat16") for each in sizes)
    params = {
        "scale": 1.0,
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),
        "mask_type": cudnn.MaskType(mask),
        "layout": layout,
        "sliding_window_length": None,
    }
    nothing = shape(0)
    first = [query, key, key, nothing, nothing, nothing, shape(*offsets), *[nothing] * 3]
    if name == "fwd":
        params["is_training"] = True
    else:
        first += [shape(2, 3, 8), query, query]
    primitive = getattr(cudnn, f"_dot_product_attention_{name}_p_wrapper")
    return count(lambda *args: primitive.bind(*args, **params), *first)


@pytest.mark.parametrize("layout", [0, 1])
def test_cudnn_attention(layout):
    scores = 2 * (2 * 3 * 8 * 16) * 32
    forward, backward = attention("fwd", layout, 0), attention("bwd", layout, 0)
    assert forward.model_flops == forward.hardware_flops == 2 * scores
    assert (backward.model_flops, backward.hardware_flops) == (4 * scores, 5 * scores)
    assert forward.by_dtype == {"bfloat16": 2 * scores}
    assert forward.causal_flops == backward.causal_flops == 0


def test_cudnn_attention_with_a_causal_mask():
    seen = 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8
    masked = 2 * (2 * 3 * (8 * 16 - seen)) * (32 + 32)
    assert attention("fwd", 0, 2).causal_flops == masked
    assert attention("bwd", 1, 3).causal_flops == 2 * masked


def test_cudnn_attention_over_packed_sequences_is_uncounted():
    name = "jax::dot_product_attention_fwd_wrapper"
    assert attention("fwd", 0, 1, offsets=(2, 5)).uncounted_ops == {name: 1}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_cudnn_lstm(monkeypatch, bidirectional):
    rnn = importlib.import_module("jax.experimental.rnn")

    class Sizes:
        @staticmethod
        def compute_rnn_workspace_reserve_space_sizes(*_args):
            return 0, 1

    monkeypatch.setattr(rnn, "gpu_rnn", Sizes)
    ways = 2 if bidirectional else 1

    def loss(x, weights):
        state = jnp.zeros((ways * 3, 4, 8))
        lengths = jnp.full((4,), 5, "int32")
        return rnn.lstm(x, state, state, weights, lengths, 6, 8, 3, 0.0, bidirectional)[0].sum()

    # 5 steps of 4 examples, 4 gates of 8 units; the later layers read all directions' units.
    first = 2 * 20 * (4 * 8) * (6 + 8)
    later = 2 * 20 * (4 * 8) * (ways * 8 + 8)
    forward = ways * (first + 2 * later)
    weights = shape(rnn.get_num_params_in_lstm(6, 8, 3, bidirectional))
    assert flops(loss, shape(4, 5, 6), weights) == forward
    assert flops(jax.value_and_grad(loss, argnums=1), shape(4, 5, 6), weights) == 3 * forward
    both = lambda x: jax.grad(loss, argnums=1)(x, jnp.zeros(weights.shape))  # noqa: E731
    assert precisions(both, shape(4, 5, 6))[:2] == (FULL, TF32)
    with jax.default_matmul_precision("highest"):
        assert precisions(both, shape(4, 5, 6))[:2] == (FULL, FULL)


# --- Zeros, the list and what goes wrong ----------------------------------------------------------


def test_pointwise_reductions_lookups_and_random_numbers_are_zeros():
    def much(x, i):
        noise = jax.random.normal(jax.random.key(0), x.shape)
        pooled = lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 1), "SAME")
        picked = jnp.cumsum(jnp.sort(x[i] + noise), 0).at[i].add(1.0)
        return jax.nn.softmax(picked) + pooled, lax.approx_max_k(x, 2), jax.scipy.special.gammaln(x)

    result = count(much, SQUARE, shape(4, dtype="int32"))
    assert (result.model_flops, result.uncounted_ops, result.by_op) == (0, {}, {})


def test_callbacks_and_kernels_are_uncounted_as_often_as_they_run():
    def call_back(x):
        ask = lambda c: jax.pure_callback(lambda y: y, SQUARE, c)  # noqa: E731
        return lax.scan(lambda c, _: (ask(c), None), x, None, length=3)[0]

    assert count(call_back, SQUARE).uncounted_ops == {"jax::pure_callback": 3}

    from jax.experimental import pallas

    def multiply(x_ref, out_ref):
        out_ref[...] = x_ref[...] @ x_ref[...]

    kernel = pallas.pallas_call(multiply, out_shape=SQUARE)
    result = count(lambda x: kernel(x) @ x, SQUARE)
    assert (result.model_flops, result.uncounted_ops) == (PRODUCT, {"jax::pallas_call": 1})


def unknown(name, **params):
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda x, **_: x)
    return lambda x: primitive.bind(x, **params)


def test_unknown_primitive_is_uncounted():
    mystery = unknown("mystery")
    result = count(lambda x: mystery(x) @ x, SQUARE)
    assert (result.model_flops, result.uncounted_ops) == (PRODUCT, {"jax::mystery": 1})


def test_unknown_primitive_with_one_program_is_read():
    program = jax.make_jaxpr(lambda x: x @ x)(SQUARE)
    assert flops(unknown("wrapper", what=program), SQUARE) == PRODUCT
    assert flops(unknown("nested", what=({"body": program.jaxpr},)), SQUARE) == PRODUCT


def test_unknown_primitive_with_several_programs_is_uncounted_if_they_contract():
    dear, free = (jax.make_jaxpr(f)(SQUARE) for f in (lambda x: x @ x, jnp.sin))
    several = count(unknown("several", what=(dear, free)), SQUARE)
    assert (several.model_flops, several.uncounted_ops) == (0, {"jax::several": 1})
    assert flops(unknown("several", what=(free, free)), SQUARE) == 0


def test_formula_that_fails_loses_only_its_own_equations(monkeypatch):
    def broken(_call):
        raise ZeroDivisionError

    monkeypatch.setitem(jax_formulas.FORMULAS, "cholesky", broken)
    result = count(lambda x: lax.linalg.cholesky(x) @ x, SQUARE)
    assert (result.model_flops, result.uncounted_ops) == (PRODUCT, {"jax::cholesky": 1})


def test_control_flow_that_is_not_as_expected_is_uncounted(monkeypatch):
    def broken(*_args):
        raise KeyError("length")

    monkeypatch.setitem(jax_walk.CONTROL_FLOW, "scan", broken)
    result = count(lambda x: lax.scan(lambda c, _: (c @ c, None), x @ x, None, length=2), SQUARE)
    assert (result.model_flops, result.uncounted_ops) == (PRODUCT, {"jax::scan": 1})


def registered_primitives():
    from jax._src.interpreters import ad, mlir, partial_eval

    for module in ("rnn", "sparse", "checkify", "pallas", "pallas.tpu", "pallas.triton"):
        importlib.import_module(f"jax.experimental.{module}")
    for module in ("fused_attention_stablehlo", "scaled_matmul_stablehlo", "fusion"):
        importlib.import_module(f"jax._src.cudnn.{module}")
    tables = [mlir._lowerings, *mlir._platform_specific_lowerings.values()]
    tables += [ad.primitive_jvps, ad.primitive_transposes, partial_eval.dce_rules]
    return {primitive.name for table in tables for primitive in table}


def test_every_primitive_of_jax_is_classified():
    names = registered_primitives()
    assert len(names) > 250
    unclassified = {name for name in names if classify(name) is None}
    assert not unclassified


def test_a_primitive_has_one_class():
    classes = [
        set(jax_formulas.FORMULAS),
        set(jax_walk.CONTROL_FLOW),
        set(CALLS),
        set(ZEROS),
        set(LISTED),
    ]
    assert sum(map(len, classes)) == len(set.union(*classes))
    kinds = {"formula", "recursed", "zero", "listed"}
    assert {classify(name) for group in classes for name in group} == kinds


def test_open_and_closed_programs_count_the_same():
    closed = jax.make_jaxpr(lambda x: x @ x)(SQUARE)
    assert count_jaxpr(closed) == count_jaxpr(closed.jaxpr)
    assert count_jaxpr(closed).model_flops == PRODUCT
