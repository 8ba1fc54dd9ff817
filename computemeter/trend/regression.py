"""Straight lines through points, and how far to trust them; needs numpy.

`scipy.stats` has both lines, and takes longer to import than 10,000 runs take to read and draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# So many units are drawn at most. Where there are more, each is put at random into one of so many
# groups: groups of independent units tell the same spread, to sqrt(1 / (2 * 1000)) = 2 % of it.
_MOST_UNITS = 1000
# A resample whose x spread less than this share of all x's is as good as a single date.
_LEAST_SPREAD = 1e-5


@dataclass(frozen=True, slots=True)
class Line:
    """A least-squares line.

    Attributes:
        slope: of y, per unit of x.
        intercept: y at x = 0.
        r2: share of the variance of y that the line takes up; None where y does not vary.
        spread: standard deviation of y around the line, with n - 2 degrees of freedom.
    """

    slope: float
    intercept: float
    r2: float | None
    spread: float


def least_squares(x: Floats, y: Floats) -> Line:
    """Fit a line to at least three points with different x."""
    # From the first value on, so that a constant y gives a slope of exactly 0.
    rise = y - y[0]
    (variance, together), (_, of_y) = np.cov(x, rise, bias=True)
    slope = together / variance
    intercept = rise.mean() - slope * x.mean()
    rest = rise - (intercept + slope * x)
    return Line(
        float(slope),
        float(intercept + y[0]),
        # It is rounded, and of an exact line may come out above 1.
        min(float(together / np.sqrt(variance * of_y)) ** 2, 1.0) if np.ptp(y) else None,
        float(np.sqrt(rest @ rest / (len(x) - 2))),
    )


def resampled_lines(
    x: Floats, y: Floats, units: Integers, *, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Fit lines to samples of the points, drawn with replacement by unit (cluster bootstrap).

    Cameron, Gelbach and Miller (2008), "Bootstrap-Based Improvements for Inference with Clustered
    Errors", call it the pairs cluster bootstrap. A line needs five sums, and a sample's are the
    sums of its units': no point is looked at twice.

    Args:
        x: at least three points, with different values.
        y: of the same points.
        units: which unit each belongs to, from 0 up; a unit is drawn as a whole.
        resamples: how many samples.
        seed: of this function's own random numbers.

    Returns:
        Slopes and intercepts. There are fewer of them than samples where samples fell on one x.
    """
    random = np.random.default_rng(seed)
    count = int(units.max()) + 1
    if count > _MOST_UNITS:
        units = (random.permutation(count) % _MOST_UNITS)[units]
        count = _MOST_UNITS
    rise = y - y[0]
    terms = (np.ones_like(x), x, rise, x * x, x * rise)
    sums = np.stack([np.bincount(units, term, count) for term in terms], axis=1)
    drawn = random.integers(0, count, (resamples, count)) + count * np.arange(resamples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count)
    n, sx, sy, sxx, sxy = (times.astype(np.float64) @ sums).T
    variance = (sxx - sx * sx / n) / n
    defined = variance > _LEAST_SPREAD**2 * np.var(x)
    n, sx, sy, sxy, variance = (each[defined] for each in (n, sx, sy, sxy, variance))
    slopes = (sxy - sx * sy / n) / n / variance
    return slopes, (sy - slopes * sx) / n + y[0]


def theil_sen(x: Floats, y: Floats, *, most: int, seed: int) -> float | None:
    """Return the median slope of all pairs of points, or of `most` points drawn from them.

    Every pair is held: 10,000 points would take 2.5 GB. None where the points drawn share one x.
    """
    if len(x) > most:
        drawn = np.random.default_rng(seed).choice(len(x), most, replace=False)
        x, y = x[drawn], y[drawn]
    across, up = (np.subtract.outer(each, each) for each in (x, y))
    later = across > 0
    return float(np.median(up[later] / across[later])) if later.any() else None
