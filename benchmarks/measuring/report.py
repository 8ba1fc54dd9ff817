"""The parts of a page of results, and its files."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks.measuring.estimates import Target

RESULTS = Path(__file__).parents[1] / "results"

Facts = Mapping[str, str | int]
"""Of the machine, the versions and the settings, by name."""


def written_by(script: str, facts: Facts) -> str:
    """Return the line under a page's heading."""
    said = ", ".join(f"{name} {value}" for name, value in facts.items())
    return f"Written by `benchmarks/{script}.py`: {said}.\n"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int] = (0,)
) -> str:
    """Return a table; `left` are the columns of text, and all others are of numbers."""
    rule = ["---" if column in left else "---:" for column in range(len(header))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *rows))


def targets_table(targets: Sequence[Target]) -> str:
    """Return the targets with what was found; small ones with more digits."""
    rows = []
    for target in targets:
        digits = 1 if target.most > 4 else 3
        found, spread = target.found.show(digits), f"{target.spread:.{digits}f}"
        rows.append((target.what, f"{target.most:g}", found, spread, target.verdict))
    return table(("", "at most", "found", "A/A spread", ""), rows)


def write(name: str, page: str, record: Mapping[str, object]) -> None:
    """Write what was found into the folder of results, as a page and as JSON."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
    text = json.dumps(record, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
