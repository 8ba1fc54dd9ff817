"""The energy of a run: NVML's counter, added up over processes and launches, or not measured."""

import ctypes
import json
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from ledgers import header, totals, write

from computemeter import Meter
from computemeter.commands.report import model_card, report
from computemeter.energy import BoardEnergy, RunEnergy
from computemeter.ledger import read_ledger
from computemeter.rank_reports import Report
from computemeter.ranks import SoloRanks, StoreRanks
from computemeter.receipt import read_receipt
from computemeter.receipt_match import find_receipt
from computemeter.segments import SegmentRecord, add_up

KWH = 3.6e6


# The counter on the board, through NVML's real Python module.

UUID = "GPU-11111111-2222-3333-4444-555555555555"


class Driver:
    """NVML's C functions, as `libnvidia-ml.so` would have them; a GPU or two with counters."""

    def __init__(self, pynvml):
        self.nvml, self.open = pynvml, 0
        self.millijoules = {UUID: 5_000}
        self.mig = 0
        self.errors = {}

    def __call__(self, name):
        function = getattr(self, name)

        def call(*args):
            return self.errors.get(name) or function(*args) or self.nvml.NVML_SUCCESS

        return call

    def nvmlDeviceGetHandleByUUID(self, uuid, device):  # noqa: N802
        self.asked = uuid.value.decode()
        if self.asked not in self.millijoules:
            return self.nvml.NVML_ERROR_NOT_FOUND
        device._obj.contents = self.nvml.struct_c_nvmlDevice_t()
        return None

    def nvmlDeviceGetMigMode(self, device, current, pending):  # noqa: N802
        current._obj.value = self.mig

    def nvmlDeviceGetTotalEnergyConsumption(self, device, millijoules):  # noqa: N802
        assert isinstance(millijoules._obj, ctypes.c_ulonglong)
        millijoules._obj.value = self.millijoules[self.asked]


@pytest.fixture
def driver(monkeypatch):
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    driver = Driver(pynvml)

    def step(by):
        driver.open += by

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", driver)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: step(1))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: step(-1))
    return driver


def test_joules_are_what_the_counter_went_up_by(driver):
    board = BoardEnergy.open(UUID)
    assert board.joules() == 0.0  # a measured zero
    driver.millijoules[UUID] = 12_500
    assert board.joules() == pytest.approx(7.5)  # (12,500 - 5,000) mJ
    board.close()
    board.close()
    assert driver.open == 0


def test_the_gpu_is_the_one_that_pytorch_means(driver):
    # With CUDA_VISIBLE_DEVICES=3,1 torch's device 0 is NVML's device 3.
    uuid = UUID.removeprefix("GPU-")
    cuda = SimpleNamespace(get_device_properties=lambda index: SimpleNamespace(uuid=[uuid][index]))
    with mock.patch.object(torch, "cuda", cuda):
        assert BoardEnergy.open(0).uuid == UUID


def test_a_board_that_cannot_be_read_is_not_measured(driver):
    for function in ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetHandleByUUID"):
        driver.errors = {function: driver.nvml.NVML_ERROR_NOT_SUPPORTED}
        assert BoardEnergy.open(UUID) is None
    driver.errors = {}
    assert BoardEnergy.open("MIG-11111111-2222-3333-4444-555555555555") is None
    driver.mig = 1  # the board's energy is the neighbours' too
    assert BoardEnergy.open(UUID) is None
    assert driver.open == 0


