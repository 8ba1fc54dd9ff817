"""Says a verdict once, when a run comes to it."""

from __future__ import annotations

import logging

from computemeter.journal import Journal
from computemeter.reconcile import is_loud
from computemeter.records import Judgement

_LOG = logging.getLogger("computemeter")
_REMEDY = {
    "count_suspect": "; computemeter.register_formula gives an operator of PyTorch its formula, "
    "meter.add_flops adds FLOPs of any kernel"
}
"""What to do, where the diagnosis alone does not say it."""


class Telling:
    """Tells of verdicts that are worth a line, each with its cause once; never at every step.

    Args:
        alert: whether to raise one alert in the trackers, for a fault or an alarm.
    """

    def __init__(self, *, alert: bool) -> None:
        self._alert = alert
        self._told: set[tuple[str, str]] = set()

    def hear(self, judgement: Judgement, journal: Journal | None, *, known: bool = False) -> None:
        """Take the judgement of a logging step.

        Args:
            judgement: as it is now.
            journal: where an alert goes.
            known: its reason has been warned of already.
        """
        loud = is_loud(judgement) and not known
        if not loud and judgement.verdict not in {"warn", "alarm"}:
            return
        if self._alert and journal is not None and (loud or judgement.verdict == "alarm"):
            self._alert = False
            journal.alert(judgement)
        state = (judgement.verdict, judgement.cause)
        if state not in self._told:
            self._told.add(state)
            level = logging.WARNING if loud else logging.INFO
            remedy = _REMEDY.get(judgement.cause, "")
            _LOG.log(level, "computemeter: %s: %s%s", judgement.cause, judgement.diagnosis, remedy)
