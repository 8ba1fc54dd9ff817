"""Bad configuration fails at once, and says what was given and what is accepted."""

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from computemeter import Meter
from computemeter.base_model import BaseModel
from computemeter.options import Options, check_count
from computemeter.receipt import ComputeReceipt, write_receipt


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("COMPUTEMETER_")]:
        monkeypatch.delenv(name)


def from_options(**given):
    return Options.from_user(given)


def from_meter(**given):
    return Meter(**given).options


ENTRANCES = pytest.mark.parametrize("build", [from_options, from_meter])

BAD_VALUES = [
    # (option, value, what the message says is accepted)
    *(("peak_flops", bad, "FLOP/s of one device above 0") for bad in (-1, 0, "1e12", True, 1j)),
    *(("peak_flops", bad, "above 0") for bad in (math.nan, math.inf, -math.inf, [1e12], 0.0)),
    *(
        ("peak_flops", bad, "a TOML file of peaks")
        for bad in ("", "1e12", Path("no/such.toml"), b"x")
    ),
    *(("assumed_utilization", bad, r"a share in \(0, 1\]") for bad in (3, 0, -1, 1.01, "0.3")),
    *(("assumed_utilization", bad, "a share") for bad in (math.nan, math.inf, True)),
    *(("warn_at", bad, "a factor above 1") for bad in (0.5, 1, 0, -2, math.nan, "2", None, True)),
    *(("alarm_at", bad, "a factor above 1") for bad in (0.5, 1, math.inf, "3", None)),
    *(
        ("settle_steps", bad, "a whole number of at least 0")
        for bad in (-1, math.nan, "50", None, False)
    ),
    *(("settle_seconds", bad, "0 or more") for bad in (-0.1, math.inf, "30", None)),
    *(("base_flops", bad, "FLOP, 0 or more") for bad in (-1, math.nan, math.inf, "1e20", True)),
    *(("base_model", bad, "a name, or the path") for bad in ("", 3, b"llama", ["llama"], True)),
    *(
        ("base_model", bad, "no such file or folder")
        for bad in ("/no/such", "./no", "../no", "~no/such", "receipts/no.json", Path("no/such"))
    ),
    *(("project", bad, "a text") for bad in ("", 3, ["a"])),
    *(("team", bad, "a text") for bad in ("", 3.0)),
    *(("verbose", bad, "0, 1 and 2") for bad in (5, -1, "1", None, 0.5)),
    ("trackers", "mlflow", "auto"),  # a text that is not "auto" is not taken for letters
    ("trackers", ["nope"], "no sink is named 'nope'"),
    ("trackers", ["auto"], "no sink is named 'auto'"),
    ("ledger", "", "'auto', a folder, or None"),
]

WRONG_TYPES = [
    ("trackers", 3, "auto"),
    ("trackers", [3], "neither a name nor a sink"),
    ("trackers", [object], "neither a name nor a sink"),
    ("ledger", 3, "'auto', a folder, or None"),
    ("ledger", True, "'auto', a folder, or None"),
    ("ledger", ["runs"], "'auto', a folder, or None"),
]


@ENTRANCES
@pytest.mark.parametrize(("name", "bad", "accepted"), BAD_VALUES, ids=repr)
def test_a_bad_value_is_named_with_what_is_accepted(build, name, bad, accepted):
    with pytest.raises(ValueError, match=accepted) as raised:
        build(**{name: bad})
    message = str(raised.value)
    assert name in message
    (shown,) = bad if isinstance(bad, list) and name == "trackers" else (bad,)
    assert repr(shown) in message
    assert "\n" not in message


@ENTRANCES
@pytest.mark.parametrize(("name", "bad", "accepted"), WRONG_TYPES, ids=repr)
def test_a_wrong_type_is_named_with_what_is_accepted(build, name, bad, accepted):
    with pytest.raises(TypeError, match=accepted) as raised:
        build(**{name: bad})
    assert name in str(raised.value)


@ENTRANCES
@pytest.mark.parametrize("bad", ["yes", 3, None, 0.5])
def test_alert_is_true_or_false(build, bad):
    with pytest.raises(ValueError, match="alert"):
        build(alert=bad)


@ENTRANCES
def test_steps_are_whole(build):
    with pytest.raises(ValueError, match="settle_steps"):
        build(settle_steps=0.5)


@ENTRANCES
def test_alarm_comes_after_warn(build):
    with pytest.raises(ValueError, match=r"alarm_at=3\.0 is below warn_at=5") as raised:
        build(warn_at=5)
    assert "at least warn_at" in str(raised.value)
    with pytest.raises(ValueError, match=r"alarm_at=1\.5 is below warn_at=2\.0"):
        build(alarm_at=1.5)
    assert build(warn_at=4, alarm_at=4).alarm_at == 4