@pytest.mark.parametrize("module", [None, SimpleNamespace(nvmlInit=lambda: None)])
def test_without_nvidia_ml_py_or_with_an_old_one_it_is_not_measured(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert BoardEnergy.open(UUID) is None


def test_a_counter_that_began_anew_or_is_lost_is_not_known(driver):
    board = BoardEnergy.open(UUID)
    driver.millijoules[UUID] = 4_000  # the driver was loaded again
    assert board.joules() is None
    driver.errors["nvmlDeviceGetTotalEnergyConsumption"] = driver.nvml.NVML_ERROR_GPU_IS_LOST
    assert board.joules() is None


# Of one process.


class Board:
    uuid = "GPU-a"

    def __init__(self):
        self.drawn, self.reads, self.closed = 0.0, 0, False

    def joules(self):
        self.reads += 1
        return self.drawn

    def close(self):
        self.closed = True


def run_energy(board, now=lambda: 0.0, where="cuda:0"):
    return RunEnergy(lambda: where and torch.device(where), lambda _index: board, now)


def test_it_is_read_every_10_seconds_at_most_and_at_the_end():
    board, clock = Board(), [0.0]
    energy = run_energy(board, lambda: clock[0])
    energy.begin()
    for clock[0] in (0.0, 4.0, 9.9, 10.0, 12.0):
        board.drawn = 100 * clock[0]
        energy.sample()
    assert (energy.drawn, board.reads) == ({"GPU-a": 1000.0}, 1)
    energy.sample(last=True)
    assert energy.drawn == {"GPU-a": 1200.0}
    energy.close()
    energy.sample(last=True)
    assert (board.closed, board.reads) == (True, 2)


def test_a_run_on_a_cpu_or_elsewhere_has_none():
    for where in ("cpu", None):  # None: CUDA is not in use and nobody knows the device yet
        energy = run_energy(Board(), where=where)
        energy.begin()
        energy.sample(last=True)
        assert energy.drawn == {}


def gpus(allocated):
    """Return as much of `torch.cuda` as is asked, with so many bytes in use on each GPU."""
    return SimpleNamespace(
        is_initialized=lambda: True,
        current_device=lambda: 1,
        device_count=lambda: len(allocated),
        memory_allocated=lambda index: allocated[index],
    )


def no_books(_index):
    raise RuntimeError("the allocator does not support it")


def test_a_process_on_several_gpus_has_none_as_one_board_was_read():
    energy, in_use = run_energy(Board()), [9, 0, 0]
    energy.begin()
    with mock.patch.object(torch, "cuda", gpus(in_use)):
        energy.sample(last=True)
        assert energy.drawn == {"GPU-a": 0.0}
        in_use[2] = 1
        energy.sample(last=True)
        assert energy.drawn == {}
        in_use[2], torch.cuda.memory_allocated = 0, no_books
        energy.sample(last=True)
    assert energy.drawn == {}


def test_a_loop_that_turns_out_to_run_on_another_gpu_than_the_one_in_use_has_none():
    known, board = [None], Board()
    energy = RunEnergy(lambda: known[0], lambda index: board if index == 1 else None)
    with mock.patch.object(torch, "cuda", gpus([0, 5])):
        energy.begin()
        energy.sample(last=True)
        assert energy.drawn == {}  # not before the device is known
        known[0] = torch.device("cuda")
        energy.sample(last=True)
        assert energy.drawn == {"GPU-a": 0.0}
        known[0] = torch.device("cuda:0")
        energy.sample(last=True)
    assert energy.drawn == {}


# Of many processes.


class Shelf(dict):
    """A store of one process."""

    set, get = dict.__setitem__, dict.__getitem__

    def check(self, keys):
        return self.keys() >= set(keys)


def store_ranks(store, rank, world_size, energy):
    made = StoreRanks(store, rank, world_size)
    made.exchange(Meter()._book.totals, energy=energy, seconds=0.0)
    return made.energy(energy)


def test_ranks_are_added_up_and_a_gpu_that_they_share_counts_once():
    store = Shelf()
    assert store_ranks(store, 1, 3, {"GPU-a": 90.0}) == 90.0  # this rank's own
    store_ranks(store, 2, 3, {"GPU-b": 50.0})
    assert store_ranks(store, 0, 3, {"GPU-a": 100.0}) == 150.0


def test_a_rank_without_a_figure_leaves_the_sum_unknown():
    store = Shelf()
    store_ranks(store, 1, 3, {"GPU-b": 50.0})
    assert store_ranks(store, 0, 2, {}) is None
    assert store_ranks(store, 0, 2, {"GPU-a": 1.0}) == 51.0
    store_ranks(store, 1, 3, {})
    assert store_ranks(store, 0, 2, {"GPU-a": 1.0}) is None


def test_processes_that_cannot_tell_each_other_have_no_sum():
    assert SoloRanks().energy({"GPU-a": 2.0}) == 2.0
    assert SoloRanks(0, 2).energy({"GPU-a": 2.0}) is None
    assert SoloRanks(devices=4).energy({"GPU-a": 2.0}) is None


def test_a_report_of_a_version_without_energy_is_read():
    plain = json.loads(Report.of(Meter()._book.totals()).to_json())
    del plain["energy"]
    assert Report.from_json(json.dumps(plain)).energy == {}


# Of a run.


def train(folder, monkeypatch, board, *, state=None, steps=2):
    """Train on a CPU, with a board of which the meter thinks that the training is on it."""
    made = run_energy(board)
    monkeypatch.setattr("computemeter.step_meter.RunEnergy", lambda _device: made)
    model = torch.nn.Linear(4, 4)
    meter = Meter(ledger=folder, trackers=None, verbose=0, log_every=1)
    if state:
        meter.load_state_dict(state)
    with meter:
        for _ in range(steps):
            with meter.step():
                model(torch.ones(8, 4)).sum().backward()
        state = meter.state_dict()
        if board:
            board.drawn = KWH  # after the last record, as of the validation behind the last step
    return meter.summary(), state


def last_totals(folder):
    *_, path = sorted(folder.glob("*.jsonl"))
    return read_ledger(path).last_totals


def test_a_segments_energy_is_in_summary_ledger_and_receipt(tmp_path, monkeypatch):
    summary, _ = train(tmp_path, monkeypatch, Board())
    assert summary.energy_joules == summary.to_dict()["energy_joules"] == KWH
    assert last_totals(tmp_path)["energy_joules"] == KWH
    assert read_receipt(find_receipt(tmp_path)).energy_joules == KWH
    assert "- Energy: 1 kWh from NVML: the GPU boards alone\n" in report(str(tmp_path))
    assert "| Energy | 1 kWh (NVML, the GPU boards) |" in model_card(str(tmp_path))


@pytest.mark.parametrize("other", [None, 3.0])
def test_of_one_state_told_twice_the_larger_energy_counts(other):
    # The end of a run is told after the last step, and energy is drawn until then.
    told = [SegmentRecord("s", steps=2, device_seconds=1.0, energy_joules=e) for e in (7.0, other)]
    for order in (told, told[::-1]):
        (part,) = add_up(order)["parts"]
        assert part.energy_joules == 7.0


def test_segments_of_a_run_are_added_up(tmp_path, monkeypatch):
    _, state = train(tmp_path, monkeypatch, Board())
    summary, _ = train(tmp_path, monkeypatch, Board(), state=state)
    assert summary.energy_joules == KWH
    receipt = find_receipt(tmp_path)
    assert read_receipt(receipt).energy_joules == 2 * KWH
    assert "- Energy: 2 kWh from NVML" in report(str(tmp_path))
    receipt.unlink()  # from the ledgers alone
    assert "- Energy: 2 kWh from NVML" in report(str(tmp_path))
    assert "| Energy | 2 kWh" in model_card(str(tmp_path))


def test_a_run_with_a_segment_that_was_not_measured_has_no_sum(tmp_path, monkeypatch):
    _, state = train(tmp_path, monkeypatch, Board())
    summary, _ = train(tmp_path, monkeypatch, None, state=state)
    assert summary.energy_joules is None
    receipt = find_receipt(tmp_path)
    assert read_receipt(receipt).energy_joules is None
    for _ in ("with the receipt", "without"):
        assert "- Energy: not measured for all segments\n" in report(str(tmp_path))
        receipt.unlink(missing_ok=True)
    assert json.loads(report(str(tmp_path), form="json"))["entries"][0]["energy_kwh"] is None


def test_a_run_on_a_cpu_says_that_it_was_not_measured(tmp_path, monkeypatch):
    train(tmp_path, monkeypatch, None)
    assert last_totals(tmp_path)["energy_joules"] is None
    assert "- Energy: not measured\n" in report(str(tmp_path))


def test_a_counter_that_raises_stops_nothing(tmp_path, monkeypatch):
    board = Board()
    board.joules = mock.Mock(side_effect=RuntimeError("GPU is lost"))
    summary, _ = train(tmp_path, monkeypatch, board)
    assert (summary.steps, summary.energy_joules) == (2, None)
    assert any("GPU is lost" in warning for warning in summary.warnings)


def test_energy_of_a_figure_by_hand_and_of_a_run(tmp_path):
    write(tmp_path / "led", header(), totals(energy_joules=KWH / 2), status="finished")
    (tmp_path / "m.toml").write_text(
        'name = "m"\n[[run]]\npath = "led"\n[[manual]]\nname = "x"\nsource = "s"\nflops = 1\n'
        "energy_kwh = 2"
    )
    text = report(model=str(tmp_path / "m.toml"))
    whole = "2.5 kWh: 0.5 kWh from NVML: the GPU boards alone, 2 kWh as given by hand"
    assert f"- Energy: {whole}\n" in text


@pytest.mark.parametrize("nonsense", ["much", -1.0, 1e300])
def test_nonsense_in_a_ledger_is_not_measured(tmp_path, nonsense):
    write(tmp_path, header(), totals(energy_joules=nonsense), status="finished")
    assert "- Energy: not measured\n" in report(str(tmp_path))
