"""What a typed user writes: read by type checkers against the wheel, and never run."""

from collections.abc import Mapping
from typing import Any, Literal, assert_type

import computemeter
from computemeter import (
    PF,
    PFS_DAY,
    Count,
    Meter,
    RunRecord,
    Summary,
    flops_from_gpu_time,
    flops_from_operations,
    flops_from_parameters,
    interrupted_run,
    pfs_days,
    register_formula,
)
from computemeter.keras import ComputeMeter as KerasMeter
from computemeter.lightning import ComputeMeter as LightningMeter
from computemeter.planning.plan import Plan
from computemeter.sources import records

Verdict = Literal["agree", "warn", "alarm", "unknown"]


def a_plain_loop(loader: list[list[float]]) -> Summary:
    with Meter(project="digits", ledger=None, log_every=10, total_steps=100) as meter:
        assert_type(meter, Meter)
        for batch in loader:
            with meter.step(batch):
                meter.add_flops(2 * len(batch))
        with meter.validation(), meter.pause():
            pass
    assert_type(meter.steps, int)
    assert_type(meter.breakdown(), dict[str, int])
    assert_type(meter.state_dict(), dict[str, Any])
    meter.load_state_dict(meter.state_dict())
    return assert_type(meter.summary(), Summary)


def both_callbacks() -> tuple[Summary, Summary]:
    lightning = LightningMeter(assumed_utilization=0.4, loss_key="loss", verbose=0)
    keras = KerasMeter(log_freq="batch", log_to_history=True, peak_flops="peaks.toml")
    with keras.training(object()):
        pass
    return assert_type((lightning.summary(), keras.summary()), tuple[Summary, Summary])


def its_fields(summary: Summary) -> None:
    assert_type(summary.model_flops, int | None)
    assert_type(summary.pfs_days, float | None)
    assert_type(summary.verdict, Verdict)
    assert_type(summary.host_seconds, Mapping[str, float])
    assert_type(summary.by_op, Mapping[str, int])
    assert_type(summary.flops_formula, str | None)
    assert_type(summary.warnings, tuple[str, ...])
    assert_type(summary.to_dict(), dict[str, Any])
    if summary.ratio is not None and summary.cause == "count_suspect":
        assert_type(summary.ratio + len(summary.diagnosis), float)


def a_team(uri: str) -> list[str]:
    found = records([uri], warn=print)
    assert_type(found, list[RunRecord])
    for run in found:
        assert_type(run.spent_flops, int | None)
        assert_type(run.verdict, Verdict)
        assert_type(run.overclaims, bool)
    return [run.run_id for run in found if run.started is not None and run.started > 1e9]


def before_a_run(model: object, batch: object) -> None:
    plan = computemeter.plan(parameters=3.8e9, tokens=3.3e12, batch_sizes=(256,), devices=("A100",))
    assert_type(plan, Plan)
    assert_type(plan.flops, int | None)
    assert_type([row.expected_seconds for row in plan.rows], list[float | None])
    probed = computemeter.plan(model, batch, examples=1_000_000, device="cpu")
    assert_type(probed.pfs_days, float | None)
    assert_type(pfs_days(flops_from_operations(7.5e8, 1.2e6, 90)), float)
    assert_type(flops_from_gpu_time(2, 475_200.0, 1.58e12, 0.33), int)
    assert_type(flops_from_parameters(3.8e9, 3.3e12) // PF + PFS_DAY, int)


@register_formula("mylib::attention")
def attention_flops(query: list[int], *, out: list[int]) -> int:
    return 4 * len(query) * len(out)


def the_rest() -> None:
    assert_type(attention_flops([1], out=[2]), int)
    assert_type(interrupted_run("mlflow", ledgers="compute_ledger"), str | None)
    assert_type(Meter.count(sum, [1, 2]), Count)
    assert_type(Meter.count(sum, [1, 2]).by_dtype, Mapping[str, int])
    assert_type(computemeter.__version__, str)


def what_a_checker_must_refuse() -> None:
    Meter(warn_at="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Meter(no_such_option=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    a_plain_loop([]).steps = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
