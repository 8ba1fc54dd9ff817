"""How far off the figures of a disclosure may be."""

import pytest
from disclosures import PF, entry, made

from computemeter.disclosure.budget import budget
from computemeter.disclosure.entries import Base, Counting


def line(found, cause):
    return next(each for each in budget(found).lines if each.cause == cause)


def test_a_complete_count_is_within_the_margin_and_an_assumed_utilisation_is_not():
    found = budget(made())
    assert (found.known, found.own.within, found.gpu_time.within) == (0.0, True, False)
    assert "37-51 %" in found.gpu_time.text


def test_an_operator_without_a_formula_makes_a_lower_bound():
    found = budget(made(entry(counting=Counting(uncounted_ops={"aten::mv": 3}, estimated_steps=0))))
    assert found.own.within is None
    assert "lower bound" in found.own.text


@pytest.mark.parametrize(("error", "within"), [(1.5 * PF, True), (1.6 * PF, False)])
def test_recount_drift(error, within):
    counting = Counting(uncounted_ops={}, estimated_steps=5, standard_error=error)
    found = made(entry(counting=counting))
    # 1.96 x 1.5 of 10 PF is 29.4 %, x 1.6 is 31.4 %
    assert line(found, "recount drift").share == pytest.approx(1.96 * error / (10 * PF))
    assert budget(found).own.within is within


def test_estimated_steps_and_killed_launches_add_up():
    counting = Counting(
        uncounted_ops={}, counted_steps=8, estimated_steps=2, standard_error=0.0, killed=1
    )
    found = made(entry(counting=counting, status="unknown"))
    assert line(found, "steps booked at a mean").share == 0.2  # 2 of 10
    assert line(found, "killed launches").share == pytest.approx(10 / 600)
    assert budget(found).known == pytest.approx(0.2 + 10 / 600)


@pytest.mark.parametrize(
    ("category", "status", "missing"),
    [
        # A launch goes on from a checkpoint with its exact total: only the last may lack 10 s.
        ("training", "finished", 0.0),
        ("training", "unknown", 10 / 600),
        ("synthetic_data", "finished", 20 / 600),  # all that was run counts
    ],
)
def test_what_a_killed_launch_leaves_unsaid(category, status, missing):
    found = made(entry(category=category, status=status, counting=Counting(killed=2)))
    assert line(found, "killed launches").share == pytest.approx(missing)


def test_a_count_that_the_meter_doubts_is_not_within_anything():
    found = budget(made(entry(cause="count_suspect", diagnosis="the methods differ 9x")))
    assert (found.own.within, "count_suspect" in found.own.text) == (None, True)


def test_the_error_of_a_base_weighs_by_its_compute():
    def whole(error):
        return budget(made(bases=[Base(name="b", flops=90 * PF, error=error)]))

    assert whole(0.33).total.within is True  # 90 of 100 PF off by 33 %: 29.7 %
    assert whole(0.34).total.within is False  # 30.6 %
    assert whole(None).total.within is None
    assert whole(None).own.within is True
