"""Reads which module imports which from the source, without importing any of it."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Graph = Mapping[str, frozenset[str]]
"""Modules by their full name -> what they import, as modules where they are ours."""


@dataclass(frozen=True, slots=True)
class Imports:
    """Who imports what.

    Attributes:
        loading: what a module imports when it is imported itself.
        ever: and what its functions import when they are called. What only a type checker reads
            is in neither.
    """

    loading: Graph
    ever: Graph

    def ours(self, module: str, *, ever: bool = False) -> set[str]:
        """Name the modules of this project that a module imports."""
        return {name for name in (self.ever if ever else self.loading)[module] if name in self.ever}

    def foreign(self, module: str, *, ever: bool = False) -> set[str]:
        """Name the top packages, neither ours nor Python's, that a module imports."""
        named = (self.ever if ever else self.loading)[module] - self.ours(module, ever=ever)
        return {name.partition(".")[0] for name in named} - sys.stdlib_module_names

    def loaded_by(self, module: str) -> set[str]:
        """Name a module and all modules of ours that importing it imports."""
        found, todo = {module}, [module]
        while todo:
            new = self.ours(todo.pop()) - found
            found |= new
            todo += new
        return found


def read_imports(*packages: Path) -> Imports:
    """Read the imports of all modules of some packages, given by their folders."""
    files = {_name(path, package): path for package in packages for path in package.rglob("*.py")}
    trees = {name: ast.parse(path.read_bytes()) for name, path in files.items()}
    loading = {name: _named(tree, files, later=False) for name, tree in trees.items()}
    ever = {name: _named(tree, files, later=True) for name, tree in trees.items()}
    return Imports(loading, ever)


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _named(tree: ast.AST, ours: Mapping[str, Path], *, later: bool) -> frozenset[str]:
    return frozenset(
        name
        for node in _executed(tree, later=later)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _targets(node, ours)
    )


def _executed(tree: ast.AST, *, later: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (each for other in node.orelse for each in _with_inner(other, later=later))
        elif later or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _with_inner(node, later=later)


def _with_inner(node: ast.AST, *, later: bool) -> Iterator[ast.AST]:
    yield node
    yield from _executed(node, later=later)


def _targets(node: ast.Import | ast.ImportFrom, ours: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        yield inner if inner in ours else f"{node.module}"
