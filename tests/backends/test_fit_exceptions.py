"""A Keras fit that raises: the user's exception arrives, and the meter counts what was done."""

import gc

import keras
import pytest
from keras_fits import (
    BACKEND,
    BATCH,
    PER_EXAMPLE,
    ROWS,
    X,
    Y,
    assert_as_found,
    assert_counted,
    at,
    batches,
    fit,
    meter,
    net,
)
from keras_job import ledgers_in

not_on_jax = pytest.mark.skipif(
    BACKEND == "jax", reason="Keras loses the model's state there, with a meter and without"
)


class UsersError(Exception):
    """What a user's code raises, which is all the user wants to hear of."""


class Breakable(keras.Model):
    """Breaks in its step when told to; steps run eagerly, so that each of them looks."""

    breaks = None

    def train_step(self, *args):
        if self.breaks is not None:
            raise self.breaks
        return super().train_step(*args)


@pytest.fixture
def breakable():
    return net(Breakable, run_eagerly=True)


def raise_(error):
    raise error


def break_in_step(model, error, callbacks, step=2):
    try:
        setter = at("on_train_batch_begin", step, lambda: setattr(model, "breaks", error))
        fit(model, callbacks=[*callbacks, setter])
    finally:
        model.breaks = None


def break_in_first_step(model, error, callbacks):
    break_in_step(model, error, callbacks, step=0)


def break_in_batch_end(model, error, callbacks):
    fit(model, callbacks=[*callbacks, at("on_train_batch_end", 1, lambda: raise_(error))])


def break_in_epoch_end(model, error, callbacks):
    fit(model, callbacks=[at("on_epoch_end", 0, lambda: raise_(error)), *callbacks])


def break_in_data(model, error, callbacks):
    def data():
        yield from batches(4, 4)
        raise error

    fit(model, data(), batch_size=None, callbacks=callbacks)


def caught(breaks, *args):
    try:
        breaks(*args)
    except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt is among them
        return error
    return None


IN_A_STEP = [
    (break_in_step, UsersError("of the user"), 2),
    (break_in_step, KeyboardInterrupt(), 2),
    pytest.param(break_in_first_step, UsersError("of the user"), 0, marks=not_on_jax),
]
ELSEWHERE = [
    (break_in_batch_end, UsersError("of the user"), 2),
    (break_in_epoch_end, UsersError("of the user"), 3),
    (break_in_data, UsersError("of the user"), 2),
]


def assert_recovers(model, watching, train_function, steps):
    """Fit without the meter, which is not metered, and with it, which is."""
    examples = min(steps * BATCH, ROWS)
    fit(model)
    assert_as_found(model, train_function)
    assert_counted(watching.summary(), examples * PER_EXAMPLE, steps)
    fit(model, callbacks=[watching])
    assert_as_found(model, train_function)
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 3)
    assert watching.summary().run_flops == (examples + ROWS) * PER_EXAMPLE


@pytest.mark.parametrize(("breaks", "error", "steps"), IN_A_STEP + ELSEWHERE)
def test_a_fit_that_raises(breakable, tmp_path, breaks, error, steps):
    """The failed fit's frames live on with its traceback, and its callbacks with them."""
    watching = meter(ledger=tmp_path)
    fit(breakable)
    train_function = breakable.train_function
    plain = caught(breaks, breakable, error, [])
    seen = caught(breaks, breakable, error, [watching])
    assert type(seen) is type(plain)
    if BACKEND == "tensorflow" and breaks is break_in_data:
        assert "UsersError: of the user" in str(seen)  # tf.data's own error, with the user's in it
    else:
        assert seen is error
    fit(breakable)  # by now the meter knows of the end wherever it came from
    (ledger,) = ledgers_in(tmp_path)
    assert ledger.status == ("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
    assert ledger.summary["steps"] == steps
    assert_recovers(breakable, watching, train_function, steps)


@pytest.mark.parametrize(("breaks", "error", "steps"), ELSEWHERE)
def test_a_fit_that_raises_outside_of_its_steps_ends_when_it_is_let_go(
    breakable, tmp_path, breaks, error, steps
):
    watching = meter(ledger=tmp_path)
    fit(breakable)
    train_function = breakable.train_function
    seen = caught(breaks, breakable, error, [watching])
    assert isinstance(seen, Exception)
    del seen
    error.__traceback__ = error.__context__ = None
    gc.collect()
    (ledger,) = ledgers_in(tmp_path)
    assert ledger.status == "failed"
    assert ledger.summary["steps"] == steps
    assert_as_found(breakable, train_function)
    assert_recovers(breakable, watching, train_function, steps)


def test_a_metered_fit_right_after_one_that_raised(breakable, tmp_path):
    """The stale wrapper must not count the new fit's steps a second time."""
    watching = meter(ledger=tmp_path)
    error = caught(break_in_epoch_end, breakable, UsersError(), [watching])
    for each in (watching, meter(ledger=tmp_path)):
        fit(breakable, callbacks=[each])
        assert_counted(each.summary(), ROWS * PER_EXAMPLE, 3)
    assert isinstance(error, UsersError)
    assert [ledger.status for ledger in ledgers_in(tmp_path)] == ["failed", "finished", "finished"]


def test_a_loop_that_raises(breakable, tmp_path):
    watching = meter(ledger=tmp_path)

    def loop():
        with watching.training(breakable):
            breakable.train_on_batch(X, Y)
            raise KeyboardInterrupt

    assert isinstance(caught(loop), KeyboardInterrupt)
    assert [ledger.status for ledger in ledgers_in(tmp_path)] == ["interrupted"]
    assert_counted(watching.summary(), ROWS * PER_EXAMPLE, 1)
