"""A compute receipt as a block of Markdown, for a model card.

Texts of the receipt are untrusted: none becomes markup, a link or an order to the terminal.
"""

from __future__ import annotations

import re

from computemeter.disclosure.digits import day
from computemeter.energy import kwh
from computemeter.receipt import ComputeReceipt
from computemeter.sinks import redact
from computemeter.units import format_compute, format_flops
from computemeter.wording import counted, name_ops

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_MARKUP = re.compile(r"([\\`*_\[\]{}|~$!#])")


def card(receipt: ComputeReceipt) -> str:
    """Write a receipt as a heading and a table in Markdown."""
    rows = [
        ("Method 1, operations", _compute(receipt.model_flops)),
        ("Method 2, GPU time", _gpu_time(receipt)),
        ("Ratio, method 2 / method 1", _ratio(receipt)),
        ("Diagnosis", escape(receipt.diagnosis)),
        ("Devices", _devices(receipt)),
        ("Device-hours", _hours(receipt.device_hours)),
        ("Energy", _energy(receipt.energy_joules)),
        ("Steps", _steps(receipt)),
        ("Run: work in the final weights", _compute(receipt.run_flops)),
        ("Spent: all work of the run", _compute(receipt.spent_flops)),
        ("Lineage: run and base model", _compute(receipt.lineage_flops)),
        ("Base model", _base(receipt)),
        ("Not counted", _uncounted(receipt)),
        ("Run id", _run(receipt)),
        (
            "Project, team",
            ", ".join(escape(text) for text in (receipt.project, receipt.team) if text),
        ),
        ("Receipt", _receipt(receipt)),
    ]
    lines = ["## Training compute", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {text} |" for name, text in rows if text)])


def escape(text: str) -> str:
    r"""Write a text so that Markdown and HTML show it as it is, on one line, without credentials.

    >>> escape("a|b <b> [x](http://y)")
    'a\\|b &lt;b&gt; \\[x\\](http:\\//y)'
    """
    one_line = " ".join(redact(text).split())
    printable = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in one_line
    )
    marked = _MARKUP.sub(r"\\\1", printable).translate(_HTML)
    # GitHub makes links of bare addresses.
    return marked.replace("://", r":\//").replace("www.", r"www\.")


def _compute(flops: int | None) -> str:
    return "unknown" if flops is None else format_compute(flops)


def _gpu_time(receipt: ComputeReceipt) -> str:
    utilization = receipt.assumed_utilization
    assumed = "" if utilization is None else f", at {utilization:.2g} of peak (assumed)"
    return _compute(receipt.gpu_time_flops) + (
        assumed if receipt.gpu_time_flops is not None else ""
    )


def _ratio(receipt: ComputeReceipt) -> str:
    ratio = "unknown" if receipt.ratio is None else f"{receipt.ratio:.3g}"
    cause = "" if receipt.cause == "none" else f" ({escape(receipt.cause)})"
    return f"{ratio}, verdict: {escape(receipt.verdict)}{cause}"


def _devices(receipt: ComputeReceipt) -> str:
    count = "" if receipt.device_count is None else f"{receipt.device_count:,} x "
    peak, precision = receipt.peak_flops, receipt.precision
    at = f" ({escape(precision)})" if precision else ""
    each = "" if peak is None else f", peak {format_flops(peak, 'FLOP/s')} each{at}"
    return f"{count}{escape(receipt.device_name or 'unknown')}{each}"


def _hours(hours: float | None) -> str:
    return "unknown" if hours is None else f"{hours:,.0f}" if hours >= 999.5 else f"{hours:.3g}"


def _energy(joules: float | None) -> str:
    return "not measured" if joules is None else f"{kwh(joules):,.3g} kWh (NVML, the GPU boards)"


def _steps(receipt: ComputeReceipt) -> str:
    steps = "unknown" if receipt.steps is None else f"{receipt.steps:,}"
    return f"{steps} in {counted(len(receipt.segments), 'segment')}"


def _base(receipt: ComputeReceipt) -> str:
    if receipt.base_model is None and receipt.base_flops is None and not receipt.parents:
        return "none"
    receipts = ", ".join(map(escape, receipt.parents))
    texts = (
        escape(receipt.base_model or "not named"),
        f"compute {_compute(receipt.base_flops)}",
        f"receipt {receipts}" if receipts else "no receipt",
    )
    return ", ".join(texts)


def _uncounted(receipt: ComputeReceipt) -> str:
    if receipt.uncounted_ops is None:
        return "unknown"
    if not any(receipt.uncounted_ops.values()):
        return ""
    return f"{escape(name_ops(receipt.uncounted_ops))}: method 1 is a lower bound"


def _run(receipt: ComputeReceipt) -> str:
    named = f" ({escape(receipt.name)})" if receipt.name else ""
    return f"{escape(receipt.run)}{named}, {escape(receipt.status)}{_day(receipt.created)}"


def _receipt(receipt: ComputeReceipt) -> str:
    written = "none, made from the ledger" if "made_from" in receipt.extra else receipt.hash
    return f"{escape(written)} (computemeter {escape(receipt.version)})"


def _day(created: float) -> str:
    written = day(created)
    return f", {written}" if written else ""
