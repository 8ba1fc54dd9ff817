"""Importing computemeter is light, and all that it promises is there."""

import inspect
import subprocess
import sys

import pytest

import computemeter

HEAVY = (
    "torch",
    "lightning",
    "pytorch_lightning",
    "keras",
    "jax",
    "tensorflow",
    "mlflow",
    "wandb",
    "numpy",
    "rich",
)


def run(code):
    """Run code in a clean interpreter; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import computemeter",
        "from computemeter import Count, Device, RunRecord, Snapshot, Summary, pfs_days",
        "from computemeter import flops_from_gpu_time, flops_from_operations",
        "from computemeter import Meter; Meter(trackers='auto', verbose=0)",
    ],
)
def test_it_imports_no_framework_and_no_tracker(statement):
    code = f"import sys\n{statement}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert run(code) == "[]"


def test_the_check_for_imports_would_see_one():
    assert (
        run(f"import sys, numpy\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))") == "['numpy']"
    )


def test_a_meter_without_a_step_needs_no_torch():
    code = """
import sys
sys.modules["torch"] = None
from computemeter import Meter
with Meter(ledger=None, trackers=None, verbose=0) as meter:
    pass
print(meter.summary().steps)
"""
    assert run(code) == "0"


@pytest.mark.parametrize("name", computemeter.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(computemeter, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__name__ == name
        # A dataclass without one has a docstring of its own: its signature.
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}(")


def test_public_methods_are_documented():
    meter = computemeter.Meter
    public = [name for name in dir(meter) if not name.startswith("_")]
    assert {"step", "pause", "validation", "add_flops", "count", "summary"} <= set(public)
    assert [name for name in public if not getattr(meter, name).__doc__] == []


def test_the_list_of_public_names_is_complete_and_ordered():
    assert set(computemeter._HOMES) | {"__version__"} == set(computemeter.__all__)
    assert len(set(computemeter.__all__)) == len(computemeter.__all__)


def test_a_star_import_gives_the_public_names():
    code = "from computemeter import *\nprint(PFS_DAY, Meter.__name__, sorted(dir())[:2])"
    assert run(code) == "86400000000000000000 Meter ['Count', 'Device']"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'computemeter' has no attribute 'Metre'"):
        _ = computemeter.Metre
    with pytest.raises(ImportError, match="cannot import name 'Metre'"):
        from computemeter import Metre  # noqa: F401
    assert not hasattr(computemeter, "torch")


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert computemeter.__version__ == version("computemeter")


def test_the_door_to_lightning_opens():
    from computemeter.lightning import ComputeMeter
    from computemeter_lightning import ComputeMeter as Other

    assert ComputeMeter is Other
    assert ComputeMeter.__doc__


@pytest.mark.parametrize(
    "statement",
    ["from computemeter.lightning import ComputeMeter", "import computemeter_lightning"],
)
def test_without_lightning_the_door_says_what_to_install(statement):
    code = f"""
import sys
sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
try:
    {statement}
except ImportError as error:
    print(error)
"""
    assert "pip install 'computemeter[lightning]'" in run(code)


@pytest.mark.parametrize(
    ("missing", "used"),
    [("lightning", "pytorch_lightning"), ("pytorch_lightning", "lightning.pytorch")],
)
def test_either_namespace_of_lightning_will_do(missing, used):
    code = f"""
import sys
sys.modules[{missing!r}] = None
from computemeter.lightning import ComputeMeter
import {used}
print(issubclass(ComputeMeter, {used}.Callback))
"""
    assert run(code) == "True"


def test_an_error_inside_lightning_is_not_taken_for_its_absence(tmp_path):
    # A broken installation must say what is broken.
    package = tmp_path / "lightning"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "pytorch.py").write_text("import a_module_that_is_missing\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.modules["pytorch_lightning"] = None
try:
    from computemeter.lightning import ComputeMeter
except ImportError as error:
    print(error)
"""
    assert run(code) == "No module named 'a_module_that_is_missing'"


RANDOM = """
import random, sys
import torch
from computemeter import Meter

random.seed(0)
before = random.getstate()
with Meter(ledger=None, trackers="auto") as meter:
    with meter.step(torch.ones(2, 3)):
        torch.ones(2, 3) @ torch.ones(3, 4)
assert "rich" in sys.modules
assert random.getstate() == before
"""


def test_the_first_line_and_the_table_draw_no_random_numbers():
    # rich draws from Python's generator when it is imported, which is in the middle of a run.
    assert "Compute of this run" in run(RANDOM)
