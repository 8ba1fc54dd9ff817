"""Batches of other sizes, made of the one that is given, and the memory there is for them."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from probe_inputs import ones

from computemeter.planning import _memory
from computemeter.planning._batches import batch_size_of, left_as_they_are, mapped, resized


def test_the_batch_size_is_what_most_arrays_say():
    one, rows = torch.ones(1), ones(32)
    assert batch_size_of({"lr": one, "x": rows}) == 32
    assert batch_size_of((rows, ones(32), torch.ones(10))) == 32
    assert left_as_they_are((rows, ones(32), torch.ones(10), torch.tensor(1.0))) == [10]
    assert batch_size_of((ones(1), one)) == 1
    names = resized({"x": ones(2), "names": ["a", "b"]}, 3)["names"]
    assert names == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((ones(32), torch.ones(10)), "may be of 10 and 32 examples"),
        ([torch.ones(3, 2, 2)] * 32, "a list of 32 alike parts"),
        (([torch.ones(50)] * 8, ones(8)), "a list of 8 alike parts"),
        (([torch.ones(3, 2, 2)] * 4, [{"boxes": torch.ones(3, 4)}] * 4), "a list of 4 alike parts"),
    ],
)
def test_a_batch_that_does_not_say_how_many_examples_it_has_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        batch_size_of(batch)
    three_inputs = [ones(8), ones(8), ones(8)]
    assert batch_size_of(three_inputs) == 8


def test_a_mapping_that_cannot_be_made_of_parts_is_a_dict():
    assert mapped(defaultdict(int, x=1), lambda each: each + 1) == {"x": 2}


@pytest.mark.parametrize(
    ("line", "folder", "names", "sizes"),
    [
        ("0::/job", "job", ("memory.max", "memory.current"), "inactive_file 200\nactive_file 40"),
        (
            "4:cpu,memory:/job",
            "memory/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file 200\ntotal_active_file 40",
        ),
    ],
)
def test_the_cache_of_files_is_memory_to_use(  # noqa: PLR0917
    tmp_path, monkeypatch, line, folder, names, sizes
):
    group = tmp_path / folder
    group.mkdir(parents=True)
    for name, text in zip(
        (*names, "memory.stat"), ("1000", "900", f"anon 5\n{sizes}\n"), strict=True
    ):
        (group / name).write_text(text)
    own = tmp_path / "own"
    own.write_text(f"{line}\n")
    monkeypatch.setattr(_memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(_memory, "_OWN_GROUPS", own)
    # Of 1000 bytes 900 are used, 240 of them for files: 340 are left, of which 9 in 10 are taken.
    assert _memory.usable_memory() == 306


def test_batches_are_made_of_the_examples_in_order():
    batch = {"x": torch.tensor([1, 2, 3]), "pair": (np.array([[1], [2], [3]]), 0.5), "name": "n"}
    five = resized(batch, 5)
    assert five["x"].tolist() == [1, 2, 3, 1, 2]
    assert five["pair"][0].tolist() == [[1], [2], [3], [1], [2]]
    assert (five["pair"][1], five["name"]) == (0.5, "n")
    assert resized(batch, 2)["x"].tolist() == [1, 2]
    assert resized(batch, 3) is batch
