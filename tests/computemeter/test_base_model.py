"""The model that a run starts from: a receipt, a checkpoint or a name."""

from zipfile import ZipFile

import pytest
import torch
from entrances import ENTRANCES
from parents import checkpoint, parent

from computemeter import receipt_match
from computemeter.base_model import BaseModel
from computemeter.options import Options

pytestmark = pytest.mark.usefixtures("no_environment")


@ENTRANCES
def test_base_model_may_be_a_receipt_and_is_read_at_once(build, tmp_path):
    path, receipt = parent(tmp_path)
    (tmp_path / "last.ckpt").touch()
    givens = [path, str(path), tmp_path, str(tmp_path / "last.ckpt"), tmp_path / "last.ckpt"]
    kept = [build(base_model=given).base for given in givens]
    path.unlink()  # the run goes on with what it read
    assert kept == 5 * [BaseModel("small", flops=70, receipt=receipt.hash)]
    assert build(base_model=kept[0]).base == kept[0]


def test_a_receipt_without_a_name_goes_by_its_run(tmp_path):
    path, _ = parent(tmp_path, name="")
    assert str(Options(base_model=path).base) == "8c2b"


def test_the_lineage_of_a_parent_may_be_unknown(tmp_path):
    path, receipt = parent(tmp_path, lineage_flops=None)
    assert Options(base_model=path).base == BaseModel("small", None, receipt.hash)
    assert Options(base_model=path, base_flops=5).base == BaseModel("small", 5, receipt.hash)


@ENTRANCES
def test_base_flops_must_agree_with_the_receipt(build, tmp_path):
    path, receipt = parent(tmp_path)
    assert build(base_model=path, base_flops=70.0).base == BaseModel("small", 70, receipt.hash)
    with pytest.raises(ValueError, match=r"its receipt .* says that base_model='small' took 70:"):
        build(base_model=path, base_flops=30)


@ENTRANCES
def test_a_damaged_receipt_is_an_error_at_once(build, tmp_path):
    path, _ = parent(tmp_path)
    path.write_text(path.read_text()[:-20])
    for given in (path, str(tmp_path)):
        with pytest.raises(ValueError, match=r"base_model=.*: cut short") as raised:
            build(base_model=given)
        assert "\n" not in str(raised.value)


def test_other_json_is_an_error(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="other JSON, not a compute receipt"):
        Options(base_model=str(path))


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "meta-llama/Llama-3-8B",
        "google/gemma/pyTorch/2b",
        "entity/project/model:v3",
        "models:/small/3",
        "yolov8n.pt",
        "x" * 5000,
        "a\0b",
    ],
)
def test_a_text_that_leads_nowhere_is_a_name(name):
    assert Options(base_model=name).base == BaseModel(name)
    assert Options(base_model=name, base_flops=2**90 + 1).base == BaseModel(name, 2**90 + 1)


