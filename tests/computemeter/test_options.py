"""Bad configuration fails at once, and says what was given and what is accepted."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from entrances import ENTRANCES

from computemeter import Meter
from computemeter.base_model import BaseModel
from computemeter.options import Options, check_count

pytestmark = pytest.mark.usefixtures("no_environment")

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
