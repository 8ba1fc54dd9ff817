"""What is said of a tracker that cannot be reached: the cause in a few words, on one line."""

import logging
import socket

import pytest

from computemeter.delivery import Delivery
from computemeter.sinks import describe_outage


def wrapped(root):
    """Wrap an error as MLflow does: in requests', in MLflow's, each with a text that holds all."""
    inner = ConnectionError(f"HTTPConnectionPool(host='h', port=9): Max retries exceeded ({root})")
    outer = RuntimeError(f"API request to http://ann:s3cret@h:9/api failed: {inner}")
    # One says what it comes from, the other was raised while the first was handled.
    inner.__cause__, outer.__context__ = root, inner
    return outer


@pytest.fixture
def closed_port():
    """A loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        (TimeoutError("_ssl.c:989: The handshake operation timed out"), "timed out"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (ConnectionResetError("Remote end closed"), "ConnectionResetError: Remote end closed"),
        (OSError(0, 4), "OSError: [Errno 0] 4"),
    ],
)
def test_the_cause_beneath_all_layers(root, words):
    assert describe_outage(root) == words
    assert describe_outage(wrapped(root)) == words


def test_what_is_no_outage_keeps_its_first_line():
    locked = RuntimeError("\n(sqlite3.OperationalError) database is locked\n[SQL: INSERT INTO ...]")
    assert describe_outage(locked) == "RuntimeError: (sqlite3.OperationalError) database is locked"
    # "RuntimeError: " and 106 letters are 120.
    assert describe_outage(RuntimeError("x" * 500)) == f"RuntimeError: {'x' * 106}..."
    assert describe_outage(RuntimeError()) == "RuntimeError: "
    assert "s3cret" not in describe_outage(RuntimeError("no way to http://ann:s3cret@h:9"))
    missing = FileNotFoundError(2, "No such file", "page.html")
    assert describe_outage(missing) == "FileNotFoundError: [Errno 2] No such file: 'page.html'"


def test_layers_without_end_hang_nothing():
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert describe_outage(first) in {"ValueError: first", "ValueError: second"}


def test_a_real_server_that_is_down_is_a_short_line_and_the_rest_is_for_debugging(
    closed_port, caplog
):
    pytest.importorskip("mlflow")
    from computemeter_mlflow import MLflowSink

    caplog.set_level(logging.DEBUG, "computemeter")
    warnings = []
    sink = MLflowSink(tracking_uri=closed_port, run_id="0a1b", warn=warnings.append, interval=0.01)
    sink.log({"compute/flops": 1.0}, step=1, time=0.0)
    assert sink.close(1.0) == 1
    (line,) = warnings
    assert line == (
        f"MLflow at {closed_port}: sending failed, it is tried again (connection refused); "
        "the ledger keeps everything"
    )
    (whole,) = [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"]
    assert "Max retries exceeded" in whole


def test_a_logging_handler_that_raises_does_not_end_the_delivery(monkeypatch):
    def fails(*_):
        raise RuntimeError("injected")

    monkeypatch.setattr("computemeter.delivery._LOG.debug", fails)
    monkeypatch.setattr("computemeter.delivery._FIRST_BACKOFF", 0.01)
    sent, outages = [], iter([ConnectionRefusedError(111, "Connection refused")])

    def send(points):
        for error in outages:
            raise error
        sent.extend(points)

    delivery = Delivery(send, warn=lambda _message: None, label="test", interval=0.01)
    delivery.put("point")
    assert delivery.close(20.0) == 0
    assert sent == ["point"]
