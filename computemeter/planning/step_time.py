"""How long a training step takes for a batch size: seconds = a + b x batch, fitted to a few.

`a` is what a step takes whatever the batch (launches, Python, and the optimizer's update, which
goes over all parameters), `b` what one more example adds. The larger the batch, the more examples
share `a`: throughput rises towards 1/b and saturates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

SATURATED = 0.9
"""Share of the highest throughput, 1/b, from which speed counts as saturated."""
_OUTLIER = 0.05
"""Relative residual beyond which a point weighs less and less: timings repeat to a few percent."""
_NOTHING = 1e-9
"""Share of the longest step below which a part of it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The time of training steps with one batch size.

    Attributes:
        batch_size: examples in a step.
        seconds: median over the steps.
        spread: half the distance between the steps' quartiles, in seconds; None of one step.
        steps: how many were timed, warm-up left out.
    """

    batch_size: int
    seconds: float
    spread: float | None = None
    steps: int = 1


@dataclass(frozen=True, slots=True)
class StepTimeFit:
    """The line y = a + b x, its parts never negative, with how far the points are from it.

    Attributes:
        fixed: a: seconds of a step whatever the batch.
        per_example: b: seconds that one more example adds.
        residuals: x of each point, and how much more than the line it takes, as a share of the
            line: 0.1 is 10 % slower than fitted.
    """

    fixed: float
    per_example: float
    residuals: tuple[tuple[float, float], ...] = field(default=())

    def seconds(self, batch_size: float) -> float:
        """Return the seconds of a step with so many examples.

        Examples:
            >>> StepTimeFit(fixed=0.5, per_example=0.25).seconds(4)
            1.5
        """
        return self.fixed + self.per_example * batch_size

    @property
    def saturates_at(self) -> int | None:
        """Smallest batch size with 90 % of the highest throughput; None where no end is in sight.

        A batch of x examples has the share b x / (a + b x) of it, which is 0.9 at x = 9 a / b.

        Examples:
            >>> StepTimeFit(fixed=0.5, per_example=0.25).saturates_at
            18
        """
        if not self.per_example:
            return None
        reached = SATURATED / (1 - SATURATED) * self.fixed / self.per_example
        return max(1, math.ceil(round(reached, 6)))

    @property
    def worst(self) -> float:
        """The largest residual, whatever its sign; 0 through two points is no evidence."""
        return max((abs(residual) for _, residual in self.residuals), default=0.0)


def fit_step_time(measured: Sequence[StepTime]) -> StepTimeFit | None:
    """Fit a line to measured steps; None where fewer than two batch sizes were measured.

    Raises:
        ModuleNotFoundError: numpy or scipy is not installed (`computemeter[trend]`).
    """
    return fit_line([(step.batch_size, step.seconds) for step in measured])


def fit_line(points: Sequence[tuple[float, float]]) -> StepTimeFit | None:
    """Fit y = a + b x, a and b not negative; None for fewer than two different x.

    Least squares of the *relative* residuals, since a timing is off by some percent and not by
    some seconds, and the batch sizes span orders of magnitude. A point more than 5 % off counts
    less than its square (the loss "soft L1" of `scipy.optimize.least_squares`), so that one
    disturbed measurement does not turn the line.

    Args:
        points: x and y, y above 0.

    Raises:
        ValueError: a y is not above 0.
        ModuleNotFoundError: numpy or scipy is not installed (`computemeter[trend]`).
    """
    if bad := [y for _, y in points if not (math.isfinite(y) and y > 0)]:
        raise ValueError(f"a time must be a finite number above 0, got {bad[0]!r}")
    if len({x for x, _ in points}) < 2:
        return None
    fixed, slope = _coefficients(points)
    fit = StepTimeFit(fixed, slope)
    return StepTimeFit(fixed, slope, tuple(_residuals(fit, points)))


def check_installed() -> None:
    """Check that a fit can be made, before what is to be fitted is measured.

    Raises:
        ModuleNotFoundError: numpy or scipy is not installed; the message says what to type.
    """
    for name in ("numpy", "scipy"):
        if find_spec(name) is None:
            install = "pip install 'computemeter[trend]'"
            raise ModuleNotFoundError(f"fitting step times needs {name}: {install}", name=name)


def _residuals(
    fit: StepTimeFit, points: Sequence[tuple[float, float]]
) -> Iterator[tuple[float, float]]:
    return ((x, y / fit.seconds(x) - 1) for x, y in points)


def _coefficients(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit by a and b in units of the points' own size, so that both are near 1."""
    check_installed()
    import numpy as np
    from scipy.optimize import least_squares, nnls

    x, y = np.array(points, dtype=float).T
    scale = np.abs(x).max()
    # Each row divided by its y: what is left to explain is 1 for every point.
    rows, ones = np.stack([1 / y, x / scale / y], axis=1) * y.max(), np.ones_like(y)
    start, _ = nnls(rows, ones)
    robust = least_squares(
        lambda both: rows @ both - ones,
        start,
        bounds=(0, np.inf),
        loss="soft_l1",
        f_scale=_OUTLIER,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    # The solver stays off its bounds by a hair.
    fixed, slope = np.where(robust.x < _NOTHING, 0.0, robust.x * y.max())
    return float(fixed), float(slope / scale)
