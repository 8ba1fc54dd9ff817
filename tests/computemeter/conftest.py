"""For tests of the core: what a user's environment and other tests must not reach into."""

import os

import pytest
from moved_clock import Hands


@pytest.fixture
def no_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("COMPUTEMETER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def no_mode_is_left():
    """A counting mode that stays on would make every later test slow and wrong."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    assert _get_current_dispatch_mode() is None
    yield
    left = _get_current_dispatch_mode()
    while (mode := _get_current_dispatch_mode()) is not None:
        mode.__exit__(None, None, None)
    assert left is None


@pytest.fixture
def hands():
    return Hands()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Keep what trackers tell out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
