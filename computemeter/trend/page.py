"""The trend as one HTML file that works with no network.

Names of runs, users and tags are untrusted. They are in the file only as packed data, which holds
no letter of HTML, and the page's code makes nothing but text of them. A content security policy
lets these scripts run and no other, and forbids every connection.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable
from datetime import UTC, date, datetime
from importlib.resources import files
from string import Template
from typing import Any

from computemeter._version import __version__
from computemeter.appendix import AppendixEntry, load_appendix
from computemeter.records import RunRecord
from computemeter.trend.fit import ERAS, Era, moores_law
from computemeter.trend.garbage import no_garbage
from computemeter.trend.page_data import Trend, columns, is_flagged, label, pack
from computemeter.trend.rollups import RollUp, by_project, by_user, by_week, roll_up
from computemeter.trend.words import details, headline, left_out, set_name
from computemeter.units import PFS_DAY, format_compute, format_flops
from computemeter.wording import counted

__all__ = ["THRESHOLDS", "page"]

THRESHOLDS = (
    (1e23, "1e23", "1e23: EU, indicative of a general-purpose model"),
    (1e25, "1e25", "1e25: EU, presumption of systemic risk"),
    (1e26, "1e26", "1e26: California SB 53, New York"),
)
"""FLOP, short name, and whose line it is."""

_CODE = ("data.js", "chart.js", "tables.js", "main.js")
_POINTS_OF_A_LINE = 80
_MOST_MARKED = 20
_LONGEST_REASON = 400
# Shorter names, and on which side they do not cover each other.
_LABELS = {
    "AlexNet": ("AlexNet", "top right"),
    "Dropout": ("Dropout", "bottom right"),
    "Visualizing and Understanding Conv Nets": ("Visualizing Conv Nets", "bottom center"),
    "Seq2Seq": ("Seq2Seq", "middle left"),
    "VGG": ("VGG", "top right"),
    "ResNet-152": ("ResNet-152", "bottom right"),
    "Neural Machine Translation (GNMT)": ("GNMT", "middle right"),
    "Attention is all you need": ("Attention", "bottom center"),
}


@no_garbage()
def page(trend: Trend) -> bytes:
    """Draw the page.

    Raises:
        ModuleNotFoundError: plotly or numpy is not installed.
    """
    from plotly.offline import get_plotlyjs

    code, plotly = _code(), _eager(_inline(get_plotlyjs()))
    text = Template(_static("page.html")).substitute(
        title=html.escape(label(trend.title)),
        headline=html.escape(headline(trend.fit)),
        made=f"{datetime.fromtimestamp(trend.made, UTC):%Y-%m-%d %H:%M} UTC",
        version=html.escape(__version__),
        css=_static("page.css"),
        policy=_policy(plotly, code),
        plotly=plotly,
        code=code,
        data=pack(_data(trend)),
    )
    return text.encode()


def _static(name: str) -> str:
    return files("computemeter.trend").joinpath("static", name).read_text("utf-8")


def _code() -> str:
    return _inline("\n".join(_static(name) for name in _CODE))


def _inline(script: str) -> str:
    # The parser would end the element at the first of these; in plotly.js they are in strings.
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _eager(plotly: str) -> str:
    """Put the one function that is all of plotly.js in parentheses.

    By them Chromium knows that it will be called, and reads its 4.8 MB once and not twice.
    """
    head, found, body = plotly.partition(": this, () => {")
    body, end, rest = body.rpartition("}));")
    return f"{head}: this, (() => {{{body}}})));{rest}" if found and end else plotly


def _policy(*scripts: str) -> str:
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    # unsafe-eval: plotly.js compiles its WebGL drawing code in the browser.
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes} 'unsafe-eval'",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _data(trend: Trend) -> dict[str, Any]:
    marked = _marked(trend)
    more = len(marked) - _MOST_MARKED
    return {
        "made": round(trend.made),
        "headline": headline(trend.fit),
        "details": details(trend.fit, trend.frontier, include_estimated=trend.include_estimated),
        "sources": [label(source) for source in trend.sources],
        "notes": _notes(trend),
        "leftOut": [label(line, _LONGEST_REASON) for line in left_out(trend.left_out)],
        "runs": columns(trend.dots),
        "fitted": trend.fitted,
        "fitWords": f"in the fit: {set_name(trend.frontier)}",
        **_lines(trend),
        "appendix": [_appendix(entry) for entry in load_appendix()],
        "eras": [_era(era) for era in ERAS],
        "thresholds": [
            {"flops": flops, "short": short, "text": text} for flops, short, text in THRESHOLDS
        ],
        "reference": _reference(trend),
        "rollups": {
            "project": _rows(roll_up(trend.records, by_project)),
            "user": _rows(roll_up(trend.records, by_user)),
            "week": _rows(roll_up(trend.records, by_week)),
        },
        "marked": marked[:_MOST_MARKED],
        "markedMore": f"and {counted(more, 'more run')}" if more > 0 else "",
        "curves": [_curve(trend, position) for position in range(len(trend.curves))],
        "curvesLog": all(loss is None or loss > 0 for curve in trend.curves for loss in curve.loss),
        "curvesNote": trend.curves_note,
        "show": {"appendix": trend.appendix, "thresholds": trend.thresholds},
    }


def _notes(trend: Trend) -> list[str]:
    notes = list(trend.notes)
    if (reference := trend.reference) is not None:
        older = f" Left out: {counted(reference.left_out, 'row')} from before 2010, or incomplete."
        notes.append(
            f"Reference points: {label(reference.file)}; {reference.attribution}."
            + (older if reference.left_out else "")
        )
    return notes


def _lines(trend: Trend) -> dict[str, Any]:
    """Return the fit with its band, and the 18-month line from where the fit begins."""
    fit = trend.fit
    if isinstance(fit, str):
        return {"fit": None, "moore": None}
    step = (fit.last - fit.first) / (_POINTS_OF_A_LINE - 1)
    whens = [fit.first + step * position for position in range(_POINTS_OF_A_LINE)]
    line = [_power(fit.predict(when)) for when in whens]
    low, high = fit.band(whens)
    moore = [
        _power(moores_law(when, from_when=fit.first, from_log10=fit.intercept)) for when in whens
    ]
    return {
        "fit": {
            "x": whens,
            "y": line,
            "low": [_power(each) for each in low],
            "high": [_power(each) for each in high],
        },
        "moore": {"x": whens, "y": moore},
    }


def _power(exponent: float) -> float:
    # A band of few points may open wider than any float.
    return float(10 ** min(max(float(exponent), 0.0), 40.0))


def _appendix(entry: AppendixEntry) -> dict[str, Any]:
    one, two, total = entry.printed_operations, entry.printed_gpu_time, entry.printed_total
    short, side = _LABELS.get(entry.name, (entry.name, "middle right"))
    facts = [
        ("method 1, operations", str(one or "not printed")),
        ("method 2, GPU time", str(two or "not printed")),
        *([("total", str(total))] if total else []),
        ("paper", entry.paper_date.isoformat()),
        ("from", "AI and compute, OpenAI, 2018, appendix, as printed"),
        *([("note", entry.note)] if entry.note else []),
    ]
    return {
        "name": entry.name,
        "short": short,
        "side": side,
        "when": _seconds(entry.paper_date),
        "one": one.pfs_days * PFS_DAY if one else None,
        "two": two.pfs_days * PFS_DAY if two else total.pfs_days * PFS_DAY if total else None,
        "facts": facts,
    }


def _era(era: Era) -> dict[str, Any]:
    start, end = (_seconds(each) if each else None for each in (era.start, era.end))
    return {"start": start, "end": end, "name": era.name, "sentence": era.sentence}


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _reference(trend: Trend) -> dict[str, Any] | None:
    if trend.reference is None:
        return None
    points = trend.reference.points
    return {
        "file": label(trend.reference.file),
        "name": [label(point.name) for point in points],
        "when": [round(point.when) for point in points],
        "flops": [point.flops for point in points],
        "organization": [label(point.organization) for point in points],
        "confidence": [label(point.confidence) for point in points],
    }


def _rows(rollups: Iterable[RollUp]) -> list[dict[str, Any]]:
    return [
        {
            "name": label(each.name) or None,
            "runs": each.runs,
            "run": _float(each.run_flops),
            "spent": _float(each.spent_flops),
            "lost": _float(each.lost_flops),
            "estimated": _float(each.estimated_flops),
            "deviceSeconds": each.device_seconds,
            "mfu": each.mfu,
            "notAdded": each.unknown + each.overclaiming,
        }
        for each in rollups
    ]


def _float(flops: int | None) -> float | None:
    """Keep six digits; None also for what no float holds."""
    if flops is None or abs(flops) > 10**300:
        return None
    return float(f"{flops:.6g}")


def _marked(trend: Trend) -> list[dict[str, Any]]:
    """List the runs to look into, the largest claim first."""
    runs = [
        (position, dot.run)
        for position, dot in enumerate(trend.dots)
        if dot.kind == "overclaiming" or is_flagged(dot.run)
    ]
    runs.sort(key=lambda item: -(item[1].spent_flops or 0))
    return [{"run": position, "why": _why(run)} for position, run in runs]


def _why(run: RunRecord) -> str:
    if run.overclaims and run.possible_flops is not None:
        possible = format_compute(run.possible_flops)
        return f"its devices could have done {possible} at most: a count or a peak is wrong"
    ratio = "" if run.ratio is None else f" (method 2 / method 1 = {run.ratio:.3g})"
    suspect = "count" if run.cause == "count_suspect" else "peak"
    return f"{run.verdict}: the {suspect} is suspect{ratio}"


def _curve(trend: Trend, position: int) -> dict[str, Any]:
    curve = trend.curves[position]
    return {
        "name": f"{label(curve.name) or 'a run without a name'}, "
        f"{format_flops(curve.pfs_days[-1] * PFS_DAY)}",
        "x": curve.pfs_days,
        "y": curve.loss,
    }
