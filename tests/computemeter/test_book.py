"""The book of steps: exact where counts agree, honest where they do not."""

import random
from math import sqrt

import pytest

from computemeter import book as module
from computemeter.book import StepBook
from computemeter.records import Count


def counted(flops, hardware=None, **uncounted):
    return Count(
        model_flops=flops,
        hardware_flops=flops if hardware is None else hardware,
        by_op={"aten::mm": flops},
        by_dtype={"float32": flops},
        uncounted_ops=uncounted,
    )


@pytest.fixture
def book():
    """A book that can afford every count it wants: a year has passed."""
    return StepBook(lambda: 3e7)


def run(book, key, steps, count, seconds=0.01):
    """Run steps as the meter does: counted where the book wants it. Return which were counted."""
    chosen = []
    for number in range(1, steps + 1):
        wanted = book.wants_count(key)
        book.add(key, count if wanted else None, seconds)
        chosen += [number] * wanted
    return chosen


def test_an_empty_book(book):
    totals = book.totals()
    assert totals.count == Count()
    assert (totals.steps, totals.counted_steps) == (0, 0)
    assert (totals.predicted_steps, totals.estimated_steps) == (0, 0)
    assert (totals.standard_error, totals.samples) == (None, None)


def test_steps_of_one_key_are_booked_at_its_count(book):
    # 1000 steps of 38,764,544, a handful of them counted
    chosen = run(book, "a", 1000, counted(38_764_544, 38_764_545, fft=3))
    totals = book.totals()
    assert totals.count.model_flops == 38_764_544_000
    assert totals.count.hardware_flops == 38_764_545_000
    assert totals.count.by_op == {"aten::mm": 38_764_544_000}
    assert totals.count.by_dtype == {"float32": 38_764_544_000}
    assert totals.count.uncounted_ops == {"fft": 3_000}
    assert totals.steps == 1000
    assert totals.counted_steps == len(chosen)
    assert totals.predicted_steps == 1000 - len(chosen)
    assert (totals.estimated_steps, totals.standard_error) == (0, None)


def test_a_partial_last_batch_has_a_key_of_its_own(book):
    # 3 epochs of 99 full batches of 32 and one of 7
    for _epoch in range(3):
        run(book, 32, 99, counted(3_200))
        run(book, 7, 1, counted(700))
    totals = book.totals()
    assert totals.count.model_flops == 3 * (99 * 3_200 + 700)
    assert (totals.steps, totals.estimated_steps) == (300, 0)


def test_the_first_step_of_every_key_is_counted(book):
    assert book.wants_count("a")
    book.add("a", counted(1), 0.1)
    assert book.wants_count("b")


def test_every_octave_is_counted_once(book):
    chosen = run(book, "a", 4095, counted(1))
    # 1, 2-3, 4-7, ..., 2048-4095: bit_length is the octave
    assert [number.bit_length() for number in chosen] == list(range(1, 13))


def test_the_schedule_is_the_same_in_every_run_and_touches_no_random_state():
    before = random.getstate()
    schedules = [run(StepBook(lambda: 3e7), "a", 4095, counted(1)) for _ in range(2)]
    assert schedules[0] == schedules[1]
    assert random.getstate() == before


def test_counts_do_not_fall_at_fixed_places_of_their_octave(book):
    # A pattern in the data with a period of 2 must be met at both of its ends.
    chosen = run(book, "a", 2**16 - 1, counted(1))
    assert {number % 2 for number in chosen[1:]} == {0, 1}


def test_counting_again_stops_where_it_costs_too_much():
    elapsed = [0.0]
    book = StepBook(lambda: elapsed[0])
    # First counts are free of charge, but 20 of them end the free ones.
    for key in range(20):
        book.add(key, counted(1), 1.0)
    # 500 s allow 0.2 % = 1 s: the first again (0 s spent so far), the second (1 s), no third.
    elapsed[0] = 500.0
    assert len(run(book, 0, 1000, counted(1), seconds=1.0)) == 2
    # 2 s were spent, which 1,000 s allow.
    assert not book.wants_count(1)
    elapsed[0] = 1_000.0
    assert len(run(book, 1, 1000, counted(1), seconds=1.0)) == 1
    # A new key is counted whatever it costs.
    elapsed[0] = 0.0
    assert book.wants_count("new")


def test_the_first_twenty_counts_are_made_whatever_they_cost():
    book = StepBook(lambda: 0.0)
    # Octaves 1 to 16 of one key: 16 counts, 15 of them again, 15 s in no time at all.
    assert len(run(book, "a", 2**16 - 1, counted(1), seconds=1.0)) == 16
    # 4 more are free, then none.
    assert len(run(book, "b", 2**16 - 1, counted(1), seconds=1.0)) == 4