@ENTRANCES
def test_an_unknown_option_is_a_type_error_that_lists_all(build):
    with pytest.raises(TypeError, match=r"unknown option 'colour'; accepted are") as raised:
        build(colour="red")
    for name in ("peak_flops", "assumed_utilization", "warn_at", "ledger", "trackers", "verbose"):
        assert name in str(raised.value)
    assert "did you mean" not in str(raised.value)


@ENTRANCES
@pytest.mark.parametrize(
    ("typo", "meant"),
    [("peak_flop", "peak_flops"), ("assumed_utilisation", "assumed_utilization"), ("warn", None)],
)
def test_a_typo_gets_a_hint(build, typo, meant):
    with pytest.raises(TypeError, match=f"unknown option '{typo}'") as raised:
        build(**{typo: 1})
    hint = f"(did you mean '{meant}'?)" if meant else "unknown"
    assert hint in str(raised.value)


def test_an_unknown_option_of_a_meter_lists_the_meters_own():
    with pytest.raises(TypeError, match="did you mean 'log_every'") as raised:
        Meter(log_evry=10)
    assert "log_every" in str(raised.value).partition("accepted are")[2]


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        Meter(1e12)
    with pytest.raises(TypeError):
        Options(1e12)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "50", None, True, math.nan])
def test_log_every_is_a_whole_number_of_at_least_one(bad):
    with pytest.raises(ValueError, match=r"log_every=.*: accepted is a whole number of at least 1"):
        Meter(log_every=bad)
    with pytest.raises(ValueError, match=f"steps={bad!r}"):
        check_count("steps", bad)


@ENTRANCES
def test_good_values_are_kept(build, tmp_path):
    given = {
        "peak_flops": 989e12,
        "assumed_utilization": 1,
        "warn_at": 1.5,
        "alarm_at": 10,
        "settle_steps": 0,
        "settle_seconds": 0,
        "base_flops": 2**100 + 1,
        "base_model": BaseModel("llama-2-7b"),
        "project": "vision",
        "team": "a team with spaces, ümläute and [markup]",
        "ledger": tmp_path,
        "alert": True,
        "verbose": 0,
    }
    options = build(**given, trackers=None)
    assert {name: getattr(options, name) for name in given} == given
    assert options.trackers == ()


@ENTRANCES
def test_the_defaults(build):
    options = build()
    assert options == Options()
    assert (options.warn_at, options.alarm_at) == (2.0, 3.0)
    assert (options.settle_steps, options.settle_seconds) == (50, 30.0)
    assert (options.ledger, options.trackers, options.verbose) == ("auto", "auto", 1)
    assert options.peak_flops is options.assumed_utilization is options.base_flops is None


@pytest.mark.parametrize("peak", [np.float32(1e12), np.int64(10**12), Fraction(10**12), 10**30])
def test_numbers_of_any_real_type_are_accepted(peak):
    assert Options(peak_flops=peak).peak_flops == peak


@ENTRANCES
@pytest.mark.parametrize("path_type", [str, Path])
def test_peak_flops_may_be_a_file_and_is_read_at_once(build, path_type, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[device]]\nname = "Z9"\naliases = ["z9"]\ntflops = { fp32 = 2.5 }')
    kept = build(peak_flops=path_type(path)).peak_flops
    path.unlink()  # the run goes on with what it read
    assert (kept.name, kept.find("NVIDIA Z9").peaks) == ("mine.toml", {"fp32": 2.5e12})
    assert build(peak_flops=kept).peak_flops == kept


@ENTRANCES
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"fp32 = \n", r"Invalid value \(at line 1, column 8\)"),
        (b'[[device]]\nname = "Z9"\n', "Z9: aliases, tflops missing"),
        (b'[[device]]\nname = "a\\nb"\n', "a b: aliases, tflops missing"),
        (b"", "this one has none"),
        (b"\xff", "can't decode"),
    ],
)
def test_a_file_that_is_no_table_is_an_error_with_its_reason(build, text, complaint, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=complaint) as raised:
        build(peak_flops=str(path))
    message = str(raised.value)
    assert message.startswith(f"peak_flops={str(path)!r}: accepted is FLOP/s of one device above 0")
    assert "a TOML file of peaks (the form is that of computemeter/data/peaks.toml)" in message
    assert "\n" not in message


def test_a_folder_is_no_file_of_peaks(tmp_path):
    with pytest.raises(ValueError, match="Is a directory"):
        Options(peak_flops=tmp_path)


# The model that a run starts from.


def parent(folder, **changes):
    """Write the receipt of a run that did 30 of the 70 FLOP of its lineage."""
    values = {
        "run": "8c2b",
        "segments": ("20260314T0926Z-1f0e",),
        "name": "small",
        "status": "finished",
        "steps": 3,
        "run_flops": 30,
        "spent_flops": 40,
        "lineage_flops": 70,
        "model_flops": 40,
        "gpu_time_flops": None,
        "ratio": None,
        "verdict": "unknown",
        "cause": "no_peak",
        "diagnosis": "",
        "device_hours": 0.5,
        "device_name": None,
        "device_count": 1,
        "peak_flops": None,
        "assumed_utilization": None,
        "precision": None,
    }
    receipt = ComputeReceipt(**{**values, **changes})
    return write_receipt(folder, receipt), receipt


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
    with pytest.raises(ValueError, match=r"base_flops=30 and the receipt of base_model='small'"):
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


