"""Sinks are found, checked and attached without a tracker in sight."""

import math
import subprocess
import sys

import pytest

from computemeter import sinks
from computemeter.sinks import (
    RunContext,
    Sink,
    attach_all,
    describe,
    finite,
    redact,
    sink_name_of,
    validate_trackers,
)


class Recorder:
    """A sink that records; what a third party would write."""

    def __init__(self, name="recorder", run_id="run-1"):
        self.name, self.run_id = name, run_id
        self.rows, self.tags = [], {}

    def log(self, metrics, *, step, time):
        self.rows.append((step, time, dict(metrics)))

    def tag(self, tags):
        self.tags.update(tags)

    def close(self, timeout=5.0):
        return 0


class Point:
    """An installed entry point."""

    def __init__(self, name, attach):
        self.name, self._attach = name, attach

    def load(self):
        return self._attach


def no_run(context):
    return None


def broken(context):
    raise ConnectionError("cannot reach\nhttp://ann:s3cret@host:5000/api")


@pytest.fixture
def installed(monkeypatch):
    """Install sinks by name, in place of those of the environment."""

    def install(**attach_functions):
        points = [Point(name, attach) for name, attach in attach_functions.items()]
        monkeypatch.setattr(sinks, "entry_points", lambda group: points)

    return install


def context_of(warnings):
    return RunContext(warn=warnings.append)


def test_auto_attaches_every_sink_that_finds_a_run(installed):
    installed(one=lambda context: Recorder("one"), two=lambda context: Recorder("two"), off=no_run)
    warnings = []
    attached = attach_all("auto", context_of(warnings))
    assert [sink.name for sink in attached] == ["one", "two"]
    assert warnings == []


def test_none_attaches_nothing(installed):
    installed(one=lambda context: Recorder())
    assert attach_all(None, RunContext()) == []
    assert attach_all([], RunContext()) == []


def test_names_and_ready_made_sinks_mix(installed):
    installed(one=lambda context: Recorder("one"), two=lambda context: Recorder("two"))
    mine = Recorder("mine")
    attached = attach_all(["two", mine], RunContext())
    assert [sink.name for sink in attached] == ["mine", "two"]
    assert attached[0] is mine


def test_a_run_is_written_to_once(installed):
    installed(one=lambda context: Recorder("one", "run-1"))
    mine = Recorder("one", "run-1")
    assert attach_all(["one", mine], RunContext()) == [mine]
    assert len(attach_all(["one", Recorder("one", "run-2")], RunContext())) == 2


def test_a_sink_that_fails_is_warned_of_and_left_out(installed):
    installed(bad=broken, good=lambda context: Recorder("good"))
    warnings = []
    attached = attach_all("auto", context_of(warnings))
    assert [sink.name for sink in attached] == ["good"]
    assert warnings == [
        "the sink 'bad' could not attach: ConnectionError: cannot reach http://***@host:5000/api"
    ]


def test_a_sink_asked_for_by_name_that_finds_no_run_is_warned_of(installed):
    installed(off=no_run)
    warnings = []
    assert attach_all(["off"], context_of(warnings)) == []
    assert warnings == ["the sink 'off' found no run to write to"]


def test_what_is_no_sink_is_left_out(installed):
    installed(odd=lambda context: "not a sink")
    warnings = []
    assert attach_all("auto", context_of(warnings)) == []
    assert len(warnings) == 1


@pytest.mark.parametrize("trackers", [["mlflw"], "mlflw", "one", ("one", "mlflw")])
def test_an_unknown_name_is_refused_with_what_is_accepted(installed, trackers):
    installed(one=lambda context: Recorder())
    with pytest.raises(ValueError, match=r"trackers.*accepted are \"auto\", None.*\('one'\)"):
        validate_trackers(trackers)
    with pytest.raises(ValueError, match="trackers"):
        attach_all(trackers, RunContext())


@pytest.mark.parametrize("trackers", [5, [5], [Recorder], Recorder(), [object()]])
def test_a_wrong_type_is_refused(installed, trackers):
    installed(one=lambda context: Recorder())
    with pytest.raises(TypeError, match="trackers"):
        validate_trackers(trackers)


def test_validated_trackers_may_be_attached_again_and_again(installed):
    installed(one=lambda context: Recorder("one"))
    trackers = validate_trackers(name for name in ["one"])
    assert trackers == ("one",)
    assert validate_trackers(trackers) == trackers
    assert validate_trackers("auto") == "auto"
    assert validate_trackers(None) == ()