def test_counts_that_differ_are_booked_at_their_mean(book):
    # 10 and 20 counted, 3 more steps: mean 15, 5 * 15 = 75.
    for count in (counted(10, 12, fft=1), counted(20, 24, fft=2), None, None, None):
        book.add("a", count, 0.1)
    totals = book.totals()
    assert totals.count.model_flops == 75
    assert totals.count.hardware_flops == 90  # 5 * 18
    assert totals.count.by_op == {"aten::mm": 75}
    assert totals.count.uncounted_ops == {"fft": 8}  # 5 * 1.5 = 7.5
    assert (totals.counted_steps, totals.predicted_steps, totals.estimated_steps) == (2, 0, 3)
    # Variance of one step: (5^2 + 5^2) / (2 - 1) = 50. Of the 3 others around the mean of 2:
    # 3 * 50 for themselves, 3^2 * 50 / 2 for the mean: 150 + 225 = 375.
    assert totals.standard_error == pytest.approx(sqrt(375))


def test_standard_errors_of_keys_add_up_in_squares(book):
    for key, flops in (("a", (10, 20)), ("b", (100, 100, 130))):
        for number in flops:
            book.add(key, counted(number), 0.1)
        book.add(key, None, 0.1)
    totals = book.totals()
    # a: 3 * 15 = 45; b: 4 * 110 = 440
    assert totals.count.model_flops == 485
    # a: 50 * 1 * (1 + 1/2) = 75; b: (100 + 100 + 400) / 2 = 300; 300 * (1 + 1/3) = 400
    assert totals.standard_error == pytest.approx(sqrt(475))
    assert (totals.counted_steps, totals.estimated_steps) == (5, 2)


def test_where_every_step_was_counted_nothing_is_estimated(book):
    book.add("a", counted(10), 0.1)
    book.add("a", counted(20), 0.1)
    totals = book.totals()
    assert totals.count.model_flops == 30
    assert (totals.estimated_steps, totals.standard_error) == (0, None)


def test_a_key_that_was_never_counted_is_booked_at_the_mean_of_the_others(book):
    # a: 4 steps of 10; b: 2 steps nobody counted: 40 / 4 = 10 each
    for _ in range(4):
        book.add("a", counted(10), 0.1)
    for _ in range(2):
        book.add("b", None, 0.1)
    totals = book.totals()
    assert totals.count.model_flops == 60
    assert (totals.counted_steps, totals.predicted_steps, totals.estimated_steps) == (4, 0, 2)


def test_where_nothing_was_ever_counted_nothing_is_made_up(book):
    for _ in range(3):
        book.add("a", None, 0.1)
    totals = book.totals()
    assert (totals.steps, totals.estimated_steps, totals.counted_steps) == (3, 3, 0)
    assert totals.count.model_flops == 0


def test_a_failed_count_is_tried_again_at_octaves_and_not_at_every_step(book):
    chosen = run(book, "a", 4095, None)
    assert [number.bit_length() for number in chosen] == list(range(1, 13))
    # Once it works, the steps before are booked, too.
    chosen = run(book, "a", 4096, counted(10))
    assert (4095 + chosen[0]).bit_length() == 13
    assert book.totals().count.model_flops == 10 * (4095 + 4096)
    assert book.totals().estimated_steps == 0


def test_more_keys_than_are_kept_keep_the_totals_exact(book, monkeypatch):
    monkeypatch.setattr(module, "_KEYS_KEPT", 3)
    measured = []
    for _round in range(4):
        for key in range(10):
            for _step in range(5):
                wanted = book.wants_count(key)
                book.add(
                    key,
                    counted(10**20 + key, fft=key) if wanted else None,
                    0.1,
                    lambda key=key: measured.append(key) or 8,
                )
    totals = book.totals()
    # 4 rounds * 5 steps of each key: 20 * (10 * 10^20 + 0 + 1 + ... + 9)
    assert totals.count.model_flops == 20 * (10**21 + 45)
    assert totals.count.uncounted_ops == {"fft": 20 * 45}
    assert (totals.steps, totals.estimated_steps, totals.samples) == (200, 0, 1_600)
    assert len(book._entries) == 3
    # A key that comes back after it was dropped is counted and measured again.
    assert len(measured) == 40
    assert totals.counted_steps >= 40


def test_keys_that_differ_or_were_never_counted_keep_that_when_they_are_dropped(book, monkeypatch):
    monkeypatch.setattr(module, "_KEYS_KEPT", 1)
    for count in (counted(10), counted(20), None, None, None):
        book.add("differs", count, 0.1)
    book.add("never", None, 0.1)
    book.add("last", counted(15), 0.1)
    totals = book.totals()
    # 75 as above and 15 of the last in 6 known steps: 90; the 7th at their mean of 15
    assert totals.count.model_flops == 105
    assert (totals.counted_steps, totals.predicted_steps, totals.estimated_steps) == (3, 0, 4)
    assert totals.standard_error == pytest.approx(sqrt(375))


