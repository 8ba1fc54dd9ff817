"""Steps that do not end as they should: exceptions in the user's code, modes left open."""

import pytest
import torch
from meter_loops import PER_EXAMPLE, backward, batches, net, quiet, train
from small_runs import BATCH
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode


@pytest.mark.parametrize(
    "kind", [ValueError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit, RuntimeError]
)
@pytest.mark.parametrize("before", [0, 5], ids=["in a counted step", "in a later step"])
def test_an_exception_passes_through_and_its_step_is_not_booked(kind, before):
    model, data = net(), batches(*[BATCH] * (before + 3))
    error, meter = kind("mine"), quiet()

    def run():
        train(meter, model, data[:before])
        with meter.step(data[before]):
            backward(model, data[before])
            raise error

    with pytest.raises(kind) as raised:
        run()
    assert raised.value is error
    assert error.__cause__ is error.__context__ is None
    assert _get_current_dispatch_mode() is None
    summary = meter.summary()
    assert (summary.steps, summary.model_flops) == (before, before * BATCH * PER_EXAMPLE)
    # and the meter goes on
    train(meter, model, data[:3])
    assert meter.summary().model_flops == (before + 3) * BATCH * PER_EXAMPLE
    assert meter.summary().warnings == ()


def test_an_exception_from_the_loader_between_steps_is_the_users():
    def loader():
        yield from batches(BATCH)
        raise OSError("disk")

    meter = quiet()
    with pytest.raises(OSError, match="disk"), meter:
        train(meter, net(), loader())
    assert meter.summary().steps == 1
    assert meter.summary().model_flops == BATCH * PER_EXAMPLE


def test_a_step_that_was_never_ended_is_given_up_when_the_next_begins():
    meter, (batch,) = quiet(), batches(BATCH)
    meter.start_step(batch)
    train(meter, net(), [batch])
    assert meter.summary().steps == 1
    assert meter.summary().model_flops == BATCH * PER_EXAMPLE


def test_a_mode_that_a_step_leaves_open_does_not_keep_ours_for_good():
    class Other(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    other = Other()
    with quiet() as meter:
        with meter.step():
            torch.ones(2, 3) @ torch.ones(3, 4)
            other.__enter__()
        assert _get_current_dispatch_mode() is other
        other.__exit__(None, None, None)
    if (ours := _get_current_dispatch_mode()) is not None:
        ours.__exit__(None, None, None)
    assert ours is None
