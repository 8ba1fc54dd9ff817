"""Made-up runs in a real database of MLflow."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SEED = 7
CHANGED = 100  # runs between two incremental readings
PROJECTS, USERS = 12, 25
FIRST, LAST = 1_546_300_800, 1_767_225_600  # 2019 to 2026


def make_database(path: Path, runs: int) -> str:
    """Make a database of runs; return its URI."""
    import sqlalchemy
    from mlflow import MlflowClient

    uri = f"sqlite:///{path}"
    client = MlflowClient(uri)
    experiments = [client.create_experiment(f"project-{n}") for n in range(PROJECTS)]
    engine = sqlalchemy.create_engine(uri)
    with closing(engine.raw_connection()) as connection:
        chance = random.Random(SEED)  # noqa: S311 - made-up runs guard nothing
        for table, rows in _tables(chance, runs, experiments).items():
            marks = ", ".join("?" * len(rows[0]))
            text = f"insert into {table} values ({marks})"  # noqa: S608 - names of our own
            connection.cursor().executemany(text, rows)
        connection.commit()
    engine.dispose()
    return uri


def _tables(
    chance: random.Random, runs: int, experiments: Sequence[str]
) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of each table, in the order of its columns."""
    tables: dict[str, list[tuple[Any, ...]]] = {
        name: [] for name in ("runs", "tags", "params", "latest_metrics")
    }
    for _ in range(runs):
        run = f"{chance.getrandbits(128):032x}"
        start, hours = chance.uniform(FIRST, LAST), chance.lognormvariate(1, 1)
        began, ended = round(1000 * start), round(1000 * (start + 3600 * hours))
        name, place = f"run-{run[:6]}", chance.choice(experiments)
        known = (*("LOCAL", "", "", "", "FINISHED"), began, ended)
        tables["runs"].append((run, name, *known, "", "active", f"/nowhere/{run}", place, None))
        values = {f"metric/{n}": chance.random() for n in range(9)}
        metered = chance.random() < 0.9
        tags = _tags(chance, start, hours) if metered else {}
        if metered:
            values |= {"compute/flops": 1e18, "compute/ratio": 1.1, "compute/device_hours": 8.0}
        else:
            values |= {f"system/gpu_{n}_utilization_percentage": 80.0 for n in range(4)}
        tags |= {"mlflow.user": f"user-{chance.randrange(USERS)}", "sweep": f"s{run[0]}"}
        tables["latest_metrics"] += [(key, each, ended, 9, 0, run) for key, each in values.items()]
        tables["tags"] += [(key, text, run) for key, text in tags.items()]
        tables["params"] += [(f"param-{n}", str(chance.random()), run) for n in range(14)]
        tables["params"].append(("gpu_type", "NVIDIA A100-SXM4-80GB", run))
    return tables


def _tags(chance: random.Random, start: float, hours: float) -> dict[str, str]:
    """Return what a meter leaves: the trend grows tenfold in two years."""
    flops = 10 ** (17 + (start - FIRST) / (2 * 365.25 * 86_400) + chance.gauss(0, 1))
    peak, devices = 312e12, 2 ** chance.randrange(6)
    device_seconds = max(3600 * hours * devices, flops / (0.6 * peak))
    segments = {
        f"computemeter.segment.{_moment(start + n)}-{chance.getrandbits(32):08x}": json.dumps(
            {
                "steps": 1000,
                "model_flops": round(flops),
                "hardware_flops": round(1.2 * flops),
                "gpu_time_flops": round(0.33 * peak * device_seconds),
                "training_seconds": device_seconds / devices,
                "busy_seconds": None,
                "device_seconds": device_seconds,
                "run_flops": round(flops) * (n + 1),
                "spent_flops": round(flops) * (n + 1),
                "lineage_flops": None,
                "verdict": "agree",
                "cause": "none",
                "peak_flops": peak,
                "assumed_utilization": 0.33,
            }
        )
        for n in range(1 + (chance.random() < 0.2))
    }
    facts = {"schema": "1", "version": "1", "verdict": "agree", "cause": "none"}
    facts |= {"device": f"{devices} x NVIDIA A100-SXM4-80GB", "team": "blue"}
    return {**{f"computemeter.{key}": text for key, text in facts.items()}, **segments}


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%SZ}"


def change_some(database: Path) -> None:
    """End some of the runs now, each time the same, as if they had been going on."""
    with closing(sqlite3.connect(database, timeout=60)) as file, file:
        file.execute(
            "update runs set end_time = ? where run_uuid in "
            "(select run_uuid from runs order by run_uuid limit ?)",
            (round(1000 * time.time()), CHANGED),
        )
