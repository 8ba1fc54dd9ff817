"""For the tests of what is released: building it, running commands, installing it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"


def run(*command, cwd, code=0, **environment):
    """Run a command, see that it ends with this code, and return what it did."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def build(folder):
    """Write the sdist into a folder, and the wheel that is built from what is in it."""
    # With the build tool that the environment has: nothing is fetched.
    run(sys.executable, "-m", "build", "--no-isolation", "-o", folder, ROOT, cwd=folder)
    return folder


def install(python, *wanted, cwd):
    """Install into an environment without a pip of its own: it is made quicker so."""
    command = ("-m", "pip", "--disable-pip-version-check", "--python", python, "install")
    run(sys.executable, *command, "-q", "--no-compile", "-c", CONSTRAINTS, *wanted, cwd=cwd)
