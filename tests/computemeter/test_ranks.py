"""Adding up what many processes counted, without a collective and in bounded time."""

import json
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from rank_totals import totals

from computemeter import ranks
from computemeter.rank_reports import Report
from computemeter.ranks import SoloRanks, StoreRanks
from computemeter.records import Count

PAST_INT64 = 10**30 + 7


class Shelf:
    """A store as small as the protocol: a missing key cannot be read."""

    def __init__(self):
        self.values = {}
        self.calls = 0

    def set(self, key, value):
        self.calls += 1
        self.values[key] = value.encode()

    def get(self, key):
        self.calls += 1
        return self.values[key]

    def check(self, keys):
        self.calls += 1
        return all(key in self.values for key in keys)


class Broken(Shelf):
    def check(self, *_):
        self.calls += 1
        raise ConnectionError("gone")

    set = check


class Stuck(Shelf):
    """As a store whose host is gone without a word."""

    def __init__(self):
        super().__init__()
        self.answer = threading.Event()

    def check(self, keys):
        self.answer.wait(30)
        return super().check(keys)


def tell(store, rank, of, *, world_size=2, ended=False):
    StoreRanks(store, rank, world_size).exchange(lambda: of, ended=ended)


def seconds(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@pytest.fixture(params=["shelf", "hash", "file", "tcp"])
def store(request, tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    match request.param:
        case "shelf":
            yield Shelf()
        case "hash":
            yield distributed.PrefixStore("a", distributed.HashStore())
        case "file":
            yield distributed.PrefixStore("a", distributed.FileStore(str(tmp_path / "store"), 2))
        case "tcp":
            served = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            yield distributed.PrefixStore("a", served)


def test_sums_are_exact_past_int64(store):
    own = totals(PAST_INT64)
    zero = StoreRanks(store, 0, 3)
    tell(store, 1, totals(PAST_INT64 + 1), world_size=3)
    tell(store, 2, totals(5, samples=7), world_size=3)
    zero.exchange(lambda: own)
    merged, flops = zero.merge(own), 2 * PAST_INT64 + 6
    assert merged.count == Count(
        flops, flops + 3, {"mm": flops}, {"float32": flops}, {"fft": 3}, causal_flops=0
    )
    assert merged.samples == 40 + 40 + 7
    # Steps are this rank's: all ranks step together.
    assert (merged.steps, merged.counted_steps, merged.predicted_steps) == (10, 1, 9)


def test_a_key_is_written_over():
    shelf = Shelf()
    one, zero = StoreRanks(shelf, 1, 2), StoreRanks(shelf, 0, 2)
    for step in range(1, 101):
        one.exchange(lambda step=step: totals(step, step))
        zero.exchange(lambda step=step: totals(step, step))
    assert len(shelf.values) == 1
    assert zero.merge(totals(100, 100)).count.model_flops == 200


def test_operators_of_all_ranks_are_listed():
    shelf, own = Shelf(), totals(3)
    zero = StoreRanks(shelf, 0, 2)
    tell(shelf, 1, totals(4, count=Count(4, 4, {"bmm": 4}, {"bfloat16": 4}, {"my::op": 9})))
    zero.exchange(lambda: own)
    count = zero.merge(own).count
    assert count.by_op == {"mm": 3, "bmm": 4}
    assert count.by_dtype == {"float32": 3, "bfloat16": 4}
    assert count.uncounted_ops == {"fft": 1, "my::op": 9}


def test_a_report_stays_small_and_its_operators_add_up():
    shelf = Shelf()
    many = {f"my::op{number:05}": number for number in range(10_000)}
    flops = sum(many.values())
    tell(shelf, 1, totals(flops, count=Count(flops, flops, many, {"float32": flops}, many)))
    [text] = shelf.values.values()
    assert len(text) < 20_000
    assert sum(json.loads(text)["count"]["by_op"].values()) == flops


def test_one_that_is_late_is_waited_for(store):
    zero, own = StoreRanks(store, 0, 2), totals(1, 10)
    tell(store, 1, totals(1, 9))
    late = threading.Timer(0.1, tell, (store, 1, totals(2, 10)))
    late.start()
    assert seconds(lambda: zero.exchange(lambda: own)) < 0.9
    late.join()
    assert zero.merge(own).count.model_flops == 3


def test_one_that_has_not_begun_is_waited_for(store):
    zero, own = StoreRanks(store, 0, 2), totals(1)
    late = threading.Timer(0.1, tell, (store, 1, totals(2)))
    late.start()
    zero.exchange(lambda: own)
    late.join()
    assert zero.merge(own).count.model_flops == 3


def test_one_that_is_ahead_or_has_ended_is_not_waited_for():
    shelf, own = Shelf(), totals(1, 10)
    zero = StoreRanks(shelf, 0, 3)
    tell(shelf, 1, totals(1, 11), world_size=3)
    tell(shelf, 2, totals(1, 3), world_size=3, ended=True)
    assert seconds(lambda: zero.exchange(lambda: own)) < 0.5


def test_what_has_ended_is_not_read_again():
    shelf, own = Shelf(), totals(1)
    zero = StoreRanks(shelf, 0, 2)
    tell(shelf, 1, totals(1), ended=True)
    zero.exchange(lambda: own)
    read = shelf.calls
    zero.exchange(lambda: own)
    assert shelf.calls == read


def test_waiting_at_logging_steps_costs_a_second_and_then_0_2_percent_of_the_time(monkeypatch):
    clock, pauses = [0.0], []

    def sleep(duration):
        clock[0] += duration

    monkeypatch.setattr(ranks, "time", SimpleNamespace(sleep=sleep))
    zero = StoreRanks(Shelf(), 0, 2, lambda: clock[0])
    for _ in range(20):
        before = clock[0]
        zero.exchange(lambda: totals(1))
        pauses.append(clock[0] - before)
        clock[0] += 50
    assert pauses[0] == pytest.approx(1.0, abs=1e-6)
    # 0.2 % of 50 s.
    # The wait itself earns as well.
    assert pauses[1:] == pytest.approx([0.1] * 19, rel=0.05)


def test_the_wait_at_the_end_is_bounded_and_not_on_that_account():
    zero, own = StoreRanks(Shelf(), 0, 2), totals(1)
    assert seconds(lambda: zero.exchange(lambda: own, seconds=0.2)) == pytest.approx(0.2, abs=0.15)
    ended = seconds(lambda: zero.exchange(lambda: own, ended=True, seconds=0.3))
    assert ended == pytest.approx(0.3, abs=0.15)


def test_at_the_end_only_an_end_will_do():
    shelf, own = Shelf(), totals(1)
    zero = StoreRanks(shelf, 0, 2)
    tell(shelf, 1, totals(1, 99))
    zero.exchange(lambda: own, ended=True, seconds=0.05)
    assert zero.missing() == "rank 1 last reported at step 99"
    tell(shelf, 1, totals(1, 99), ended=True)
    zero.exchange(lambda: own, ended=True, seconds=0.05)
    assert zero.missing() is None


def test_a_rank_that_never_reported_is_taken_at_the_mean_of_the_others():
    shelf, own = Shelf(), totals(10, standard_error=3.0)
    zero = StoreRanks(shelf, 0, 3)
    tell(shelf, 2, totals(21, standard_error=4.0), world_size=3)
    zero.exchange(lambda: own, ended=True, seconds=0.05)
    merged = zero.merge(own)
    # 31 * 3 / 2 = 46.5, rounded to the nearest.
    assert merged.count.model_flops == merged.count.by_op["mm"] == 47
    assert merged.samples == 80 * 3 // 2
    assert merged.standard_error == pytest.approx(5.0 * 3 / 2)
    assert "rank 1 never reported" in zero.missing()


def test_a_rank_that_could_count_nothing_is_no_zero():
    shelf, own = Shelf(), totals(10)
    zero = StoreRanks(shelf, 0, 2)
    tell(shelf, 1, totals(0, counted_steps=0, predicted_steps=0, estimated_steps=10), ended=True)
    zero.exchange(lambda: own)
    assert zero.merge(own).count.model_flops == 20
    assert "rank 1 could count no step" in zero.missing()


def test_a_rank_without_any_step_is_a_zero():
    shelf, own = Shelf(), totals(10)
    zero = StoreRanks(shelf, 0, 2)
    tell(shelf, 1, totals(0, 0, samples=None, count=Count()), ended=True)
    zero.exchange(lambda: own)
    assert zero.merge(own).count.model_flops == 10
    assert zero.merge(own).samples == 40
    assert zero.missing() is None


def test_samples_are_unknown_where_one_rank_could_not_measure_them():
    shelf, own = Shelf(), totals(10)
    zero = StoreRanks(shelf, 0, 2)
    tell(shelf, 1, totals(10, samples=None))
    zero.exchange(lambda: own)
    assert zero.merge(own).samples is None


def test_other_ranks_keep_to_themselves(store):
    own = totals(10)
    one = StoreRanks(store, 1, 4)
    tell(store, 2, totals(99), world_size=4)
    one.exchange(lambda: own)
    assert one.merge(own) is own
    assert one.devices == 1
    assert one.note == "this is rank 1 of 4 alone; rank 0 has the whole run"
    assert one.missing() is None


def test_of_very_many_that_are_missing_some_are_named():
    zero = StoreRanks(Shelf(), 0, 1000)
    zero.exchange(lambda: totals(1), ended=True, seconds=0.0)
    assert len(zero.missing()) < 1000
    assert zero.missing().endswith("; 991 more alike")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_store_that_is_gone_is_not_tried_again(rank):
    broken = Broken()
    one = StoreRanks(broken, rank, 2)
    with pytest.raises(ConnectionError):
        one.exchange(lambda: totals(1))
    one.exchange(lambda: totals(1))
    assert broken.calls == 1


def test_a_store_that_hangs_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(ranks, "_STORE_SECONDS", 0.1)
    stuck, own = Stuck(), totals(1)
    zero = StoreRanks(stuck, 0, 2)
    with pytest.raises(TimeoutError, match="does not answer"):
        zero.exchange(lambda: own, seconds=0.1)
    # It is left alone while it hangs, and asked again afterwards.
    assert seconds(lambda: zero.exchange(lambda: own, seconds=0.1)) < 0.05
    stuck.answer.set()
    zero._busy.join(5)
    tell(stuck, 1, totals(2))
    zero.exchange(lambda: own)
    assert zero.merge(own).count.model_flops == 3


@pytest.mark.parametrize(
    "read",
    [lambda zero: zero.energy({"GPU-a": 1.0}), lambda zero: zero.note],
    ids=["energy", "note"],
)
def test_a_report_that_arrives_while_they_are_added_up_does_no_harm(read):
    # As from the thread of a call that took too long.
    zero, late = StoreRanks(Shelf(), 0, 3), Report.of(totals(1))

    class Arriving:
        def __getattr__(self, name):
            zero._heard[2] = late
            return getattr(late, name)

    zero._heard[1] = Arriving()
    read(zero)
    assert set(zero._heard) == {1, 2}


def test_a_missing_key_of_a_real_store_is_never_waited_for(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    store = distributed.FileStore(str(tmp_path / "store"), 2)
    store.set_timeout(timedelta(seconds=60))
    zero = StoreRanks(store, 0, 3)
    tell(store, 2, totals(1), world_size=3)
    assert seconds(lambda: zero.exchange(lambda: totals(1), seconds=0.1)) < 2


def test_one_process_exchanges_nothing():
    solo, own = SoloRanks(), totals(5)
    solo.exchange(lambda: pytest.fail("nobody asked"))
    assert solo.merge(own) is own
    assert (solo.devices, solo.note, solo.missing()) == (1, None, None)


def test_processes_without_a_store_are_taken_to_do_the_same_and_this_is_said():
    solo = SoloRanks(0, 4)
    assert solo.merge(totals(5)).count.model_flops == 20
    assert solo.merge(totals(5)).samples == 160
    assert solo.devices == 4
    assert "multiplied by 4" in solo.missing()


def test_ranks_on_different_devices_are_a_stated_assumption(store):
    zero, one = StoreRanks(store, 0, 2), StoreRanks(store, 1, 2)
    one.exchange(lambda: totals(1), device="NVIDIA L4")
    zero.exchange(lambda: totals(1), device="NVIDIA A10G")
    assert zero.note == (
        "rank 0 trains on NVIDIA A10G, others on NVIDIA L4: method 2 takes all for the first"
    )


@pytest.mark.parametrize("other", ["NVIDIA L4", ""])
def test_ranks_on_the_same_device_or_one_not_known_need_no_word(store, other):
    zero, one = StoreRanks(store, 0, 2), StoreRanks(store, 1, 2)
    one.exchange(lambda: totals(1), device=other)
    zero.exchange(lambda: totals(1), device="NVIDIA L4")
    assert zero.note is None
