"""Units and how they read, at every size and at the edges between prefixes."""

import doctest

import pytest

from computemeter import units
from computemeter.units import (
    PF,
    PFS_DAY,
    SECONDS_PER_DAY,
    format_compute,
    format_flops,
    format_seconds,
    pfs_days,
)


def test_one_pfs_day():
    assert (PF, SECONDS_PER_DAY) == (10**15, 24 * 60 * 60)
    assert PFS_DAY == 86_400 * 10**15 == 864 * 10**17
    assert type(PFS_DAY) is int


def test_pfs_days_divides():
    assert pfs_days(0) == 0
    assert pfs_days(432 * 10**17) == 0.5
    # A 3.14e23 FLOP run: 3.14e23 / 8.64e19 = 3,634.26
    assert pfs_days(314 * 10**21) == pytest.approx(3_634.26, abs=0.005)


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (0, "0 FLOP"),
        (1, "1 FLOP"),
        (999, "999 FLOP"),
        (1_000, "1 KFLOP"),
        (1_234_567, "1.23 MFLOP"),
        (999_400, "999 KFLOP"),
        (999_500, "1 MFLOP"),  # three digits would round to 1000 K
        (45 * 10**11, "4.5 TFLOP"),
        (486 * PF, "486 PFLOP"),
        (314 * 10**21, "314 ZFLOP"),
        (10**25, "10 YFLOP"),
        (5 * 10**28, "50,000 YFLOP"),
        (-1_500, "-1.5 KFLOP"),
    ],
)
def test_format_flops(flops, text):
    assert format_flops(flops) == text


def test_format_flops_takes_a_unit():
    assert format_flops(0.5e12, "FLOP/s") == "500 GFLOP/s"


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (0, "0 FLOP = 0 pfs-days"),
        # 486e15 / 8.64e19 = 0.005625
        (486 * PF, "486 PFLOP = 0.00562 pfs-days"),
        # 8.64e16 / 8.64e19 = 0.001, the smallest that is written out
        (864 * 10**14, "86.4 PFLOP = 0.001 pfs-days"),
        (863 * 10**14, "86.3 PFLOP = 1.0e-3 pfs-days"),
        (PFS_DAY, "86.4 EFLOP = 1 pfs-days"),
        (999 * PFS_DAY, "86.3 ZFLOP = 999 pfs-days"),
        (12_345 * PFS_DAY, "1.07 YFLOP = 12,345 pfs-days"),
        (1, "1 FLOP = 1.2e-20 pfs-days"),
    ],
)
def test_format_compute(flops, text):
    assert format_compute(flops) == text


def test_thousands_of_pfs_days_read_like_the_rest():
    # 3.14e23 / 8.64e19 = 3,634: either form is fine, a Python exponent is not
    assert "e+" not in format_compute(314 * 10**21)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.5, "500 ms"),
        (1, "1 s"),
        (59.4, "59.4 s"),
        (60, "1 min 0 s"),
        (3_599.4, "59 min 59 s"),
        (3_599.6, "1 h 0 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.9996, "1 s"), (59.96, "1 min 0 s")])
def test_format_seconds_rounds_into_the_next_unit(seconds, text):
    assert format_seconds(seconds) == text


def test_the_examples_of_the_docstrings_run():
    results = doctest.testmod(units)
    assert results.attempted > 0
    assert results.failed == 0
