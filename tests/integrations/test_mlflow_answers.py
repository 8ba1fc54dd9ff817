"""The MLflow sink and what a server answers: what passes is waited for, what does not is left."""

import json
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

mlflow = pytest.importorskip("mlflow")

from computemeter import delivery  # noqa: E402 - after the check for mlflow
from computemeter_mlflow import MLflowSink  # noqa: E402 - as above
from computemeter_mlflow._batches import Value  # noqa: E402 - as above
from computemeter_mlflow._remote import open_run  # noqa: E402 - as above

SOON = 30.0
TIME = 1_700_000_000.123

OK = (200, {})
GONE = (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run with id=0 not found"})
REFUSED = (400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid metric name"})


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(happened):
    deadline = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Server(HTTPServer):
    """Answers as it is told to: `answer(number, path, body)` gives a status and what to say."""

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests = answer, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def bodies(self):
        """Return what was posted to the run, in order."""
        return [json.loads(body) for how, _, body, _ in self.requests if how == "POST"]

    def stored(self, what):
        """Return the "metrics" or "tags" that were accepted, in order."""
        accepted = [
            json.loads(each[2]) for each in self.requests if each[0] == "POST" and each[3] == 200
        ]
        return [each for body in accepted for each in body[what]]

    def steps(self, key):
        return [value["step"] for value in self.stored("metrics") if value["key"] == key]

    def tags(self):
        return {tag["key"]: tag["value"] for tag in self.stored("tags")}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        status, said = self.server.answer(len(self.server.requests), self.path, body)
        self.server.requests.append((self.command, self.path, body, status))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(said.encode() if isinstance(said, str) else json.dumps(said).encode())

    do_GET = do_PUT = do_POST  # noqa: N815 - the names that http.server looks for

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    servers = []

    def start(answer):
        servers.append(Server(answer))
        return servers[0], f"http://127.0.0.1:{servers[0].server_port}"

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_BACKOFF", 0.01)


def sink_at(uri, warnings=None, run_id="0" * 32, **options):
    warn = (warnings if warnings is not None else []).append
    return MLflowSink(tracking_uri=uri, run_id=run_id, warn=warn, **options)


def log_steps(sink, count, **values):
    for step in range(count):
        sink.log({"compute/loss": 2.5, **values}, step=step, time=TIME)


def test_a_server_that_cannot_be_reached_costs_one_warning(hurried, closed_port):
    warnings, before = [], random.getstate()
    sink = sink_at(f"http://ann:s3cret@127.0.0.1:{closed_port}", warnings, interval=0.01)
    log_steps(sink, 5)
    sink.tag({"verdict": "agree"})
    assert not [thread for thread in threading.enumerate() if "s3cret" in thread.name]
    started = time.monotonic()
    assert sink.close(0.5) == 5  # steps; the tag counts as none
    assert time.monotonic() - started < SOON
    assert len(warnings) == 1
    assert "s3cret" not in warnings[0]
    # MLflow's own retries draw from the user's random numbers; ours must not.
    assert random.getstate() == before


def test_over_http_a_failed_batch_is_sent_again(hurried, server):
    listening, address = server(lambda number, path, body: OK if number >= 2 else (503, {}))
    warnings = []
    sink = MLflowSink(tracking_uri=address, run_id="0" * 32, warn=warnings.append)
    sink.log({"compute/loss": 2.5}, step=7, time=TIME)
    assert sink.close(SOON) == 0
    path = "/api/2.0/mlflow/runs/log-batch"
    value = {"key": "compute/loss", "value": 2.5, "timestamp": 1_700_000_000_123, "step": 7}
    sent = (path, {"run_id": "0" * 32, "metrics": [value], "tags": []})
    assert [(path, json.loads(body)) for _, path, body, _ in listening.requests] == [sent] * 3
    assert len(warnings) == 1


def test_over_http_a_request_is_what_mlflows_own_client_sends(server):
    listening, address = server(lambda number, path, body: OK)
    ours = open_run(address, "0" * 32)
    ours.log_batch(
        [Value("compute/loss", 2.5, 1_700_000_000_123, 7)], {"computemeter.verdict": "agree"}
    )
    mlflow.MlflowClient(address).log_batch(
        "0" * 32,
        metrics=[mlflow.entities.Metric("compute/loss", 2.5, 1_700_000_000_123, 7)],
        tags=[mlflow.entities.RunTag("computemeter.verdict", "agree")],
    )
    # The client also asks for the server's version and the like; those are no POST.
    assert listening.bodies()[0] == listening.bodies()[1]


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500, 502, 503])
def test_an_answer_that_passes_costs_a_warning_and_no_value(hurried, server, status):
    said = "<html>http://ann:s3cret@host</html>"
    listening, address = server(lambda number, path, body: OK if number >= 2 else (status, said))
    warnings, before = [], random.getstate()
    sink = sink_at(address, warnings)
    log_steps(sink, 3)
    assert sink.close(SOON) == 0
    assert listening.steps("compute/loss") == [0, 1, 2]
    assert len(listening.requests) == 3
    assert len(warnings) == 1
    assert "s3cret" not in warnings[0]
    assert random.getstate() == before


