"""The house: which module may import which, and what is loaded when.

LAYERS is the architecture in one table. A module imports from its own row and from rows above it,
also inside functions.
"""

import ast
import re
import tomllib
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest
from imports import read_imports

ROOT = Path(__file__).parents[1]
CORE = ROOT / "computemeter"

LAYERS = {
    "arithmetic, and tools that know no other module": """
        formulas units estimate evidence row_space strict_json
        sinks patches randomness switch _version""",
    "what numbers are kept in, and how they are written": "records forecast reading wording table",
    "devices and their peaks": "devices peaks peak_table peak_files cpu",
    "counting a step, predicting a count": "counters counters.* book families closed_form*",
    "time and energy": "clock host_time *_clock nvml utilization activity energy",
    "judging": "reconcile appendix",
    "what is left on disk, and read back": """
        ledger ledger_* segments history receipt receipt_match base_model carried run_tags
        sources csv_files loss_curve loss_figure""",
    "one run, as it goes on": """
        options failures delivery ending journal ranks rank_reports
        run_reading results run_receipt telling""",
    "the meter": "step_meter run_meter meter",
    "before a run, and over many": "planning planning.* trend trend.* disclosure disclosure.*",
    "frameworks and trackers": "computemeter_* computemeter_*.*",
    "the doors": "lightning keras site",
    "the command line": "commands commands.* cli cli_* __main__",
    "the public names": "computemeter",
}
"""From low to high. Names are those below `computemeter`, as patterns."""

DOORS = {"computemeter.lightning", "computemeter.keras", "computemeter.site"}
"""What in the core may import an integration: what users write, and what Lightning looks up."""

NAMED = {
    "computemeter/planning/probe.py": {"computemeter_keras._probe", "computemeter_lightning._probe"}
}
"""Modules of integrations that the core imports by a name in a text; others are entry points."""

SIBLINGS = {
    "planning": {"trend.estimated"},  # devices, by the names that trackers keep
    "disclosure": {"trend.collect"},  # the team's runs, each once
    "trend": set(),
}
"""What these packages may use of each other."""

LOADED = {
    "torch": """
        counters.torch_* planning._torch_probe computemeter_keras._torch
        lightning computemeter_lightning computemeter_lightning.*""",
    "jax": "counters.jax_* jax_clock computemeter_keras._jax",
    "tensorflow": "tensorflow_clock computemeter_keras._tensorflow computemeter_keras._executions",
    "keras": "keras computemeter_keras computemeter_keras.*",
    "numpy": """
        counters.tf_* trend.regression trend.still
        computemeter_keras._probe computemeter_keras._tensorflow""",
    "sqlalchemy": "computemeter_mlflow._sql",
}
"""What an extra installs -> the modules whose import may load it. All else is imported late."""


@pytest.fixture(scope="module")
def imports():
    return read_imports(CORE, *(ROOT / "integrations").glob("computemeter_*"))


def short(module):
    return module.removeprefix("computemeter.")


def package(module):
    return short(module).partition(".")[0]


def rows(module):
    """Find the rows of LAYERS that a module is in, from 0."""
    return [
        row
        for row, names in enumerate(LAYERS.values())
        if any(fnmatchcase(short(module), name) for name in names.split())
    ]


def upward(imports):
    """Find the imports of a module in a higher row."""
    return [
        (module, name)
        for module in imports.ever
        for name in imports.ours(module, ever=True)
        if rows(name) > rows(module)
    ]


