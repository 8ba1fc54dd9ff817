"""Rounds that say where they are, processes that answer, and the servers of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parents[2] / "tests"


def counted_off(count: int, what: str = "round") -> Iterator[int]:
    """Yield the numbers from 0 on; say each, as people count, before it."""
    for number in range(count):
        print(f"{what} {number + 1} of {count}", file=sys.stderr, flush=True)
        yield number


def answer_of(script: str, options: Sequence[str], environment: Mapping[str, str]) -> Any:
    """Run a benchmark's file with options in a process of its own; read its last line as JSON.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    path = Path(__file__).parents[1] / f"{script}.py"
    command = [sys.executable, "-W", "ignore", str(path), *options]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def module_of_the_tests(name: str) -> Any:
    """Import what the tests share: they are no package."""
    if str(_TESTS) not in sys.path:
        sys.path.append(str(_TESTS))
    return import_module(name)