def test_a_name_that_is_refused_does_not_cost_the_others(server):
    def answer(number, path, body):
        return REFUSED if "bad" in body else OK

    listening, address = server(answer)
    warnings = []
    sink = sink_at(address, warnings)
    log_steps(sink, 8, bad=1.0)
    sink.tag({"verdict": "agree", "bad": "tag"})
    assert sink.close(SOON) == 0
    assert listening.steps("compute/loss") == list(range(8))
    assert listening.tags() == {"computemeter.verdict": "agree"}
    # One for the metric and one for the tag, however many steps had it.
    assert len(warnings) == 2
    assert all("Invalid metric name" in warning for warning in warnings)


def test_a_step_that_is_refused_does_not_cost_the_others(server):
    def answer(number, path, body):
        return REFUSED if '"step": 5}' in body else OK

    listening, address = server(answer)
    warnings = []
    sink = sink_at(address, warnings)
    log_steps(sink, 8)
    sink.tag({"verdict": "agree"})
    assert sink.close(SOON) == 1
    assert listening.steps("compute/loss") == [0, 1, 2, 3, 4, 6, 7]
    assert listening.tags() == {"computemeter.verdict": "agree"}
    assert len(warnings) == 1


@pytest.mark.parametrize("answer", [GONE, (404, "<html>no such page</html>")])
def test_a_run_that_is_not_there_is_asked_for_once(server, answer):
    listening, address = server(lambda number, path, body: answer)
    warnings = []
    sink = sink_at(address, warnings)
    log_steps(sink, 600)
    sink.tag({"verdict": "agree"})
    assert sink.close(SOON) == 600
    assert len(listening.requests) == 1
    assert len(warnings) == 1
    assert "gone" in warnings[0]


def test_a_404_of_a_proxy_whose_server_restarts_passes(hurried, server):
    def answer(number, path, body):
        return (404, "404 page not found") if number in {1, 2} else OK

    listening, address = server(answer)
    sink = sink_at(address, interval=0.01)
    sink.log({"compute/loss": 2.5}, step=0, time=TIME)
    wait_until(lambda: listening.requests)
    sink.log({"compute/loss": 2.5}, step=1, time=TIME)
    assert sink.close(SOON) == 0
    assert [len(body["metrics"]) for body in listening.bodies()] == [1, 1, 1, 1]


def test_a_server_that_hangs_holds_up_nobody(server):
    hanging = threading.Event()
    _, address = server(lambda number, path, body: hanging.wait(SOON) and OK)
    sink = sink_at(address, interval=0.01)
    started = time.monotonic()
    log_steps(sink, 3)
    assert sink.close(0.3) == 3
    assert time.monotonic() - started < SOON / 2
    hanging.set()


def two_files(folder):
    (folder / "receipt.json").write_text("{}")
    (folder / "loss.html").write_text("<p>")
    return [folder / "receipt.json", folder / "loss.html"]


def with_artifacts(status):
    """Answer as a server that proxies artifacts, which it stores or not."""

    def answer(number, path, body):
        if "runs/get" in path:
            return 200, {"run": {"info": {"artifact_uri": "mlflow-artifacts:/0/run/artifacts"}}}
        return (status, {}) if "artifacts" in path else OK

    return answer


def test_over_http_files_go_through_the_server(server):
    listening, address = server(with_artifacts(200))
    warnings = []
    sink = sink_at(address, warnings)
    sink.files(two_files)
    assert sink.close(SOON) == 0
    assert warnings == []
    folder = "/api/2.0/mlflow-artifacts/artifacts/0/run/artifacts/compute"
    assert [(path, body) for how, path, body, _ in listening.requests if how == "PUT"] == [
        (f"{folder}/receipt.json", "{}"),
        (f"{folder}/loss.html", "<p>"),
    ]


def test_over_http_files_that_fail_cost_one_warning_and_no_random_number(server):
    listening, address = server(with_artifacts(500))
    warnings, before = [], random.getstate()
    sink = sink_at(address.replace("//", "//ann:s3cret@"), warnings)
    log_steps(sink, 2)
    sink.files(two_files)
    assert sink.close(SOON) == 0
    assert listening.steps("compute/loss") == [0, 1]
    assert len(warnings) == 1
    assert "s3cret" not in warnings[0]
    # MLflow's client would try each eight times, drawing random numbers for its pauses.
    assert [how for how, *_ in listening.requests].count("PUT") == 2
    assert random.getstate() == before


def test_files_are_not_sent_to_a_run_that_is_gone(server):
    listening, address = server(lambda number, path, body: GONE)
    sink = sink_at(address)
    sink.log({"compute/loss": 2.5}, step=0, time=TIME)
    sink.files(two_files)
    assert sink.close(SOON) == 1
    assert len(listening.requests) == 1
