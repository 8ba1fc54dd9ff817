"""Records written by hand, for the tests of what a team's trend is made of."""

from computemeter.records import RunRecord
from computemeter.segments import SegmentedRun, SegmentRecord, add_up

JULY = 1_751_328_000.0  # 2025-07-01, 00:00 UTC


def run(run_id="a", **facts):
    known = {
        "source": "http://host",
        "url": None,
        "name": "",
        "user": None,
        "project": None,
        "team": None,
        "started": JULY,
        "ended": None,
        "status": "finished",
        "device_name": None,
        "device_count": None,
        "run_flops": 10**18,
        "spent_flops": 10**18,
        "lineage_flops": None,
        "gpu_time_flops": None,
        "ratio": None,
        "verdict": "agree",
        "cause": "none",
        "mfu": None,
        "device_seconds": None,
        "segments": 1,
        "estimated": False,
    }
    return RunRecord(run_id=run_id, **{**known, **facts})


PARTS = (
    SegmentRecord("s1", steps=3, model_flops=10**25 + 1, device_seconds=1.5, verdict="warn"),
    SegmentRecord("s2"),
)


def segmented():
    plain = run("b", tags={"k": '=x,"\n'}, category="synthetic_data")
    facts = {name: getattr(plain, name) for name in RunRecord.__dataclass_fields__}
    return SegmentedRun(**{**facts, **add_up(PARTS)})
