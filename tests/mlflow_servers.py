"""A real `mlflow server` that tests stop and start, and what to hold its contents against."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path

import metered_fit
import requests
from mlflow.tracking import MlflowClient

PATIENCE = 60.0
"""Seconds that a process may take to start or to end; nothing is measured by it."""

# The shell ends its whole group when the pipe to the tests closes, so that no process outlives
# them however they die; and itself, when the command ends.
_LEASH = '("$@" </dev/null; kill -KILL 0) & read -r _; kill -KILL 0'


class Leashed:
    """A process of a server, with all that it starts; none of them outlives the tests."""

    def __init__(self, command, *, folder, log, environment=None):
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", _LEASH, "sh", *command],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def lives(self):
        """Whether it has not ended."""
        return self._process.poll() is None

    def stop(self, how, is_down):
        """Signal them all, wait until it holds that they are down, and make sure of it."""
        self._signal(how)
        try:
            until(is_down, "a process that has ended")
        finally:
            self._signal(signal.SIGKILL)
            self._process.stdin.close()
            self._process.wait(PATIENCE)

    def _signal(self, number):
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class Server:
    """`mlflow server` on a port and a database of its own, which survive a stop.

    Attributes:
        stopped_at: when it was last told to stop, seconds since the epoch.
        started_at: when it last answered for the first time.
    """

    def __init__(self, folder, backend=None):
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.stopped_at = self.started_at = 0.0
        self._folder, self._backend = folder, backend or f"sqlite:///{folder}/server.db"
        self._process = None

    @property
    def client(self):
        """MLflow's own client of this server."""
        return MlflowClient(self.uri)

    def start(self):
        """Start it and wait until it answers."""
        self.launch()
        until(self.answers, f"a server that answers: see {self._folder}/server.log")
        self.started_at = time.time()

    def launch(self):
        """Start it and wait for nothing."""
        log = self._folder / "server.log"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1", "--backend-store-uri", self._backend),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        ]
        # No jobs: these are seven processes more. No telemetry: nothing leaves the machine.
        environment = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._process = Leashed(command, folder=self._folder, log=log, environment=environment)

    def stop(self, how=signal.SIGKILL):
        """Stop it with a signal; a second time does nothing."""
        process, self._process = self._process, None
        if process is not None:
            self.stopped_at = time.time()
            process.stop(how, lambda: not listens(self.port))

    def new_run(self, experiment="0"):
        """Make a run and return its id."""
        return self.client.create_run(experiment).info.run_id

    def answers(self):
        """Say whether it takes requests; fail where it has ended."""
        assert self._process.lives, f"the server did not start: see {self._folder}/server.log"
        with suppress(OSError):
            return requests.get(f"{self.uri}/health", timeout=5).ok
        return False


@contextmanager
def running_server(folder, backend=None):
    """Run a server for the time of a `with` block."""
    server = Server(folder, backend)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def free_port():
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    """Say whether anybody does, on this machine."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def until(condition, what):
    """Wait until it holds; fail where it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:.0f} s"
        time.sleep(0.05)


@contextmanager
def training(tracking_uri, run_id, folder, *, steps=-1):
    """Train in a process of its own, see `metered_fit`; killed at the end of the block."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, metered_fit.__file__, tracking_uri, run_id, str(folder), str(steps)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if not process.stdout.closed:  # the test failed, and pytest shows what was printed
            print(process.stdout.read())  # noqa: T201
            process.stdout.close()


def warnings_in(output):
    """Return the lines of the meter's warnings, of all that a training printed."""
    return [line for line in output.splitlines() if line.startswith("WARNING:computemeter")]


def until_first_point(client, run_id, process):
    """Wait until MLflow has something of a training; fail with what it printed if it has ended."""

    def is_there():
        assert process.poll() is None, process.stdout.read()
        return client.get_run(run_id).data.metrics

    until(is_there, "a first point in MLflow")


def push(ledger, uri):
    """Run `computemeter push` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "computemeter", "push", str(ledger), "--to", uri],
        cwd=Path(ledger).parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def points_of(ledger):
    """Return what a ledger has for a tracker: (step, milliseconds, value) by metric."""
    points = defaultdict(list)
    for progress in ledger.progress:
        for key, value in progress.metrics.items():
            if value is not None:
                points[key].append((progress.step, round(progress.time * 1000), value))
    return dict(points)


def stored(client, run_id, keys):
    """Return what MLflow has, in the same form; what it has twice is there twice."""
    return {
        key: sorted(
            (each.step, each.timestamp, each.value)
            for each in client.get_metric_history(run_id, key)
        )
        for key in keys
    }


def assert_all_there_once(client, run_id, ledger):
    """Hold the run against the ledger: every value there, none twice, none besides."""
    expected = points_of(ledger)
    assert {"compute/flops", "compute/pfs_days", "compute/loss"} <= set(expected)
    assert stored(client, run_id, expected) == expected
    known = {*expected, "compute/log10_pfs_days"}
    assert set(client.get_run(run_id).data.metrics) <= known
