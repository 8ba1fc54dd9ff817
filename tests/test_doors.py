"""A framework's meter is announced wherever people look: installed, documented and pinned.

Its door is a module of `computemeter` that imports an integration; a new one is found by itself.
"""

import re
import tomllib
from pathlib import Path

import pytest
from extras import USES
from imports import read_imports

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"all", "dev", "docs"}


def doors():
    """Find the frameworks that a module of the core is the door to."""
    found = read_imports(ROOT / "computemeter", *(ROOT / "integrations").glob("computemeter_*"))
    return sorted(
        door.removeprefix("computemeter.")
        for door in found.ever
        for integration in found.ours(door)
        if integration == door.replace(".", "_")
    )


def required(extra):
    """Name what an extra installs itself, without what it has from other extras of ours."""
    names = {re.split(r"[\[<>=;]", line)[0] for line in EXTRAS[extra]}
    return names - {"computemeter"}


def read(path):
    return (ROOT / path).read_text("utf-8")


def test_the_doors_are_found():
    assert {"keras", "lightning"} <= set(doors())


@pytest.mark.parametrize("door", doors())
def test_a_framework_has_an_extra_of_its_name(door):
    assert door in EXTRAS


@pytest.mark.parametrize("door", doors())
def test_a_framework_is_in_the_readme_and_in_the_reference(door):
    assert f"from computemeter.{door} import ComputeMeter" in read("README.md")
    assert f"::: computemeter.{door}.ComputeMeter" in read("docs/api/meters.md")
    assert f"`{door}`" in read("README.md").partition("\nExtras: ")[2].partition("\n")[0]


def test_every_extra_for_users_is_in_all_of_them():
    [line] = EXTRAS["all"]
    listed = set(re.fullmatch(r"computemeter\[(.*)\]", line)[1].split(","))
    # Lightning brings PyTorch.
    assert listed == EXTRAS.keys() - FOR_DEVELOPERS - {"torch"}


def test_every_extra_for_users_is_tried_in_a_fresh_environment():
    assert USES.keys() - {""} == EXTRAS.keys() - FOR_DEVELOPERS


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - FOR_DEVELOPERS))
def test_what_an_extra_installs_is_pinned(extra):
    pinned = set(re.findall(r"^([\w.-]+)==", read("constraints.txt"), re.MULTILINE))
    assert required(extra) - pinned == set()
