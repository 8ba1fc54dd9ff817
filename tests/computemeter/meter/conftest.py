"""For all tests of the meter: no environment but their own, and one thread."""

import pytest
import torch


@pytest.fixture(autouse=True)
def alone(no_environment, no_mode_is_left, monkeypatch, tmp_path):
    """Keep the environment out, ledgers in a folder of their own, and no mode behind."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that share a busy core wait for each other longer than these nets compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