def test_a_model_without_a_receipt_is_a_name_with_a_note(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    base = Options(base_model="llama").base
    assert (base.name, base.flops) == ("llama", None)
    assert base.note == (
        "base_model='llama': there is no compute_receipt.json with it; the lineage is not known "
        "without base_flops= or the path of a receipt"
    )
    assert not Options(base_model="llama", base_flops=5).base.note


def two_runs(folder):
    """Write the receipts of two runs, of which the second is the latest."""
    _, first = parent(folder, run="first", lineage_flops=50)
    path, second = parent(folder, run="second")
    return path, first, second


def test_the_receipt_is_that_of_the_checkpoints_run(tmp_path):
    _, first, second = two_runs(tmp_path)
    for run, receipt in (("first", first), ("second", second)):
        for place in (tmp_path / f"{run}.ckpt", tmp_path / "checkpoints" / f"{run}.ckpt"):
            assert Options(base_model=checkpoint(place, run)).base.receipt == receipt.hash
    site = checkpoint(tmp_path / "site.ckpt", None, content={"computemeter-site": {"run": "first"}})
    assert Options(base_model=site).base.receipt == first.hash


def test_a_checkpoint_which_may_be_large_is_opened_once(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(receipt_match, "ZipFile", lambda file: opened.append(file) or ZipFile(file))
    _, first, _ = two_runs(tmp_path)
    path = checkpoint(tmp_path / "last.ckpt", "first")
    assert BaseModel.read(path).receipt == first.hash
    assert opened == [path]


def test_a_nearer_receipt_of_another_run_is_passed_by(tmp_path):
    _, own = parent(tmp_path, run="own")
    parent(tmp_path / "checkpoints", run="other")
    path = checkpoint(tmp_path / "checkpoints" / "last.ckpt", "own")
    assert Options(base_model=path).base.receipt == own.hash


def test_the_receipt_of_an_earlier_run_is_not_a_killed_runs(tmp_path):
    parent(tmp_path, run="earlier")
    path = checkpoint(tmp_path / "last.ckpt", "killed", run_flops=15)
    assert Options(base_model=str(path)).base == BaseModel("killed", flops=15)


def not_a_lightning_file(path):
    path.write_bytes(b"weights")


def without_a_meter(path):
    checkpoint(path, None)


def of_something_else(path):
    torch.save([1, {"callbacks": 3}], path)


@pytest.mark.parametrize("write", [not_a_lightning_file, without_a_meter, of_something_else])
def test_a_checkpoint_that_does_not_say_whose_it_is(tmp_path, write):
    path = tmp_path / "last.ckpt"
    write(path)
    receipt = parent(tmp_path, run="first")[1]
    assert Options(base_model=path).base.receipt == receipt.hash  # there is no other
    latest, first, second = two_runs(tmp_path)
    base = Options(base_model=path).base
    assert (base.flops, base.receipt) == (None, None)
    assert base.note.endswith(
        "receipts of several runs lie with it; the lineage is not known without base_flops= or "
        "the path of a receipt"
    )
    kept = tmp_path / f"compute_receipt-{first.hash[7:19]}.json"
    assert Options(base_model=kept).base.receipt == first.hash
    assert Options(base_model=latest).base.receipt == second.hash
    assert Options(base_model=tmp_path).base.receipt == second.hash  # the latest


def test_a_damaged_receipt_is_an_error_for_a_checkpoint_too(tmp_path):
    path, _ = parent(tmp_path, run="own")
    path.write_text(path.read_text()[:-20])
    for file in (checkpoint(tmp_path / "last.ckpt", "own"), checkpoint(tmp_path / "x.ckpt", None)):
        with pytest.raises(ValueError, match="cut short"):
            Options(base_model=file)


def test_the_run_is_read_from_what_lightning_writes(tmp_path):
    from lightning.pytorch import Trainer
    from lightning.pytorch.demos.boring_classes import BoringModel

    from computemeter.lightning import ComputeMeter

    def fit(name, **options):
        meter = ComputeMeter(verbose=0, **options)
        trainer = Trainer(
            default_root_dir=tmp_path,
            max_steps=2,
            callbacks=[meter],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        trainer.fit(BoringModel())
        trainer.save_checkpoint(tmp_path / name)
        return meter.summary()

    first, second = fit("first.ckpt"), fit("second.ckpt", base_flops=1000)
    assert Options(base_model=tmp_path / "first.ckpt").base.flops == first.run_flops > 0
    assert Options(base_model=tmp_path / "second.ckpt").base.flops == second.run_flops + 1000


def test_a_checkpoint_that_is_not_there_is_a_name_with_a_note():
    base = Options(base_model="runs/small/last.ckpt").base
    assert (base.name, base.flops) == ("runs/small/last.ckpt", None)
    assert "there is no such file, so it is taken as a name" in base.note


def test_the_base_of_a_run_that_starts_from_none(tmp_path):
    assert Options().base is None
    assert Options(base_flops=5.0).base == BaseModel("", 5)
    assert type(Options(base_flops=5.0).base.flops) is int


def test_the_credentials_of_a_base_model_are_hidden():
    assert Options(base_model="s3://key:s3cret@bucket/llama").base.name == "s3://***@bucket/llama"
    with pytest.raises(ValueError, match="no such file") as raised:
        Options(base_model="https://key:s3cret@host/receipt.json")
    assert "s3cret" not in str(raised.value)
