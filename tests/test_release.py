"""What is released: what is in the sdist and in the wheel, and what they say of themselves."""

import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from releases import ROOT, build, run

import computemeter

PACKAGES = {
    "computemeter": ROOT / "computemeter",
    **{folder.name: folder for folder in ROOT.glob("integrations/computemeter_*")},
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def content(dist):
    """Return the wheel's files."""
    [wheel] = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(content):
    [text] = (text for name, text in content.items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(text)


def test_the_wheel_has_every_file_of_the_five_packages_and_no_other(content):
    assert len(PACKAGES) == 5
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    about = {name: text for name, text in content.items() if ".dist-info/" in name}
    assert {name for name in content if name not in about} == set(expected)
    assert content == expected | about
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(content)
    assert {"computemeter/data/peaks.toml", "computemeter/trend/static/page.html"} <= set(content)
    # A database or a picture left in a package would be released with it.
    kinds = {Path(name).suffix for name in expected}
    assert kinds == {".py", ".typed", ".toml", ".js", ".css", ".html"}


def test_the_licence_comes_with_it(content, metadata):
    [licence] = (text for name, text in content.items() if name.endswith("licenses/LICENSE"))
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert b"Apache License" in licence


def test_the_version_is_written_in_one_place(dist, metadata):
    version = computemeter.__version__
    assert metadata["Version"] == version
    assert {path.name for path in dist.iterdir()} == {
        f"computemeter-{version}.tar.gz",
        f"computemeter-{version}-py3-none-any.whl",
    }
    elsewhere = [
        path
        for path in (ROOT / "pyproject.toml", *ROOT.glob("computemeter/**/*.py"))
        if re.search(rf"""["']{re.escape(version)}["']""", path.read_text())
    ]
    assert elsewhere == [ROOT / "computemeter/_version.py"]


def test_the_changelog_has_a_section_for_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    section = rf"^## {re.escape(computemeter.__version__)}\b.*\n+- "
    assert re.search(section, changelog, re.MULTILINE)


def test_the_classifiers_exist_and_are_true(metadata):
    from trove_classifiers import classifiers

    given = metadata.get_all("Classifier")
    assert set(given) <= classifiers
    # The versions of Python that the tests are run with.
    versions = {each for each in given if re.search(r"Python :: 3\.\d+$", each)}
    assert versions == {"Programming Language :: Python :: 3.11"}
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in given


def test_twine_finds_nothing_to_complain_of(dist):
    done = run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist)
    assert done.stdout.count("PASSED") == 2


def test_the_sdist_has_what_the_tests_need_and_nothing_that_git_ignores(dist):
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("Makefile", "constraints.txt", ".ci/run", "tests/test_release.py", "README.md"):
        assert name in names
    for folder in ("benchmarks/results/", "docs/", "examples/", "integrations/"):
        assert any(name.startswith(folder) for name in names)
    ignored = re.compile(
        r"__pycache__|\.pyc$|mlflow\.db|mlruns|\.venv|(^|/)wandb/|_ledger/|egg-info"
    )
    assert [name for name in names if ignored.search(name)] == []
