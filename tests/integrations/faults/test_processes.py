"""A fault among many processes, of which this is the first."""

import pytest
import torch
from faults import FAULT, Fault, public_methods

from computemeter import ranks, run_meter
from computemeter.book import StepBook
from computemeter.rank_reports import Report
from computemeter.ranks import StoreRanks
from computemeter_lightning import _callback


class Store(torch.distributed.HashStore):
    """The processes' store, a method of which may fail."""


STORE = ["get", "set", "check", "multi_get"]
STORE_RANKS = [(StoreRanks, name) for name in public_methods(StoreRanks)]


@pytest.mark.parametrize(("cls", "name"), [*STORE_RANKS, *((Store, name) for name in STORE)])
def test_a_fault_among_ranks(cls, name, trains_the_same, monkeypatch):
    monkeypatch.setattr(ranks, "WAIT_LOGGING", 0.01)
    monkeypatch.setattr(run_meter, "WAIT_LOGGING", 0.01)
    monkeypatch.setattr(run_meter, "WAIT_CLOSING", 0.01)

    def two(*_):
        store = Store()
        store.set("1", Report.of(StepBook(lambda: 0.0).totals()).to_json())
        return StoreRanks(store, 0, 2)

    made = [two(), two()]
    monkeypatch.setattr(run_meter, "torch_ranks", lambda *_: made.pop())
    monkeypatch.setattr(_callback, "torch_ranks", lambda *_: made.pop())
    fault = Fault()
    fault.at(monkeypatch, cls, name)
    told = trains_the_same()
    assert fault.calls or (cls is Store and name in {"set", "get"})  # rank 0 reads, all at once
    assert [text for text in told if FAULT in text] != [] or not fault.calls
