"""A PostgreSQL of the tests' own, from the binaries that Debian's package `postgresql` brings."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from mlflow_servers import Leashed, free_port, until

# All that a URI has to escape, so that hiding only a part of it shows.
PASSWORD = "hush/hush@5:5 %40?"  # noqa: S105 - of a database that lives for some tests
_USER = "keeper"


def binaries():
    """Return the folder of `initdb` and `postgres`; None where there is none."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve()] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[0].parent if found else None


def why_none():
    """Say why no PostgreSQL can be started here; None where one can."""
    if binaries() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        return "PostgreSQL does not run as root, and there is no setpriv to be another user"
    return None


class Postgres:
    """A database, and how it is reached: by its `uri`, which holds the password."""

    def __init__(self, folder):
        port = free_port()
        self.uri = f"postgresql://{_USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
        self._folder, self._data, self._port = folder, folder / "data", port
        self._process = None
        self._initialise()

    def start(self):
        """Start it and wait until it takes connections."""
        command = _as_postgres(
            *("postgres", "-D", self._data, "-p", self._port, "-k", self._folder),
            *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"),
        )
        self._process = Leashed(command, folder=self._folder, log=self._folder / "log")
        until(self._answers, f"a database that answers, its log is {self._folder / 'log'}")

    def stop(self):
        """Kill it; a second time does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(signal.SIGKILL, lambda: not self._answers())

    def _initialise(self):
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self._folder, secret):
                shutil.chown(path, "postgres")
        command = _as_postgres(
            *("initdb", "-D", self._data, "-U", _USER, "-A", "scram-sha-256"),
            *("--pwfile", secret, "--no-sync", "--no-locale", "-E", "UTF8"),
        )
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True, timeout=120)

    def _answers(self):
        import psycopg

        try:
            psycopg.connect(self.uri, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def _as_postgres(program, *arguments):
    """Return the command; PostgreSQL refuses to run as root, so root becomes its user."""
    command = [str(binaries() / program), *map(str, arguments)]
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


@contextmanager
def running_postgres():
    """Run a database for the time of a `with` block."""
    # Not in pytest's folder, through which nobody but root may pass.
    folder = Path(tempfile.mkdtemp(prefix="computemeter-postgres-"))
    try:
        database = Postgres(folder)
        try:
            database.start()
            yield database
        finally:
            database.stop()
    finally:
        shutil.rmtree(folder)
