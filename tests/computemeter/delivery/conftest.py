"""For all tests of delivery: a tracker, and a delivery that soon tries again."""

import pytest
from failing_tracker import Tracker

from computemeter import delivery


@pytest.fixture
def tracker():
    return Tracker()


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", 0.01)