def checkpoint(path, run, **content):
    """Write what Lightning does; without a run no meter was attached."""
    state = {"schema": 1, "run": run, "segments": {}}
    callbacks = {"computemeter": state} if run else {}
    path.parent.mkdir(exist_ok=True)
    torch.save({"state_dict": {"w": torch.ones(9)}, "callbacks": callbacks, **content}, path)
    return path


def test_the_receipt_is_that_of_the_checkpoints_run(tmp_path):
    _, first, second = two_runs(tmp_path)
    for run, receipt in (("first", first), ("second", second)):
        for place in (tmp_path / f"{run}.ckpt", tmp_path / "checkpoints" / f"{run}.ckpt"):
            assert Options(base_model=checkpoint(place, run)).base.receipt == receipt.hash
    site = checkpoint(tmp_path / "site.ckpt", None, **{"computemeter-site": {"run": "first"}})
    assert Options(base_model=site).base.receipt == first.hash


def test_a_nearer_receipt_of_another_run_is_passed_by(tmp_path):
    _, own = parent(tmp_path, run="own")
    parent(tmp_path / "checkpoints", run="other")
    path = checkpoint(tmp_path / "checkpoints" / "last.ckpt", "own")
    assert Options(base_model=path).base.receipt == own.hash


def test_the_receipt_of_an_earlier_run_is_not_a_killed_runs(tmp_path):
    parent(tmp_path, run="earlier")
    base = Options(base_model=str(checkpoint(tmp_path / "last.ckpt", "killed"))).base
    assert (base.flops, base.receipt) == (None, None)
    assert "the compute_receipt.json with it is of another run; the lineage is not" in base.note


def not_a_lightning_file(path):
    path.write_bytes(b"weights")


def without_a_meter(path):
    checkpoint(path, None)


def with_code_in_it(path):
    checkpoint(path, "first", hparams=Path)


def of_something_else(path):
    torch.save([1, {"callbacks": 3}], path)


@pytest.mark.parametrize(
    "write", [not_a_lightning_file, without_a_meter, with_code_in_it, of_something_else]
)
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


def test_trackers_given_as_an_iterator_can_be_read_twice():
    options = Options(trackers=(name for name in ["mlflow"]))
    assert options.trackers == ("mlflow",)
    assert options.trackers == ("mlflow",)


def test_further_meters_need_no_file_again(tmp_path):
    file = tmp_path / "peaks.toml"
    file.write_text('[[device]]\nname = "Z9"\naliases = ["z9"]\ntflops = { fp32 = 2.5 }')
    given = {"peak_flops": file, "warn_at": 2.5, "trackers": iter(["mlflow"])}
    first = Options.from_user(given)
    file.unlink()
    again = first.again(given)
    assert sorted(again) == ["peak_flops", "trackers", "warn_at"]  # and no option not given
    assert Options.from_user(again) == first


def test_options_cannot_be_changed():
    with pytest.raises(AttributeError):
        Options().verbose = 0


# The environment.


@ENTRANCES
def test_the_environment_fills_in(build, monkeypatch):
    monkeypatch.setenv("COMPUTEMETER_PROJECT", "vision")
    monkeypatch.setenv("COMPUTEMETER_TEAM", "blue")
    monkeypatch.setenv("COMPUTEMETER_LEDGER", "/data/ledgers")
    options = build()
    assert (options.project, options.team, options.ledger) == ("vision", "blue", "/data/ledgers")


@ENTRANCES
def test_arguments_win_over_the_environment(build, monkeypatch):
    monkeypatch.setenv("COMPUTEMETER_PROJECT", "vision")
    monkeypatch.setenv("COMPUTEMETER_TEAM", "blue")
    monkeypatch.setenv("COMPUTEMETER_LEDGER", "off")
    options = build(project="speech", team=None, ledger=Path("here"))
    assert (options.project, options.team, options.ledger) == ("speech", None, Path("here"))


@ENTRANCES
def test_the_environment_can_turn_the_ledger_off(build, monkeypatch):
    monkeypatch.setenv("COMPUTEMETER_LEDGER", "off")
    assert build().ledger is None


@ENTRANCES
def test_an_empty_variable_is_not_set(build, monkeypatch):
    for name in ("PROJECT", "TEAM", "LEDGER"):
        monkeypatch.setenv(f"COMPUTEMETER_{name}", "")
    options = build()
    assert (options.project, options.team, options.ledger) == (None, None, "auto")


@ENTRANCES
def test_other_variables_are_left_alone(build, monkeypatch):
    monkeypatch.setenv("COMPUTEMETER_PEAK_FLOPS", "nonsense")
    assert build() == Options()
