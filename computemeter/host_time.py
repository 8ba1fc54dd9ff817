"""Where a fit's wall time goes on the host: parts that add up to the whole."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from computemeter.clock import TrainingClock
from computemeter.device_clock import DeviceClock


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTime:
    """What was timed on the host; all in seconds.

    Attributes:
        wall: from the beginning of the fit to its end.
        training: from the first step to the last, what is no training taken out.
        steps: in steps.
        waiting: for data; None where that could not be seen, and what passes between two steps
            stands for it.
        waiting_before: the part of it before the first step, which is outside training.
        validation: outside training.
        checkpoint: writing checkpoints, outside training.
        paused: left out by the user.
        logging: recording what was measured, between steps.
        tracing: counting outside of steps, by tracing them.
        counted: in steps that were counted as they ran.
        counted_steps: how many these were.
        all_steps: counted or not.
        compiling: in steps; None where it is not known.
        compiling_outside: between steps and before the first.
    """

    wall: float
    training: float
    steps: float
    waiting: float | None
    waiting_before: float
    validation: float
    checkpoint: float
    paused: float
    logging: float
    tracing: float
    counted: float
    counted_steps: int
    all_steps: int
    compiling: float | None
    compiling_outside: float = 0.0

    @property
    def counting(self) -> float:
        """What counting cost: tracing, and by how much counted steps took longer than others.

        A run's first step is a counted one, so what a framework does once for all (allocating,
        choosing kernels) is in here too.
        """
        plain_steps = self.all_steps - self.counted_steps
        if not self.counted_steps or not plain_steps:
            return self.tracing
        usual = (self.steps - self.counted) / plain_steps
        longer = self.counted - self.counted_steps * usual - (self.compiling or 0.0)
        return self.tracing + max(0.0, longer)

    @property
    def all_compiling(self) -> float | None:
        """Compiling in steps and outside; None where it is not known."""
        return None if self.compiling is None else self.compiling + self.compiling_outside

    @property
    def stall(self) -> float:
        """Waiting for data; where that cannot be seen, everything between two steps but our own."""
        if self.waiting is not None:
            return self.waiting
        return max(0.0, self.training - self.steps - self.logging - self.tracing)

    @property
    def stall_in_training(self) -> float | None:
        """Waiting for data between two steps; None where that could not be seen."""
        return None if self.waiting is None else max(0.0, self.waiting - self.waiting_before)

    def since(self, before: Self) -> Self:
        """Return what was timed after an earlier reading of the same run."""
        spent: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            now, then = getattr(self, name), getattr(before, name)
            spent[name] = None if now is None else now - (then or 0)
        return type(self)(**spent)

    def parts(self) -> dict[str, float]:
        """Return the parts of the wall time, in seconds: they add up to it.

        "step" (plain training), "stall", "validation", "checkpoint", "compile", "counting" and
        "other" (setting up, callbacks, logging, pauses).
        """
        compiling = self.compiling or 0.0
        in_steps = self.counting - self.tracing
        parts = {
            "step": max(0.0, self.steps - compiling - in_steps),
            "stall": self.stall,
            "validation": self.validation,
            "checkpoint": self.checkpoint,
            "compile": compiling + self.compiling_outside,
            "counting": self.counting,
        }
        return {**parts, "other": max(0.0, self.wall - sum(parts.values()))}


class HostTimer:
    """Adds up what the clock of a run does not know: what metering itself takes.

    Attributes:
        logging: seconds spent on recording.
        tracing: seconds spent on counting outside of steps.
    """

    def __init__(self) -> None:
        self.logging = self.tracing = 0.0
        self._steps = self._counted_steps = 0
        self._counted = 0.0

    def note_step(self, seconds: float, *, counted: bool) -> None:
        """Add a step that has run."""
        self._steps += 1
        if counted:
            self._counted_steps += 1
            self._counted += seconds

    def read(self, clock: TrainingClock, device: DeviceClock) -> HostTime:
        """Return what was timed, with what the run's clock and its device's clock know."""
        compiling, outside = device.compile_seconds(), device.compile_seconds_outside()
        return HostTime(
            wall=clock.wall_seconds,
            training=clock.training_seconds,
            steps=clock.step_seconds,
            waiting=clock.waiting_seconds,
            waiting_before=clock.waiting_before,
            validation=clock.windows["validation"],
            checkpoint=clock.windows["checkpoint"],
            paused=clock.windows["pause"],
            logging=self.logging,
            tracing=self.tracing,
            counted=self._counted,
            counted_steps=self._counted_steps,
            all_steps=self._steps,
            compiling=None if compiling is None else max(0.0, compiling - outside),
            compiling_outside=outside,
        )
