"""The meter's state in a Lightning checkpoint: read whatever lies beside it, and no code run."""

import os
import random
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from parents import checkpoint, parent
from torch import nn

from computemeter.base_model import BaseModel
from computemeter.receipt_match import meter_state

pytestmark = pytest.mark.usefixtures("no_environment")

# After 15 of the 30 FLOP that the run took by its receipt; 40 more had made its base.
EARLY = {"run_flops": 15, "base": {"name": "b", "flops": 40}}


class Colour(Enum):
    RED = 1


@dataclass(frozen=True, slots=True)
class Frozen:
    width: int = 1


class MadeByAnObject:
    def __reduce__(self):
        return partial(dict), ()


BESIDE = {
    "class": torch.optim.Adam,
    "function": torch.relu,
    "partial": partial(print, 1),
    "path": Path("data"),
    "numpy number": np.float64(3.0),
    "numpy array": np.arange(3),
    "module": nn.Linear(2, 2),
    "enum": Colour.RED,
    "keys of a kind": {Frozen(): 1, Colour.RED: 2},
    "set": {Frozen(), frozenset([Colour.RED])},
    "ordered": OrderedDict(a=[Frozen()]),
    "bound method": [].append,
    "deques": [deque([1]), deque([1, 2])],
    "made by an object": MadeByAnObject(),
}


def early(folder, value=None):
    content = {"hyper_parameters": {"it": value}}
    return checkpoint(folder / "x-step=3.ckpt", "8c2b", content=content, **EARLY)


@pytest.mark.parametrize("value", BESIDE.values(), ids=BESIDE)
def test_the_weights_compute_is_read_whatever_the_hyperparameters_are(tmp_path, value):
    path = early(tmp_path, value)
    assert BaseModel.read(path) == BaseModel("8c2b", 15 + 40)
    _, receipt = parent(tmp_path)  # of all 30 + 40
    assert BaseModel.read(path) == BaseModel("small", 15 + 40, receipt.hash)


def test_a_folder_of_shards_is_read_by_what_is_no_weights(tmp_path):
    folder = tmp_path / "checkpoints" / "x-step=3.ckpt"
    folder.mkdir(parents=True)
    checkpoint(folder / "meta.pt", "8c2b", **EARLY)
    _, receipt = parent(tmp_path / "checkpoints")
    assert BaseModel.read(folder) == BaseModel("small", 15 + 40, receipt.hash)


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch '{self.target}'",)


def test_no_code_of_a_checkpoint_is_run(tmp_path):
    path, target = tmp_path / "last.ckpt", tmp_path / "touched"
    evil = {"it": Evil(target), "list": [Evil(target)], "key": {Evil(target): 1}}
    checkpoint(path, "8c2b", content={"hyper_parameters": evil}, **EARLY)
    assert meter_state(path)["run_flops"] == 15
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # it would have


def test_a_value_that_takes_code_to_make_is_no_number(tmp_path):
    path = checkpoint(tmp_path / "last.ckpt", "8c2b", run_flops=np.int64(15))
    assert BaseModel.read(path).flops is None


def test_compute_that_is_not_known_is_never_the_receipts(tmp_path):
    _, receipt = parent(tmp_path)
    for state in ({"run_flops": None}, {"run_flops": 15, "base": {"name": "b", "flops": None}}):
        path = checkpoint(tmp_path / "last.ckpt", "8c2b", **state)
        base = BaseModel.read(path)
        assert (base.name, base.flops, base.receipt) == ("small", None, receipt.hash)
        assert base.note.endswith(
            "last.ckpt': not all the work in its weights was metered; the lineage is not known "
            "without base_flops= or the path of a receipt"
        )
        assert base.with_flops(99) == BaseModel("small", 99, receipt.hash)


# Damage.


def pickled(path, data):
    with ZipFile(path, "w") as archive:
        archive.writestr("last/data.pkl", data)


def test_a_file_cut_short_says_nothing(tmp_path):
    path = early(tmp_path)
    whole = path.read_bytes()
    assert meter_state(path)
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        assert meter_state(path) == {}


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_say_nothing(tmp_path, seed):
    data = random.Random(seed).randbytes(500)
    path = tmp_path / "last.ckpt"
    path.write_bytes(data)
    assert meter_state(path) == {}
    pickled(path, data)
    assert meter_state(path) == {}


def test_another_archive_says_nothing(tmp_path):
    path = tmp_path / "last.ckpt"
    with ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    assert meter_state(path) == {}


@pytest.mark.parametrize("checked", [True, False])
def test_a_changed_byte_is_found_by_the_checksum_which_torch_may_leave_out(tmp_path, checked):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checked)
    try:
        path = early(tmp_path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert meter_state(path)["run"] == "8c2b"
    path.write_bytes(path.read_bytes().replace(b"8c2b", b"8c2c"))
    assert meter_state(path).get("run") == (None if checked else "8c2c")
