"""FLOPs of JAX's loops, branches, calls and recomputation, by hand."""

import jax
import pytest
from jax import lax
from jax import numpy as jnp
from jax_programs import PRODUCT, SQUARE, count, flops, shape


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


# Recomputation.


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
