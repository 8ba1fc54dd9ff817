"""What is public: named in the reference, with a docstring that is complete, and used in a test.

The reference is what `docs/api` describes; all else may change without notice. The meter for Keras,
which needs a backend, is looked at in `tests/backends`.
"""

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from documents import PAGES, parts
from reference import (
    METERS,
    REFERENCE,
    ROOT,
    explained,
    functions,
    gaps,
    look_up,
    parameters,
    undescribed_methods,
)

import computemeter
from computemeter.cli import app
from computemeter.options import Options, OptionValues

KERAS = "computemeter.keras.ComputeMeter"
NAMES = [name for name in REFERENCE if name != KERAS]
SHOWN = {"computemeter.peaks.explain_unknown"}
"""What a page prints with a part of the inside, as no run of its own would say it."""


@pytest.fixture(scope="module")
def used():
    """Find every name that a test reads, imports, gives a value to in a call, or has as a text."""
    kinds = {
        ast.Name: "id",
        ast.Attribute: "attr",
        ast.keyword: "arg",
        ast.alias: "name",
        ast.Constant: "value",
    }
    return {
        str(getattr(node, kinds[type(node)]))
        for path in (ROOT / "tests").rglob("test_*.py")
        if path != Path(__file__)
        for node in ast.walk(ast.parse(path.read_bytes()))
        if type(node) in kinds
    }


def test_every_public_name_is_in_the_reference():
    names = {f"computemeter.{name}" for name in computemeter.__all__ if name != "__version__"}
    assert names | set(METERS) <= set(REFERENCE)


def test_what_pages_import_is_in_the_reference():
    blocks = [part for page in PAGES for part in parts(page) if part.language == "python"]
    imported = {
        f"{node.module}.{alias.name}": block.place
        for block in blocks
        for node in ast.walk(ast.parse(block.text))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("computemeter")
        for alias in node.names
    }
    assert len(imported) > 10
    described = [look_up(name) for name in NAMES]
    others = set(imported) - {*REFERENCE, *SHOWN}
    inside = [name for name in others if not any(look_up(name) is each for each in described)]
    assert {name: imported[name] for name in inside} == {}


@pytest.mark.parametrize("name", [name for name in METERS if name != KERAS])
def test_a_meter_explains_its_options_and_shows_its_methods(name):
    meter = look_up(name)
    assert set(parameters(meter)) == METERS[name] | {"options"}
    assert gaps(meter) == []
    # What integrations drive a meter by, and a framework's hooks, are not for users.
    assert undescribed_methods(name) == set()


def test_options_are_typed_as_they_are_checked():
    assert list(get_type_hints(OptionValues)) == [each.name for each in fields(Options)]


def test_every_option_is_told_of_and_tested(used):
    options = {each.name for each in fields(Options)}.union(*METERS.values())
    told = set(re.findall(r"\b(\w+)=", "".join(page.read_text() for page in PAGES)))
    assert options - told == set()
    assert options - used == set()


def test_every_option_of_the_command_line_is_given_in_a_test():
    # Commands on pages are run, see `tests/test_documents.py`.
    others = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    text = "".join(path.read_text() for path in (*others, *PAGES))
    given = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))
    commands = typer.main.get_command(app).commands
    spelled = [
        (name, {*option.opts, *option.secondary_opts})
        for name, command in commands.items()
        for option in command.params
        if option.param_type_name == "option"
    ]
    assert len(spelled) > 50
    assert [(name, ways) for name, ways in spelled if not ways & given] == []


@pytest.mark.parametrize("name", NAMES)
def test_what_is_public_is_explained(name):
    value = look_up(name)
    if inspect.isclass(value):
        assert inspect.getdoc(value)
    if is_dataclass(value):
        told = explained(inspect.getdoc(value), "Attributes")
        assert sorted(told) == sorted(each.name for each in fields(value))
    assert {inner: gaps(each) for inner, each in functions(name).items() if gaps(each)} == {}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_public_is_used_in_a_test(name, used):
    value = look_up(name)
    # A record is what a function returns, and a fixed set of words what a field holds.
    record = [each.name for each in fields(value)] if is_dataclass(value) else []
    own_name = [name.rpartition(".")[2]] if not record else []
    needed = {*(get_args(value) or own_name), *record}
    needed |= {inner.rpartition(".")[2] for inner in functions(name)}
    assert needed - used == set()


def complete(first, *rest):
    """Do nothing.

    Args:
        first: a number, which
            may be: anything.
        *rest: numbers.

    Raises:
        KeyError: never.
    """
    if first:
        raise KeyError(rest)


def incomplete(*_):
    """Do nothing.

    Args:
        gone: a number.
    """
    raise OSError


def bare(first, second):
    """Do nothing."""


def test_gaps_in_a_docstring_are_found():
    assert gaps(complete) == []
    assert gaps(incomplete) == ["OSError", "_", "gone"]
    assert gaps(bare) == ["first", "second"]
    assert gaps(lambda first: first) == ["no docstring"]
