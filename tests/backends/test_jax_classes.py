"""Every primitive of JAX is counted, free or on the list; what goes wrong is on the list."""

import importlib

import jax
from jax import lax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax_programs import PRODUCT, SQUARE, count, flops, shape

from computemeter.counters import jax_formulas, jax_walk
from computemeter.counters.jax_flops import classify, count_jaxpr
from computemeter.counters.jax_primitives import CALLS, LISTED, ZEROS


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
