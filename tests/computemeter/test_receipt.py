"""The compute receipt: written whole, read back as it is, and refused where it is not itself."""

import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

from computemeter.receipt import (
    ComputeReceipt,
    ReceiptError,
    read_receipt,
    receipt_hash,
    write_receipt,
)
from computemeter.receipt_match import find_receipt

VALUES = {
    "created": 1773480720.25,
    "run": "8c2b",
    "segments": ("20260314T0926Z-1f0e",),
    "name": "small",
    "status": "finished",
    "steps": 1500,
    "run_flops": 864 * 10**17,
    "spent_flops": 2**100 + 1,
    "lineage_flops": None,
    "model_flops": 864 * 10**17,
    "gpu_time_flops": 1728 * 10**17,
    "ratio": 2.0,
    "verdict": "warn",
    "cause": "low_utilization",
    "diagnosis": "the methods differ 2x",
    "device_hours": 4.5,
    "device_name": "NVIDIA H100 80GB HBM3",
    "device_count": 8,
    "peak_flops": 989.4e12,
    "assumed_utilization": 0.33,
    "precision": "bf16",
    "uncounted_ops": {"aten::mv": 20},
}


def receipt(**changes):
    return ComputeReceipt(**{**VALUES, **changes})


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def changed(path, **changes):
    """Write a receipt with other content whose hash fits all the same."""
    content = {**receipt().to_dict(), **changes}
    return write_json(path, {**content, "hash": receipt_hash(content)})


