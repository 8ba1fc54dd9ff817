"""Tests of one Keras backend each: `KERAS_BACKEND=jax pytest tests/backends`, and so on.

`make test` runs them for all three, each in a process of its own. Without the variable they are
left out.
"""

import os

import pytest

BACKEND = os.environ.get("KERAS_BACKEND", "")
# Two devices on one host, for what is spread over several; set before either framework starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_OF_ONE_BACKEND = {"jax": "test_jax_*.py", "tensorflow": "test_tf_*.py", "torch": "test_torch_*.py"}
collect_ignore_glob = (
    [pattern for name, pattern in _OF_ONE_BACKEND.items() if name != BACKEND]
    if BACKEND in _OF_ONE_BACKEND
    else ["test_*.py"]
)

if BACKEND == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


@pytest.fixture(scope="module")
def shared():
    """A model for tests that do not care which: it is compiled once."""
    from keras_fits import net

    return net()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Nothing is written into the checkout."""
    monkeypatch.chdir(tmp_path)