def cycle(imports):
    """Find modules that import each other in a ring when they are imported."""
    try:
        TopologicalSorter({module: imports.ours(module) for module in imports.loading}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_module_is_in_one_row(imports):
    assert [module for module in imports.ever if len(rows(module)) != 1] == []


def test_every_name_in_the_rows_is_of_a_module(imports):
    names = " ".join(LAYERS.values()).split()
    assert len(names) > 50
    unused = [name for name in names if not any(fnmatchcase(short(m), name) for m in imports.ever)]
    assert unused == []


def test_imports_lead_downward(imports):
    assert upward(imports) == []


def test_no_module_imports_itself_in_a_ring(imports):
    assert cycle(imports) == []


@pytest.mark.parametrize("module", next(iter(LAYERS.values())).split())
def test_the_lowest_modules_import_nothing_of_ours(module, imports):
    assert imports.ours(f"computemeter.{module}", ever=True) == set()


def test_records_load_units_and_forecasts_alone(imports):
    # A forecast's refits are kept from the run's random draws.
    loaded = {short(module) for module in imports.loaded_by("computemeter.records")}
    assert loaded == {"records", "forecast", "units", "randomness"}


def test_the_core_meets_integrations_at_its_doors_alone(imports):
    met = {
        module
        for module in imports.ever
        if module.startswith("computemeter.")
        for name in imports.ours(module, ever=True)
        if name.startswith("computemeter_")
    }
    assert met == DOORS


def test_the_core_names_few_modules_of_integrations(imports):
    named = {}
    for path in CORE.rglob("*.py"):
        texts = (str(getattr(node, "value", "")) for node in ast.walk(ast.parse(path.read_bytes())))
        found = {text for text in texts if re.fullmatch(r"computemeter_[\w.]+", text)}
        if found:
            named[str(path.relative_to(ROOT))] = found
    assert named == NAMED
    assert set().union(*NAMED.values()) <= set(imports.ever)


def test_entry_points_are_functions_of_ours(imports):
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    homes = {point.partition(":")[0] for group in groups.values() for point in group.values()}
    assert "computemeter_wandb._source" in homes
    assert homes <= set(imports.ever)


def test_integrations_do_not_import_each_other(imports):
    crossing = [
        (module, name)
        for module in imports.ever
        if module.startswith("computemeter_")
        for name in imports.ours(module, ever=True)
        if name.startswith("computemeter_") and package(name) != package(module)
    ]
    assert crossing == []


@pytest.mark.parametrize("of", SIBLINGS)
def test_what_siblings_use_of_each_other_is_listed(of, imports):
    used = {
        short(name)
        for module in imports.ever
        if package(module) == of
        for name in imports.ours(module, ever=True)
        if package(name) in SIBLINGS and package(name) != of
    }
    assert used == SIBLINGS[of]


def test_what_an_extra_installs_is_imported_late(imports):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    always = {re.split(r"[>=]", line)[0] for line in project["dependencies"]}
    loading = {
        (library, short(module))
        for module in imports.loading
        for inner in imports.loaded_by(module)
        for library in imports.foreign(inner) - always
    }
    listed = {
        (library, short(module))
        for library, names in LOADED.items()
        for module in imports.loading
        if any(fnmatchcase(short(module), name) for name in names.split())
    }
    assert loading - listed == set()
    assert {library for library, _ in loading} == set(LOADED)


def test_only_the_command_line_knows_typer(imports):
    knowing = {short(m) for m in imports.ever if "typer" in imports.foreign(m, ever=True)}
    assert knowing == {"cli", "cli_output", "cli_planning", "cli_runs"}


MODULES = {
    "units.py": "",
    "records.py": """
        from typing import TYPE_CHECKING
        from computemeter import units
        if TYPE_CHECKING:
            from computemeter.meter import Meter
        else:
            Meter = None
        """,
    "meter.py": """
        import json, torch.nn
        def step():
            from computemeter.cli import main
        """,
    "cli.py": "import computemeter.meter\nfrom computemeter import __main__",
    "__main__.py": "class Inner:\n    from computemeter.cli import main",
}


def test_the_reader_finds_imports_wherever_they_are(tmp_path):
    package = tmp_path / "computemeter"
    package.mkdir()
    for name, code in MODULES.items():
        (package / name).write_text(dedent(code))
    found = read_imports(package)
    assert found.ours("computemeter.records", ever=True) == {"computemeter.units"}
    assert found.ours("computemeter.meter") == set()
    assert found.foreign("computemeter.meter") == {"torch"}
    assert found.loaded_by("computemeter.__main__") == {
        f"computemeter.{name}" for name in ("__main__", "cli", "meter")
    }
    assert upward(found) == [("computemeter.meter", "computemeter.cli")]
    assert set(cycle(found)) == {"computemeter.__main__", "computemeter.cli"}
