"""Runs written by hand and generated ones, for the tests of the trend page."""

import random

from computemeter.records import RunRecord

DAY = 86_400.0
START = 1_735_689_600.0  # 2025-01-01
NOW = START + 520 * DAY
PEAK = 989e12  # of an H100, bf16, dense


def run(name="run", **fields):
    """A run of one hour on 8 devices at 40 % of their peak: 989e12 * 8 * 3600 * 0.4 FLOP."""
    spent = fields.get("spent_flops", 11_393_280_000_000_000_000)
    known = {
        "run_id": f"id-{name}"[:60],
        "source": "sqlite:///mlflow.db",
        "url": None,
        "name": name,
        "user": "ada",
        "project": "vision",
        "team": "research",
        "started": START,
        "ended": START + 3600,
        "status": "finished",
        "device_name": "NVIDIA H100 80GB HBM3",
        "device_count": 8,
        "run_flops": spent,
        "spent_flops": spent,
        "lineage_flops": None,
        "gpu_time_flops": None if spent is None else spent * 33 // 40,
        "ratio": 0.825,
        "verdict": "agree",
        "cause": "none",
        "mfu": 0.4,
        "device_seconds": 28_800.0,
        "segments": 1,
        "estimated": False,
        "steps": 1000,
        "possible_flops": None if spent is None else spent * 5 // 2,
    }
    return RunRecord(**{**known, **fields})


def generated(count, seed=0):
    """A team's runs over 500 days: sweeps of small ones, and larger ones as time goes by."""
    dice = random.Random(seed)
    projects = ["vision", "speech", "language-7b", "ranking", "protein", "weather", "ads"]
    users = ["ada", "grace", "alan", "edsger", "barbara", "katherine", "margaret", "donald"]
    devices = [("NVIDIA H100 80GB HBM3", PEAK), ("NVIDIA A100-SXM4-80GB", 312e12)]
    return [_one(dice, number, projects, users, devices) for number in range(count)]


def _one(dice, number, projects, users, devices):
    age = dice.random()
    device, peak = devices[dice.random() < 0.4]
    spent = round(10 ** (16.5 + 2.4 * age + dice.gauss(0, 0.9)))
    utilization = min(0.65, max(0.03, dice.gauss(0.32, 0.12)))
    estimated, crashed = dice.random() < 0.08, dice.random() < 0.1
    possible = round(spent / utilization)
    project = dice.choice(projects)
    ratio = 0.33 / utilization
    alarm = dice.random() < 0.01
    verdict = "alarm" if alarm else "agree" if 0.5 < ratio < 2 else "warn"
    cause = "peak_suspect" if alarm else "none" if verdict == "agree" else "low_utilization"
    run_id = f"{dice.getrandbits(128):032x}"
    return run(
        f"{project}-sweep-{number:06d}",
        run_id=run_id,
        url=f"http://mlflow.example:5000/#/experiments/{len(project)}/runs/{run_id}",
        user=dice.choice(users),
        project=project,
        started=START + 500 * DAY * age,
        ended=START + 500 * DAY * age + spent / utilization / peak / 8,
        device_name=device,
        run_flops=None if estimated else round(spent * (0.8 if crashed else 1)),
        spent_flops=None if estimated else spent,
        gpu_time_flops=round(0.33 * possible),
        ratio=None if estimated else ratio,
        verdict="unknown" if estimated else verdict,
        cause="none" if estimated else cause,
        mfu=None if estimated else utilization,
        device_seconds=possible / peak,
        segments=2 if crashed else 1,
        steps=dice.randrange(100, 200_000),
        possible_flops=possible,
        estimated=estimated,
    )
