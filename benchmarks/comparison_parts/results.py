"""What the comparison finds, and its way into a file and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

COMPUTEMETER = "computemeter"
MONITOR = "ThroughputMonitor"
FLOP_COUNTER = "FlopCounterMode"
PROFILER = "torch.profiler"
TOTAL_FLOS = "total_flos"
CODECARBON = "CodeCarbon"
TOOLS = (COMPUTEMETER, MONITOR, FLOP_COUNTER, PROFILER, TOTAL_FLOS, CODECARBON)

Kind = Literal["model", "as run"]
# Whether a tool means the model's work, or all that ran, what is computed twice included.
MEANS: Mapping[str, Kind] = {
    COMPUTEMETER: "model",
    MONITOR: "as run",
    FLOP_COUNTER: "as run",
    PROFILER: "as run",
    TOTAL_FLOS: "model",
}


@dataclass(frozen=True, slots=True)
class Counted:
    """What the tools say of a run, beside the figures by hand.

    Attributes:
        name: of the run.
        model_flops: by hand, forward and backward.
        as_run_flops: by hand, with what is computed a second time.
        layers: the arithmetic, a line each.
        answers: FLOPs by tool; a tool that says nothing of such a run is not there.
        disclaimed: the tools whose documentation says that this run is not for them; what they
            say all the same is in the answers.
        meter_as_run: computemeter's own count of all that ran.
        meter_elsewhere: computemeter's count of the same run in Hugging Face's Trainer, or None.
    """

    name: str
    model_flops: int
    as_run_flops: int
    layers: tuple[str, ...]
    answers: Mapping[str, int]
    disclaimed: tuple[str, ...]
    meter_as_run: int
    meter_elsewhere: int | None

    def error(self, tool: str) -> float | None:
        """Return by which share a tool is off, or None where it says nothing.

        A count that is the model's work or all that ran, to the last FLOP, is right; any other is
        compared with the one of them that the tool means.
        """
        found = self.answers.get(tool)
        if found is None:
            return None
        if found in {self.model_flops, self.as_run_flops}:
            return 0.0
        meant = self.model_flops if MEANS[tool] == "model" else self.as_run_flops
        return found / meant - 1


@dataclass(frozen=True, slots=True)
class Cost:
    """How many times as long a step takes: the median with its bootstrap 95 % interval."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Timed:
    """What the tools cost a training.

    Attributes:
        name: of the training.
        step_ms: a step without any tool.
        again: the training without any tool, against itself.
        costs: by tool.
    """

    name: str
    step_ms: float
    again: Cost
    costs: Mapping[str, Cost]


@dataclass(frozen=True, slots=True)
class Energy:
    """What CodeCarbon says of a run.

    Attributes:
        run: its name.
        watt_hours: of electricity.
        cpu_watts: that it took the processor to draw.
        ram_watts: that it took the memory to draw.
        start_seconds: of the first tracker in a process, which looks for hardware.
    """

    run: str
    watt_hours: float
    cpu_watts: float
    ram_watts: float
    start_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Attributes:
        environment: the machine, and the versions of the tools.
        counted: a run each.
        timed: a training each; empty where nothing was timed.
        energy: what CodeCarbon says.
        lines: that a user adds or changes in a training script, by tool.
        lines_elsewhere: the same for computemeter in Hugging Face's Trainer.
    """

    environment: Mapping[str, str | int]
    counted: tuple[Counted, ...]
    timed: tuple[Timed, ...]
    energy: Energy
    lines: Mapping[str, int]
    lines_elsewhere: int

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def of_json(cls, text: str) -> Report:
        """Read what `to_json` wrote."""
        found: dict[str, Any] = json.loads(text)
        found["counted"] = tuple(map(_counted, found["counted"]))
        found["timed"] = tuple(map(_timed, found["timed"]))
        found["energy"] = Energy(**found["energy"])
        return cls(**found)


def _counted(found: dict[str, Any]) -> Counted:
    lists = {name: tuple(found[name]) for name in ("layers", "disclaimed")}
    return Counted(**{**found, **lists})


def _timed(found: dict[str, Any]) -> Timed:
    costs = {tool: Cost(**cost) for tool, cost in found["costs"].items()}
    return Timed(**{**found, "again": Cost(**found["again"]), "costs": costs})
