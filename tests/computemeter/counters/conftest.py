"""For all tests of counters: the same numbers each time, and no mode left behind."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_numbers(no_mode_is_left):
    torch.manual_seed(0)
