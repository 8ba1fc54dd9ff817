"""The ranks of PyTorch's process group, and a meter on one of them."""

import subprocess
import sys

import pytest
from rank_totals import totals

from computemeter import Meter
from computemeter.ranks import SoloRanks, StoreRanks, torch_ranks


def test_without_torch_there_is_one_process():
    code = (
        "import sys\n"
        "from computemeter.ranks import SoloRanks, torch_ranks\n"
        "assert type(torch_ranks()) is SoloRanks\n"
        "assert torch_ranks(1, 4).devices == 4\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def group():
    """A process group whose other 3 ranks do not exist, over the given store."""
    distributed = pytest.importorskip("torch.distributed")
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")

    def start(store=None, rank=0):
        distributed.init_process_group(
            "fake", store=store or fake.FakeStore(), rank=rank, world_size=4
        )
        return distributed

    yield start
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_the_process_group_is_found(group):
    distributed = group()
    found = torch_ranks()
    assert (type(found), found.rank, found.world_size) == (StoreRanks, 0, 4)
    distributed.destroy_process_group()
    assert type(torch_ranks()) is SoloRanks


def test_a_trainer_of_one_process_within_a_group_is_alone(group):
    group()
    assert torch_ranks(0, 1).devices == 1


def test_each_meter_has_keys_of_its_own(group, monkeypatch):
    distributed = pytest.importorskip("torch.distributed")
    store = distributed.HashStore()
    group(store, rank=1)
    before = store.num_keys()
    first, second = torch_ranks(), torch_ranks()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    third = torch_ranks()
    for one in (first, second, third):
        one.exchange(lambda: totals(1))
        one.exchange(lambda: totals(2))
    assert store.num_keys() == before + 3


def test_a_meter_whose_store_is_a_fake_goes_on(group, caplog):
    group()
    with Meter(ledger=None, trackers=None, verbose=0, log_every=1) as meter:
        for _ in range(3):
            with meter.step():
                pass
    summary = meter.summary()
    assert (summary.steps, summary.device_count) == (3, 4)
    assert any("rank 1 never reported" in warning for warning in summary.warnings)
    assert any("exchange failed" in warning for warning in summary.warnings)


def test_a_meter_on_another_rank_says_so_and_writes_nothing(group, tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    group(distributed.HashStore(), rank=2)
    meter = Meter(ledger=tmp_path / "ledger", trackers=None, verbose=1, log_every=1)
    with meter, meter.step():
        pass
    meter.add_flops(10)
    assert meter.summary().device_count == 1
    assert meter.summary().warnings == ("this is rank 2 of 4 alone; rank 0 has the whole run",)
    assert not (tmp_path / "ledger").exists()
