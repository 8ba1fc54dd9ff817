"""The wheel in fresh environments, with each extra alone and with none."""

import json
import shutil
import sys
import venv

import pytest
import torch
from extras import USES
from releases import CONSTRAINTS, ROOT, build, install, run

import computemeter
from computemeter import Meter

pytestmark = pytest.mark.slow

# What each extra brings: with "mlflow" comes all that "trend" needs.
BRINGS = {
    "": set(),
    "torch": {"torch"},
    "lightning": {"torch", "lightning", "numpy"},
    "keras": {"keras", "numpy"},
    "mlflow": {"mlflow", "trend", "numpy"},
    "nvidia": {"nvidia"},
    "trend": {"trend", "numpy"},
    "wandb": {"wandb"},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    [path] = build(tmp_path_factory.mktemp("dist")).glob("*.whl")
    return path


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Skip where nothing can be fetched; what fails after this is a failure."""
    command = ("-m", "pip", "download", "-q", "--no-deps", "-c", CONSTRAINTS, "typer")
    try:
        run(sys.executable, *command, cwd=tmp_path_factory.mktemp("registry"))
    except AssertionError as error:
        pytest.skip(f"no package can be fetched here: {str(error).strip().splitlines()[0]}")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """Return the ledger of a run of two steps: in each 2*2*4*3 forward, and as much for dW."""
    folder = tmp_path_factory.mktemp("run") / "compute_ledger"
    model = torch.nn.Linear(4, 3)
    with Meter(ledger=folder, trackers=None, verbose=0) as meter:
        for _ in range(2):
            with meter.step():
                model(torch.ones(2, 4)).sum().backward()
    return folder


class Environment:
    """A fresh environment with the wheel and one extra in it, or none, and a ledger beside it."""

    def __init__(self, extra, wheel, folder):
        self.extra, self.has, self.folder = extra, BRINGS[extra], folder
        venv.create(folder / "env", with_pip=False, symlinks=True)
        self.binaries = folder / "env/bin"
        if "torch" in self.has:
            self.install("torch")
        self.install(f"{wheel}[{extra}]" if extra else wheel)

    def install(self, *wanted):
        install(self.binaries / "python", *wanted, cwd=self.folder)

    def python(self, *arguments, code=0):
        return self._run("python", "-c", *arguments, code=code)

    def command(self, words, code=0):
        return self._run("computemeter", *words.split(), code=code)

    def _run(self, program, *arguments, code):
        return run(
            self.binaries / program,
            *arguments,
            cwd=self.folder,
            code=code,
            HOME=str(self.folder),
            PYTHONPATH="",
            PYTHONWARNINGS="ignore",  # torch's own, where there is no numpy
            PYTHONDONTWRITEBYTECODE="",  # installed uncompiled, and started many times
            OMP_NUM_THREADS="1",
            KERAS_BACKEND="jax",
            WANDB_MODE="offline",
        )


@pytest.fixture(scope="module", params=BRINGS)
def fresh(request, wheel, registry, ledger, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    shutil.copytree(ledger, folder / "compute_ledger")
    yield Environment(request.param, wheel, folder)
    shutil.rmtree(folder)


def only(*extras):
    """Run a test in these environments alone."""
    return pytest.mark.parametrize("fresh", extras, indirect=True)


# What a command asks for, and the extras that it needs: the first that is missing is named.
COMMANDS = {
    "doctor": ["torch"],
    "doctor --devices --measure": ["torch"],
    "doctor --ops": ["torch"],
    "runs sqlite:///none.db": ["mlflow"],
    "runs http://127.0.0.1:9": ["mlflow"],
    "runs wandb://me/digits": ["wandb"],
    "report a --source sqlite:///none.db --no-cache": ["mlflow"],
    "push compute_ledger --to sqlite:///none.db": ["mlflow"],
    "push compute_ledger --to wandb://me/digits": ["wandb"],
    "trend compute_ledger -o page.html": ["trend"],
    "trend compute_ledger -o page.png": ["trend"],
    "trend compute_ledger --json": ["numpy"],  # it draws nothing
    "trend compute_ledger --publish --to sqlite:///none.db": ["trend", "mlflow"],
    "trend compute_ledger --publish --to wandb://me/digits": ["trend", "wandb"],
    "plan --operations 1e9 --samples 1M --batch 256 --device A100 --plot plan.png": ["trend"],
}
STATEMENTS = {
    "import computemeter.lightning": ["lightning"],
    "import computemeter_lightning": ["lightning"],
    "import computemeter.keras": ["keras"],
    "import computemeter_keras": ["keras"],
    "from computemeter import Meter; Meter.count(len, [])": ["torch"],
    "import computemeter; computemeter.register_formula('mylib::op', len)": ["torch"],
    "from computemeter_mlflow import MLflowSink; MLflowSink(tracking_uri='', run_id='a')": [
        "mlflow"
    ],
    "from computemeter.planning.step_time import check_installed; check_installed()": ["trend"],
    "from computemeter.planning.plan_plot import plot; plot(None)": ["trend"],
}

# One process for all of a kind: to start one takes longer than all they say.
COMMAND_BY_COMMAND = """
import contextlib, io, json, sys
from computemeter.cli import main

said = {}
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words.split()
    streams = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            main()
        except SystemExit as ending:
            said[words] = [ending.code, *(stream.getvalue() for stream in streams)]
print(json.dumps(said))
"""
ONE_BY_ONE = """
import json, sys

said = {}
for statement in json.loads(sys.argv[1]):
    try:
        exec(statement)
    except ModuleNotFoundError as error:
        said[statement] = str(error)
print(json.dumps(said))
"""


def closed(doors, fresh):
    """Name the doors that an environment cannot open, each with the extra that would open it."""
    offers = {"numpy": "trend"}
    missing = {
        door: [each for each in need if each not in fresh.has] for door, need in doors.items()
    }
    return {door: offers.get(each[0], each[0]) for door, each in missing.items() if each}


def test_the_wheel_is_what_is_imported_and_its_version_is_told(fresh):
    told = fresh.python("import computemeter; print(computemeter.__file__)").stdout
    assert told.startswith(str(fresh.folder / "env"))
    assert fresh.command("--version").stdout == f"computemeter {computemeter.__version__}\n"


def test_doctor_looks_at_the_devices(fresh):
    done = fresh.command("doctor --devices")
    assert f"computemeter       {computemeter.__version__}\n" in done.stdout
    assert ("PyTorch  not installed" in done.stdout) is ("torch" not in fresh.has)
    assert ("NVML  not installed" in done.stdout) is ("nvidia" not in fresh.has)
    assert "Traceback" not in done.stderr


def test_a_command_of_another_extra_says_in_one_line_what_to_install(fresh):
    doors = closed(COMMANDS, fresh)
    said = json.loads(fresh.python(COMMAND_BY_COMMAND, json.dumps([*doors])).stdout)
    for words, extra in doors.items():
        code, out, error = said[words]
        [line] = error.splitlines()
        assert f"pip install 'computemeter[{extra}]'" in line
        assert (code, out) == (1, "")


def test_a_statement_of_another_extra_says_in_one_line_what_to_install(fresh):
    doors = closed(STATEMENTS, fresh)
    said = json.loads(fresh.python(ONE_BY_ONE, json.dumps([*doors])).stdout)
    for statement, extra in doors.items():
        assert said[statement].endswith(f"pip install 'computemeter[{extra}]'")
        assert "\n" not in said[statement]


# After the doors: what Keras runs on brings more than the extra does.
def test_what_the_extra_is_for_works(fresh):
    USES[fresh.extra](fresh)


@only("")
def test_every_entry_point_loads_without_its_tracker(fresh):
    text = (
        "from importlib.metadata import distribution\n"
        "for point in distribution('computemeter').entry_points:\n"
        "    print(point.group, point.name, callable(point.load()))"
    )
    told = fresh.python(text).stdout.splitlines()
    assert sorted(told) == [
        "computemeter.destinations mlflow True",
        "computemeter.destinations wandb True",
        "computemeter.publishers mlflow True",
        "computemeter.publishers wandb True",
        "computemeter.sinks mlflow True",
        "computemeter.sinks wandb True",
        "computemeter.sources mlflow True",
        "computemeter.sources wandb True",
        "console_scripts computemeter True",
        "lightning.pytorch.callbacks_factory computemeter True",
        "pytorch_lightning.callbacks_factory computemeter True",
    ]


@only("")
def test_the_core_reads_reckons_and_reports_without_any_extra(fresh):
    [told] = json.loads(fresh.command("runs compute_ledger --json").stdout)["runs"]
    assert told["run_flops"] == 192  # 2 steps of 48 + 48
    assert "compute** | 1.9e2 | 192 |" in fresh.command("report compute_ledger").stdout
    sized = "--operations 1e9 --samples 1M --batch 256 --device A100"
    assert json.loads(fresh.command(f"plan {sized} --json").stdout)["flops"] == 3 * 10**15


PYRIGHT = {
    "typeCheckingMode": "strict",
    "enableTypeIgnoreComments": False,  # those are mypy's
    "reportUnnecessaryTypeIgnoreComment": "error",
}


@only("lightning", "keras")
def test_type_checkers_understand_a_user_of_the_wheel(fresh, tmp_path):
    # In a folder of its own: neither the checkout nor its settings are to be seen.
    shutil.copy(ROOT / "tests/consumer.py", tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    python = fresh.binaries / "python"
    mypy = ("mypy", "--strict", "--config-file=", "--python-executable", python)
    run(sys.executable, "-m", *mypy, "consumer.py", cwd=tmp_path)
    run(sys.executable, "-m", "basedpyright", "--pythonpath", python, "consumer.py", cwd=tmp_path)