def test_the_sinks_of_this_distribution_are_installed():
    assert {"mlflow", "wandb"} <= set(sinks._installed())


def test_loggers_are_known_by_the_name_of_any_base():
    class MLFlowLogger:
        pass

    class Mine(MLFlowLogger):
        pass

    class WandbLogger:
        pass

    assert sink_name_of(Mine()) == "mlflow"
    assert sink_name_of(WandbLogger()) == "wandb"
    assert sink_name_of(object()) is None


def test_a_recorder_is_a_sink():
    assert isinstance(Recorder(), Sink)


def test_only_finite_values_are_kept():
    huge = 10**400  # no float is as large
    values = {"a": 1, "nan": math.nan, "inf": math.inf, "minus": -math.inf, "zero": 0.0, "x": huge}
    assert finite(values) == {"a": 1.0, "zero": 0.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host:5000/api", "http://host:5000/api"),
        ("http://ann:s3cret@host:5000/api", "http://***@host:5000/api"),
        ("postgresql://ann:p@ss/w:rd@db/mlflow", "postgresql://***@db/mlflow"),
        ("https://t0ken@host failed", "https://***@host failed"),
        ("db?user=ann&password=s3cret&x=1", "db?user=ann&password=***&x=1"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("mail ann@example.com", "mail ann@example.com"),
    ],
)
def test_credentials_are_hidden(text, expected):
    assert redact(text) == expected


NAMES = [
    *("password", "passwd", "pass", "pwd", "sslpassword", "token", "access_token", "auth_token"),
    *("secret", "client_secret", "api_key", "apikey", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"),
    *("aws_secret_access_key", "AccountKey", "X-Amz-Signature", "X-Amz-Credential", "sig"),
]
IN_TEXT = [
    *("{}=hunter2", "db?user=ann&{}=hunter2&x=1", "odbc_connect=UID%3Dsa%3B{}%3Dhunter2&x=1"),
    *("connect({}='hunter2 of ann', x=1)", '{}="hunter2", x=1'),
]
AS_ENTRIES = ['{{"{}": "hunter2", x=1}}', "{{'{}': 'it\\'s hunter2', x=1}}", "{}: hunter2 x=1"]
WORDS_TOO = {"pass", "X-Amz-Signature", "X-Amz-Credential", "sig"}


@pytest.mark.parametrize("name", NAMES)
def test_the_value_of_a_secret_is_hidden_whatever_its_name_and_form(name):
    forms = IN_TEXT if name in WORDS_TOO else [*IN_TEXT, *AS_ENTRIES]
    for each in (name, name.upper(), name.lower()):
        for form in forms:
            shown = redact(form.format(each))
            assert "hunter2" not in shown
            assert each in shown
            assert ("x=1" in shown) == ("x=1" in form)
            assert redact(shown) == shown


@pytest.mark.parametrize("scheme", ["Bearer ", "Basic ", "Token ", ""])
def test_a_header_of_authorization_is_hidden(scheme):
    for text in ("Authorization: {}s3cret== x", "{{'Authorization': '{}s3cret=='}} x"):
        shown = redact(text.format(scheme))
        assert "s3cret" not in shown
        assert shown.endswith("x")


@pytest.mark.parametrize(
    "text",
    [
        "tokens=1000 max_tokens=2 tokenizer=gpt2",
        "12 tokens: 3 ms",
        "the forward pass: 3 ms, bypass=1, compass=north",
        "key=7 keys: 3, monkey=1",
        "the signature: (3, 4)",
        "secrets of the trade",
        '{"steps":3,"model_flops":7,"cause":"none"}',
        "/data/token/run.jsonl C:/pwd/x",
        "a token is missing",
    ],
)
def test_what_is_no_credential_is_shown(text):
    assert redact(text) == text


def test_a_long_message_is_searched_in_no_time():
    # Quadratic time would be hours.
    for text in (
        "x" * 10**6,
        "token" * 10**5,
        "token=" + "\\" * 10**6,
        "pwd " * 10**5 + " " * 10**6,
    ):
        redact(text)


def test_an_error_is_one_bounded_line():
    line = describe(RuntimeError("x\n" * 5000))
    assert "\n" not in line
    assert len(line) < 400


def test_no_tracker_is_imported():
    script = """
import sys
import computemeter.delivery, computemeter.ledger, computemeter.sinks
import computemeter_mlflow, computemeter_wandb
from computemeter.sinks import RunContext, attach_all
assert attach_all("auto", RunContext()) == []
assert not {"mlflow", "wandb", "torch", "numpy", "requests"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
