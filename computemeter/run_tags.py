"""What a tracker's run is tagged with, by the meter as it trains and by a push afterwards.

Names are without the prefix `computemeter.`, which a sink adds in its own way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from computemeter.ledger import Ledger, LedgerHeader


def header_tags(header: LedgerHeader) -> dict[str, str]:
    """Say what is known when a segment starts."""
    tags = {
        "run": header.run,
        "schema": str(header.schema),
        "version": header.version,
        "device": f"{header.device_count} x {name}" if (name := header.device_name) else None,
        "project": header.project,
        "team": header.team,
        "category": header.category,
    }
    return {name: text for name, text in tags.items() if text is not None}


def segment_tag(segment: str, totals: Mapping[str, Any]) -> dict[str, str]:
    """Say what a segment came to, as compact JSON."""
    return {f"segment.{segment}": json.dumps(totals, separators=(",", ":"))}


def ledger_tags(ledger: Ledger) -> dict[str, str]:
    """Say all that a run is tagged with for one segment of it."""
    verdicts = [event.facts for event in ledger.events if event.name == "verdict"]
    judgement = {name: str(text) for name, text in verdicts[-1].items()} if verdicts else {}
    share, totals = ledger.header.assumed_utilization, ledger.last_totals
    # Early ledgers have it in the header alone; what was possible follows from it.
    told = {"assumed_utilization": share, **totals}
    segment = segment_tag(ledger.header.segment, told) if totals else {}
    return {**header_tags(ledger.header), **judgement, **segment}
