"""What runs of a TensorFlow graph, and how often: functions, loops, branches, recomputation."""

import pytest
import tensorflow as tf
from tf_graphs import SQUARE, count, f, flops, gradients, loop

from computemeter.counters import tf_values


def test_what_nobody_needs_is_not_counted():
    def function(a, b):
        tf.matmul(a, b)
        return a

    assert flops(function, f(2, 3), f(3, 5)) == 0


def test_what_a_side_effect_needs_is_counted():
    def function(a, b):
        tf.print(tf.matmul(a, b))
        return a

    assert flops(function, f(2, 3), f(3, 5)) == 60


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}])
def test_functions_and_what_is_used_of_them(options):
    @tf.function(**options)
    def inner(a, b):
        return tf.matmul(a, b), tf.matmul(b, a)

    assert flops(lambda a, b: inner(a, b)[0], f(2, 5), f(5, 2)) == 40  # 2 * 2*5*2
    assert flops(inner, f(2, 5), f(5, 2)) == 140  # and 2 * 5*2*5


LOOPS = {
    "up": (loop(0, lambda i, _: i < 7, lambda i: i + 1), 7),
    "down by 3": (loop(10, lambda i, _: i > 0, lambda i: i - 3), 4),
    "doubling": (loop(1.0, lambda i, _: i <= 64, lambda i: i * 2), 7),
    "maximum": (loop(0, lambda *_: True, lambda i: i, maximum_iterations=5), 5),
    "both": (loop(0, lambda i, _: i < 7, lambda i: i + 1, maximum_iterations=5), 5),
    "as many as rows": (loop(0, lambda i, x: i < tf.shape(x)[0], lambda i: i + 1), 3),
    "never": (loop(5, lambda i, _: i < 5, lambda i: i + 1), 0),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_counts_for_each_trip(name):
    function, trips = LOOPS[name]
    assert flops(function, SQUARE) == trips * 54
    # For the gradient the loop runs forward and back, with two products a step.
    assert flops(gradients(function), SQUARE) == trips * 54 * 3


def test_loops_written_in_python():
    def function(x):
        for step in tf.range(2, 14, 3):  # 2, 5, 8, 11
            x = x @ x @ x if step > 100 else x @ x
        return x

    assert flops(function, SQUARE) == 4 * 108  # the branch that takes more


def test_nested_loops_multiply_and_so_do_their_gradients():
    inner = loop(0, lambda i, _: i < 2, lambda i: i + 1)

    def function(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, inner(y)), (0, x))[1]

    assert flops(function, SQUARE) == 3 * 2 * 54
    counted = count(gradients(function), SQUARE)
    assert not counted.uncounted_ops
    assert counted.model_flops == 3 * 2 * 54 * 3


def test_loops_that_data_ends_are_listed():
    until = loop(0, lambda i, x: tf.cast(i, x.dtype) < x[0, 0], lambda i: i + 1)
    assert count(until, SQUARE).uncounted_ops == {"tf::While": 1}
    bounded = loop(
        0, lambda i, x: tf.cast(i, x.dtype) < x[0, 0], lambda i: i + 1, maximum_iterations=9
    )
    assert count(bounded, SQUARE).uncounted_ops == {"tf::While": 1}


def test_loops_too_long_to_follow_are_listed(monkeypatch):
    monkeypatch.setattr(tf_values, "MOST_TRIPS", 6)
    counted = count(loop(0, lambda i, _: i < 7, lambda i: i + 1), SQUARE)
    assert (counted.model_flops, counted.uncounted_ops) == (0, {"tf::While": 1})


def test_loops_whose_counter_cannot_be_followed_are_listed(monkeypatch):
    def fail(*_args):
        raise ZeroDivisionError

    monkeypatch.setitem(tf_values._FOLDED, "Less", fail)
    counted = count(LOOPS["up"][0], SQUARE)
    assert (counted.model_flops, counted.uncounted_ops) == (0, {"tf::While": 1})


def test_loops_without_products_are_not_listed():
    def function(x):
        return tf.while_loop(lambda y: y < x, lambda y: y * 2, (tf.constant(1.0),))

    assert flops(function, f()) == 0


def test_loops_keep_what_is_listed_inside():
    def function(x):
        return tf.while_loop(
            lambda i, _: i < 4, lambda i, y: (i + 1, tf.linalg.svd(y @ y)[1]), (0, x)
        )[1]

    counted = count(function, SQUARE)
    assert counted.model_flops == 4 * 54
    assert counted.uncounted_ops == {"tf::Svd": 4}


def test_conditionals_count_the_branch_that_takes_most():
    def either(a, b):
        return tf.cond(a[0, 0] > 0, lambda: a @ b, lambda: a @ b @ a @ b)

    def one_of(a, b):
        branches = [lambda: a, lambda: a @ b @ b, lambda: a @ b]
        return tf.switch_case(tf.cast(a[0, 0], tf.int32), branches)

    assert flops(either, SQUARE, SQUARE) == 3 * 54
    assert flops(one_of, SQUARE, SQUARE) == 2 * 54


def test_recomputed_loops():
    weights = tf.Variable(tf.zeros((3, 3)))
    repeat = loop(0, lambda i, _: i < 5, lambda i: i + 1)

    def function(x):
        with tf.GradientTape() as tape:
            result = tf.recompute_grad(lambda x: repeat(tf.nn.relu(x @ weights)))(x)
        return tape.gradient(result, weights)

    counted = count(function, SQUARE)
    # Forward: one product, which nothing needs of the first time; again: it and the loop's 5;
    # backward: 10 in the loop, one for the weights.
    assert counted.model_flops == 11 * 54
    assert counted.hardware_flops == (6 + 11) * 54


def test_work_that_waits_for_a_gradient_is_no_recomputation():
    def function(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = x @ w
        gradient = tape.gradient(loss, w)
        with tf.control_dependencies([gradient]):
            return tf.identity(x) @ w, gradient

    counted = count(function, SQUARE, SQUARE)
    assert counted.model_flops == counted.hardware_flops == 2 * 54
