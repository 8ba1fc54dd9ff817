"""A run's tensor activity, from samples by hand."""

import pytest
import torch

from computemeter.activity import RunActivity


class Device:
    source = "a gauge"

    def __init__(self, *samples):
        self.samples, self.closed = list(samples), False

    def sample(self):
        return self.samples.pop(0)

    def close(self):
        self.closed = True


def activity(device, opened=None, where="cuda:1"):
    def open_device(index):
        assert index == 1
        if opened is not None:
            opened.append(index)
        return device

    return RunActivity(lambda: torch.device(where), open_device)


def test_samples_are_weighted_by_the_training_they_stand_for():
    run = activity(Device(0.5, 0.2))
    for seconds in (10.0, 20.0, 50.0):  # the first one only begins
        run.sample(seconds)
    # 10 s at 50 % and 30 s at 20 %
    assert run.share == pytest.approx((10 * 0.5 + 30 * 0.2) / 40)
    assert run.source == "a gauge"


def test_a_sample_that_is_missing_is_made_up_for_by_the_next():
    run = activity(Device(None, 0.4))
    for seconds in (0.0, 10.0, 30.0):
        run.sample(seconds)
    assert run.share == pytest.approx(0.4)


def test_where_nothing_can_be_read_it_is_unknown_and_asked_for_once():
    opened = []
    run = activity(None, opened)
    for seconds in range(5):
        run.sample(float(seconds))
    assert (run.share, run.source, opened) == (None, None, [1])


def test_a_cpu_is_not_asked():
    opened = []
    run = activity(Device(), opened, where="cpu")
    run.sample(1.0)
    run.sample(2.0)
    assert (run.share, opened) == (None, [])


def test_it_lets_go():
    device = Device()
    run = activity(device)
    run.sample(0.0)
    run.close()
    run.close()
    assert device.closed
    run.sample(9.0)
    assert run.share is None
