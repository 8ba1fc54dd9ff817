"""What was found, as a table for the docs and a page of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.comparison_parts.results import (
    CODECARBON,
    COMPUTEMETER,
    FLOP_COUNTER,
    MONITOR,
    PROFILER,
    TOOLS,
    TOTAL_FLOS,
    Cost,
    Counted,
    Energy,
    Report,
    Timed,
)
from benchmarks.measuring import report as reports

BEGIN = "<!-- the table begins: written by benchmarks/comparison.py -->"
END = "<!-- the table ends -->"
_NOT_CLAIMED, _NOT_THERE = "does not claim", "does not run there"

_TITLES: Mapping[str, str] = {
    COMPUTEMETER: "computemeter",
    MONITOR: "Lightning's `ThroughputMonitor`, `measure_flops`",
    FLOP_COUNTER: "PyTorch's `FlopCounterMode`",
    PROFILER: "PyTorch's `profile(with_flops=True)`",
    TOTAL_FLOS: "`total_flos` of Hugging Face's Trainer",
    CODECARBON: "CodeCarbon",
}
_GIVES: Mapping[str, str] = {
    COMPUTEMETER: "FLOPs of the run, what recomputation adds, time on the device, a verdict",
    MONITOR: "rates over the last 100 batches; FLOPs a second, and MFU on GPUs that it knows",
    FLOP_COUNTER: "FLOPs of all that ran, by module",
    PROFILER: "FLOPs by operator, in a trace",
    TOTAL_FLOS: "FLOPs of the run: 6 x parameters without embeddings x tokens",
}
_SUPPLIES: Mapping[str, str] = {
    COMPUTEMETER: "nothing",
    MONITOR: "FLOPs of a batch, measured on a copy with a batch of its shape; a batch's size",
    FLOP_COUNTER: "nothing",
    PROFILER: "nothing",
    TOTAL_FLOS: "nothing; a model that is not of `transformers` needs a method for its FLOPs",
    CODECARBON: "the country, offline",
}
_LEAVES_OUT: Mapping[str, str] = {
    COMPUTEMETER: "energy; operators without a formula, which it names",
    MONITOR: "batches of another size; kernels of the device that do not run on meta",
    FLOP_COUNTER: "operators without a formula, silently: on a CPU the LSTM and fused attention",
    PROFILER: "all but matrix products and the forward pass of 2-D convolutions",
    TOTAL_FLOS: "attention's products, a head tied to the embedding, what is frozen",
    CODECARBON: "FLOPs",
}


def put_table(page: str, report: Report) -> str:
    """Return the page with the table of the report between its two marks.

    Raises:
        ValueError: if the marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{table(report)}\n{END}{after}"


def table(report: Report) -> str:
    """Return the one table: the tools side by side, a row for each run and each question."""
    rows = [(run.name, *(_error(run, tool) for tool in TOOLS)) for run in report.counted]
    rows += [(_headline(timed), *(_cost(timed, tool) for tool in TOOLS)) for timed in report.timed]
    rows += [
        ("lines to add or change", *(_lines(report, tool) for tool in TOOLS)),
        ("to supply", *(_SUPPLIES[tool] for tool in TOOLS)),
        ("gives", *(_GIVES.get(tool) or _gives_energy(report.energy) for tool in TOOLS)),
        ("does not see", *(_LEAVES_OUT[tool] for tool in TOOLS)),
    ]
    return _table(("", *(_TITLES[tool] for tool in TOOLS)), rows)


def _error(run: Counted, tool: str) -> str:
    error = run.error(tool)
    if tool == CODECARBON or tool in run.disclaimed:
        return _NOT_CLAIMED
    if error is None:
        return _NOT_THERE
    return "exact" if error == 0 else f"{100 * error:+.1f} %"


def _headline(timed: Timed) -> str:
    step = f"a step of {timed.name}, {timed.step_ms:.2g} ms by itself"
    return f"{step}: times as long (A/A {_ratio(timed.again)})"


def _cost(timed: Timed, tool: str) -> str:
    cost = timed.costs.get(tool)
    return "" if cost is None else _ratio(cost)


def _ratio(cost: Cost) -> str:
    digits = 3 if cost.ratio < 1.2 else 2
    low, value, high = (f"{x:.{digits}f}" for x in (cost.low, cost.ratio, cost.high))
    return f"{value} [{low}, {high}]"


def _gives_energy(energy: Energy) -> str:
    return f"energy, {energy.watt_hours:.2g} Wh in the first run of GPT-2, and emissions"


def _lines(report: Report, tool: str) -> str:
    lines = str(report.lines[tool])
    if tool == COMPUTEMETER:
        return f"{lines}; in Hugging Face's Trainer {report.lines_elsewhere}"
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return reports.table(header, rows, left=range(len(header)))


def as_markdown(report: Report) -> str:
    """Return the page of results: the table, every count, and the arithmetic by hand."""
    parts = [
        "# The same trainings under other tools\n",
        reports.written_by("comparison", report.environment),
        "What each row means: `docs/comparison.md`.\n",
        table(report),
        "## Counts\n",
        _READING,
        _counts_table(report.counted),
        "## By hand, of one example\n",
        _BY_HAND,
        *map(_arithmetic, report.counted),
        "## Energy\n",
        _energy(report.energy),
    ]
    return "\n".join(parts)


_READING = """\
FLOPs of a whole training, forward and backward, 2 for a multiply-add. "As run" is with what is
computed twice. computemeter keeps both; the count of all that ran is its second line.
"""
_BY_HAND = """\
Forward pass x passes, + what is computed again. Multiplied by the number of examples it is the
figure above.
"""


def _counts_table(counted: Sequence[Counted]) -> str:
    tools = [tool for tool in TOOLS if tool != CODECARBON]
    rows = []
    for run in counted:
        cells = (_count(run, tool) for tool in tools)
        rows.append((run.name, f"{run.model_flops:,}", f"{run.as_run_flops:,}", *cells))
    titles = (_TITLES[tool] for tool in tools)
    return _table(("", "by hand, model", "by hand, as run", *titles), rows)


def _count(run: Counted, tool: str) -> str:
    if tool not in run.answers:
        return _NOT_THERE
    error = run.error(tool)
    text = f"{run.answers[tool]:,}"
    text += " (exact)" if error == 0 else f" ({100 * (error or 0):+.2f} %)"
    if tool in run.disclaimed:
        text += f"; {_NOT_CLAIMED}"
    if tool == COMPUTEMETER:
        text += f"; {run.meter_as_run:,} as run"
        if run.meter_elsewhere is not None:
            text += f"; {run.meter_elsewhere:,} in Hugging Face's Trainer"
    return text


def _arithmetic(run: Counted) -> str:
    return f"{run.name}\n\n" + "".join(f"- {layer}\n" for layer in run.layers)


def _energy(energy: Energy) -> str:
    return (
        f"{energy.run}: CodeCarbon says {energy.watt_hours:.3g} Wh, of a processor that it "
        f"takes to draw {energy.cpu_watts:.3g} W and a memory of {energy.ram_watts:.3g} W.\n"
        f"The first tracker of a process looks for hardware: {energy.start_seconds:.2g} s.\n"
    )