def message(path):
    with pytest.raises(ReceiptError) as raised:
        read_receipt(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


# The record.


def test_pfs_days_follow_from_flop():
    made = receipt()
    assert (made.pfs_days, made.pfs_days_gpu_time) == (1.0, 2.0)  # 8.64e19 FLOP is one
    assert receipt(model_flops=None).pfs_days is None
    assert replace(made, model_flops=432 * 10**17).pfs_days == 0.5


def test_the_hash_is_over_the_canonical_json_of_everything_else():
    content = receipt(name="ümläut").to_dict()
    stated = content.pop("hash")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert stated == "sha256:" + hashlib.sha256(canonical.encode("ascii")).hexdigest()
    assert receipt(name="other").hash != stated


def test_credentials_are_hidden():
    made = receipt(
        name="http://ann:s3cret@host/run",
        diagnosis="password=s3cret",
        base_model="s3://key:s3cret@bucket/llama",
        uncounted_ops={"token=s3cret": 1},
        segments=["https://ann:s3cret@host"],
    )
    assert "s3cret" not in json.dumps(made.to_dict())
    assert made.name == "http://***@host/run"


def test_numbers_of_other_libraries_become_plain_and_nan_is_not_known():
    made = receipt(steps=np.int64(7), device_hours=np.float32(0.5), ratio=math.nan)
    assert (type(made.steps), type(made.device_hours), made.ratio) == (int, float, None)
    assert receipt(peak_flops=math.inf).peak_flops is None


@pytest.mark.parametrize(
    ("field", "bad", "belongs"),
    [
        ("steps", "7", "a whole number"),
        ("steps", True, "a whole number"),
        ("steps", -1, "a whole number"),
        ("run_flops", 1e18, "a whole number"),
        ("run_flops", 10**400, "a whole number"),
        ("ratio", "2", "a number"),
        ("created", math.nan, "a number"),
        ("run", None, "a text"),
        ("base_model", 3, "a text"),
        ("segments", "20260314", "a list of texts"),
        ("parents", [3], "a list of texts"),
        ("uncounted_ops", {"aten::mv": "many"}, "an object of whole numbers"),
    ],
)
def test_a_wrong_type_is_named(field, bad, belongs):
    with pytest.raises(ReceiptError, match=f"^{field} is .* where {belongs}"):
        receipt(**{field: bad})


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        receipt().steps = 3


# Writing.


def test_it_is_read_back_as_it_was_written(tmp_path):
    made = receipt(
        name="näme \udc80", parents=["sha256:ab"], uncounted_ops=None, base_flops=2**200, team="a"
    )
    path = write_receipt(tmp_path / "new" / "folder", made)
    assert path == tmp_path / "new" / "folder" / "compute_receipt.json"
    assert read_receipt(path) == made
    assert read_receipt(path).to_dict() == json.loads(path.read_text("ascii"))
    assert list(path.parent.iterdir()) == [path]


def test_flop_are_integers_in_the_file(tmp_path):
    text = write_receipt(tmp_path, receipt()).read_text()
    assert f'"spent_flops": {2**100 + 1},' in text


def test_a_receipt_of_the_same_run_is_replaced(tmp_path):
    write_receipt(tmp_path, receipt())
    path = write_receipt(tmp_path, receipt(steps=3000))
    assert read_receipt(path).steps == 3000
    assert list(tmp_path.iterdir()) == [path]


def test_a_receipt_of_another_run_is_kept(tmp_path):
    other = receipt(run="other")
    write_receipt(tmp_path, other)
    write_receipt(tmp_path, receipt())
    kept = tmp_path / f"compute_receipt-{other.hash[7:19]}.json"
    assert read_receipt(kept) == other
    assert read_receipt(tmp_path / "compute_receipt.json").run == "8c2b"


def test_a_file_that_is_no_receipt_is_kept(tmp_path):
    (tmp_path / "compute_receipt.json").write_bytes(b"mine")
    write_receipt(tmp_path, receipt())
    kept = tmp_path / f"compute_receipt-{hashlib.sha256(b'mine').hexdigest()[:12]}.json"
    assert kept.read_bytes() == b"mine"


def test_a_disk_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    other = receipt(run="other")
    path = write_receipt(tmp_path, other)

    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_receipt(tmp_path, receipt())
    assert read_receipt(path) == other
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_is_killed_leaves_a_whole_receipt(tmp_path):
    code = f"""
from computemeter.receipt import ComputeReceipt, write_receipt
values = {VALUES!r}
while True:
    write_receipt({str(tmp_path)!r}, ComputeReceipt(**values))
    print(flush=True)
"""
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for _ in range(5):
            writer.stdout.readline()
        writer.kill()
        writer.communicate()
        assert read_receipt(tmp_path / "compute_receipt.json") == receipt()


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_receipt(tmp_path / "file", receipt())


# Reading.


def test_a_missing_file(tmp_path):
    assert message(tmp_path / "compute_receipt.json").endswith("No such file or directory")
    assert message(tmp_path).endswith("Is a directory")


def test_a_file_cut_short_at_any_byte(tmp_path):
    whole = write_receipt(tmp_path, receipt()).read_bytes().rstrip()
    cut = tmp_path / "cut.json"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ReceiptError, match=r"cut short|corrupt"):
            read_receipt(cut)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"kind": "computemeter rec', "cut short, its JSON has no end"),
        (b"", "corrupt, it is not JSON"),
        (b"\xff\xfe\x00", "corrupt, it is not JSON"),
        (b"[" * 100_000, "corrupt, it is not JSON"),
        (b'{"kind": NaN}', "corrupt, it is not JSON"),
        (b'{"kind": "computemeter receipt", "steps": ' + b"9" * 5000 + b"}", "corrupt"),
        (b"3", "other JSON, not a compute receipt"),
        (b'{"kind": ["computemeter receipt"]}', "other JSON, not a compute receipt"),
        (b'{"model_type": "llama"}', "other JSON, not a compute receipt"),
        (b'{"kind": "computemeter receipt"}', "its hash does not match"),
        (b'{"kind": "computemeter receipt", "x": 1e999}', "its hash does not match"),
        (b'{"kind": "computemeter receipt", "schema": 2}', "upgrade computemeter"),
    ],
    ids=range(12),
)
def test_what_is_no_receipt(tmp_path, data, complaint):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    assert complaint in message(path)


def test_a_file_of_something_else_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse terabyte
    assert "too large" in message(path)


def test_a_changed_value_is_found_out(tmp_path):
    path = write_receipt(tmp_path, receipt())
    path.write_text(path.read_text().replace('"steps": 1500', '"steps": 1501'))
    assert "its hash does not match: it was changed after it was written" in message(path)


