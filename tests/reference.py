"""Reads the API reference in `docs/api`, and the docstrings of what it describes."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from textwrap import dedent

from computemeter import Meter

ROOT = Path(__file__).parents[1]
_ENTRY = re.compile(r"^::: (computemeter\w*(?:\.\w+)+)((?:\n(?: {4}.*)?)*)", re.MULTILINE)

METERS = {
    "computemeter.Meter": {"log_every", "total_steps"},
    "computemeter.lightning.ComputeMeter": {"loss_key"},
    "computemeter.keras.ComputeMeter": {"log_freq", "log_to_history"},
}
"""What a user makes, and the options that it has besides those of all meters."""


def read_reference():
    """Find the objects of the reference, and of some the members that it shows, else None."""
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    found = {}
    for name, options in (entry for page in pages for entry in _ENTRY.findall(page.read_text())):
        members = re.search(r"members: \[(.*)\]", options)
        found[name] = re.findall(r"\w+", members[1]) if members else None
    return found


REFERENCE = read_reference()


def look_up(name):
    """Import what a full name is of."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last)


def own(value):
    """Name the public methods and properties of a class that this project wrote, not its bases."""
    written = [each for each in inspect.getmro(value) if each.__module__.startswith("computemeter")]
    kinds = (property, classmethod, staticmethod)
    return {
        name
        for each in written
        for name, inner in vars(each).items()
        if not name.startswith("_") and (inspect.isroutine(inner) or isinstance(inner, kinds))
    }


def functions(name):
    """Find the functions that the reference describes under a name, by their names."""
    value, members = look_up(name), REFERENCE[name]
    if inspect.isfunction(value):
        return {name: value}
    if not inspect.isclass(value):
        return {}
    shown = own(value) if members is None else own(value) & set(members)
    return {f"{name}.{member}": _function(value, member) for member in shown}


def _function(owner, member):
    value = inspect.getattr_static(owner, member)
    return inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", value))


def undescribed_methods(name):
    """Find the methods of a meter that are neither described nor a framework's hooks.

    A `Meter` has some besides, which the integrations drive it by.
    """
    meter = look_up(name)
    texts = (path.read_text() for path in (ROOT / "integrations").rglob("*.py"))
    driven = set(re.findall(r"meter\.(\w+)", "".join(texts))) if meter is Meter else set()
    hooks = {each for base in meter.__bases__ for each in dir(base) if each not in own(base)}
    return own(meter) - hooks - driven - set(REFERENCE[name])


def parameters(value):
    """Name what a function or class is called with."""
    return [name for name in inspect.signature(value).parameters if name not in {"self", "cls"}]


def explained(text, section):
    """Name what a section of a docstring has an entry for."""
    found = re.search(rf"^{section}:\n((?:(?:    .*)?\n?)*)", text, re.MULTILINE)
    return re.findall(r"^    \**(\w+)(?: \(.*\))?:", found[1], re.MULTILINE) if found else []


def raised(value):
    """Name the errors that a function raises in its own lines."""
    tree = ast.parse(dedent(inspect.getsource(value)))
    errors = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    return {ast.unparse(getattr(error, "func", error)) for error in errors}


def gaps(value):
    """Say what a function's docstring leaves out, or tells of that is not there."""
    text = inspect.getdoc(value)
    if not text:
        return ["no docstring"]
    arguments, named = parameters(value), explained(text, "Args")
    # One argument may be told of in the sentence.
    wrong = set(arguments) ^ set(named) if named or len(arguments) > 1 else set()
    return sorted(wrong | (raised(value) - set(explained(text, "Raises"))))