def test_asking_for_totals_changes_nothing(book, monkeypatch):
    monkeypatch.setattr(module, "_KEYS_KEPT", 2)
    for key in range(5):
        run(book, key, 10, counted(key))
    assert book.totals() == book.totals()


@pytest.mark.parametrize("flops", [2**63 + 1, 2**200 + 1])
def test_ints_of_any_size_are_exact(book, flops):
    # the 1 is lost in a float from 2^53 on
    run(book, "a", 1_000_003, counted(flops, flops + 1))
    run(book, "b", 1, counted(1))
    totals = book.totals()
    assert totals.count.model_flops == 1_000_003 * flops + 1
    assert totals.count.hardware_flops == 1_000_003 * (flops + 1) + 1
    assert (totals.standard_error, totals.estimated_steps) == (None, 0)


def test_huge_counts_that_differ_by_one_are_seen_to_differ(book):
    # 2^200 and 2^200 + 1, and one more step at their mean: 3 * 2^200 + 1.5
    for count in (counted(2**200), counted(2**200 + 1), None):
        book.add("a", count, 0.1)
    totals = book.totals()
    assert totals.count.model_flops == 3 * 2**200 + 2
    assert totals.estimated_steps == 1
    # variance 1/2, one step unseen: 1/2 * (1 + 1/2)
    assert totals.standard_error == pytest.approx(sqrt(0.75))


def test_a_step_of_no_known_flops_is_still_counted(book):
    # only operators without a formula: that is known, and is on the list
    run(book, "a", 10, counted(0, fft=2))
    totals = book.totals()
    assert totals.count.uncounted_ops == {"fft": 20}
    assert totals.estimated_steps == 0


def test_samples_are_measured_once_for_a_key(book):
    calls = []

    def measure():
        calls.append(1)
        return 32

    for _ in range(100):
        book.add("a", counted(1), 0.1, measure)
    assert book.totals().samples == 3_200
    assert len(calls) == 1


def test_samples_are_unknown_where_one_batch_could_not_be_measured(book):
    book.add("a", counted(1), 0.1, lambda: 32)
    assert book.totals().samples == 32
    book.add("b", counted(1), 0.1)
    assert book.totals().samples is None


def test_samples_of_a_dropped_key_stay_known_and_unknown(book, monkeypatch):
    monkeypatch.setattr(module, "_KEYS_KEPT", 1)
    for key in range(3):
        book.add(key, counted(1), 0.1, lambda: 5)
    assert book.totals().samples == 15
    book.add("unknown", counted(1), 0.1)
    book.add("after", counted(1), 0.1, lambda: 5)
    assert book.totals().samples is None


# What is seen only after a step.


def test_variants_of_a_key_are_counted_apart(book):
    """A critic that trains 4 steps for each of the generator's: the optimizer tells afterwards."""
    model = {"critic": 10, "generator": 1000}
    for step in range(1000):
        kind = "generator" if step % 5 == 4 else "critic"
        counting = book.wants_count("batch")
        book.add("batch", counted(model[kind]) if counting else None, 1e-6, seen=kind)
    totals = book.totals()
    assert totals.count.model_flops == 800 * 10 + 200 * 1000
    assert totals.estimated_steps == 0
    assert totals.standard_error is None


def test_a_variant_never_met_is_booked_at_the_mean_of_its_key(book):
    book.add("a", counted(100), 1.0, seen="x")
    book.add("a", None, 1.0, seen="y")
    book.add("other", counted(7), 1.0)
    totals = book.totals()
    assert totals.count.model_flops == 100 + 100 + 7
    assert totals.estimated_steps == 1


def test_trying_to_meet_a_variant_ends(book):
    book.add("a", counted(1), 1.0)
    book.add("a", None, 1.0, seen="rare")
    tried = 0
    for _ in range(10_000):
        if counting := book.wants_count("a"):
            tried += 1
        book.add("a", counted(1) if counting else None, 1.0)
    # 16 tries in each of 14 octaves, and one recount in each; the budget allows fewer.
    assert 16 <= tried <= 14 * 17


def test_a_key_given_up_is_not_counted_again(book):
    book.add("a", None, 1.0)
    book.give_up("a")
    assert not any(book.wants_count("a") or book.add("a", None, 1.0) for _ in range(100))
    book.give_up("never seen")
    assert not book.wants_count("never seen")