@pytest.mark.parametrize("bad", [None, 3, "sha256:", "1" * 64])
def test_a_hash_that_is_none(tmp_path, bad):
    path = write_json(tmp_path / "x.json", {**receipt().to_dict(), "hash": bad})
    assert "its hash does not match" in message(path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"steps": "7"}, "steps is '7', where a whole number, 0 or more, belongs"),
        ({"run": None}, "run is None, where a text belongs"),
        ({"segments": {}}, "segments is {}, where a list of texts belongs"),
        ({"schema": "1"}, "schema is '1', where a whole number, 0 or more, belongs"),
        ({"schema": 2}, "written in schema 2 by a newer computemeter, this version reads up to 1"),
        ({"verdict": ["x" * 99]}, "where a text belongs"),
    ],
)
def test_a_wrong_value_whose_hash_fits(tmp_path, changes, complaint):
    text = message(changed(tmp_path / "x.json", **changes))
    assert complaint in text
    assert len(text) < len(str(tmp_path)) + 150


def test_a_field_that_is_missing(tmp_path):
    content = receipt().to_dict()
    del content["steps"], content["run"], content["hash"]
    path = write_json(tmp_path / "x.json", {**content, "hash": receipt_hash(content)})
    assert message(path).endswith("it lacks run, steps")


def test_fields_of_a_later_version_are_kept_and_hashed(tmp_path):
    path = changed(tmp_path / "x.json", energy={"kwh": 3.5})
    read = read_receipt(path)
    assert read.extra == {"energy": {"kwh": 3.5}}
    assert read.to_dict() == json.loads(path.read_text())
    content = {**json.loads(path.read_text()), "energy": {"kwh": 0.1}}
    assert "its hash does not match" in message(write_json(path, content))


def test_a_receipt_of_another_hand_keeps_its_hash_and_loses_its_credentials(tmp_path):
    path = changed(tmp_path / "x.json", name="http://ann:s3cret@host")
    read = read_receipt(path)
    assert read.hash == json.loads(path.read_text())["hash"]
    assert read.name == "http://***@host"


# Finding.


def test_it_is_found_by_its_own_path_its_folder_and_a_file_beside_it(tmp_path):
    path = write_receipt(tmp_path / "out", receipt())
    (path.parent / "model.safetensors").touch()
    for given in (path, path.parent, path.parent / "model.safetensors", str(path)):
        assert find_receipt(given) == path


def test_it_is_found_in_the_folder_of_ledgers(tmp_path):
    path = write_receipt(tmp_path / "compute_ledger", receipt())
    assert find_receipt(tmp_path) == path


@pytest.mark.parametrize(
    "checkpoint",
    ["checkpoints/last.ckpt", "checkpoint-500/model.bin", "checkpoints/epoch=1.ckpt/shard.pt"],
)
def test_it_is_found_above_folders_of_checkpoints(tmp_path, checkpoint):
    path = write_receipt(tmp_path, receipt())
    file = tmp_path / checkpoint
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_receipt(file) == path
    assert find_receipt(file.parent) == path


@pytest.mark.parametrize(
    "checkpoint", ["llama/model.bin", "checkpoints/llama/model.bin", "ckpt/ckpt/ckpt/last.ckpt"]
)
def test_the_receipt_of_another_model_further_up_is_not_taken(tmp_path, checkpoint):
    write_receipt(tmp_path, receipt())
    file = tmp_path / checkpoint
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_receipt(file) is None


def test_a_relative_path_is_followed_upwards(tmp_path, monkeypatch):
    path = write_receipt(tmp_path, receipt())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    monkeypatch.chdir(tmp_path / "checkpoints")
    assert find_receipt("last.ckpt") == path
    assert find_receipt("no.ckpt") is None
    assert find_receipt("no.json") is None


# The document.


def test_the_snippet_of_the_documentation_verifies_a_receipt(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "receipt.md").read_text()
    blocks = (block.partition("```")[0] for block in page.split("```python\n")[1:])
    snippet = next(block for block in blocks if "hashlib" in block)
    write_receipt(tmp_path, receipt())

    def run():
        return subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, check=False)

    assert run().returncode == 0
    write_json(tmp_path / "compute_receipt.json", {**receipt().to_dict(), "steps": 1})
    assert run().returncode == 1


def test_every_field_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "receipt.md").read_text()
    assert [name for name in receipt().to_dict() if f"`{name}`" not in page] == []
