"""What README.md and the pages of docs/ say is so: code and commands run, links lead somewhere.

Python runs in the order of a page, in one namespace and an empty folder; `document_setups` has
what it takes for granted. Commands run in a folder with real records: `REPLACED` has what stands
there for a page's sources, `PARSED` the commands that no test can run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from document_commands import OURS, check, options_of, run_ours
from document_setups import SENTENCES, SETUPS, VARYING, records, run_named
from documents import (
    PAGES,
    ROOT,
    SHELL,
    Command,
    Part,
    check_link,
    command_of,
    commands,
    parts,
)

from computemeter.peak_table import read_table

PARTS = [part for page in PAGES for part in parts(page)]
BLOCKS = [part for part in PARTS if part.kind == "block"]
MODEL = next(b.text for b in BLOCKS if b.page.name == "disclosure.md" and b.language == "toml")
NOT_RUN = {"json", "text", "toml"}

# A page with one of these has a process to itself: they change what later tests would meet.
ALONE = r"keras|mlflow\.\w+\(|wandb\.init|accelerate|custom_op|register_formula|environ"

SLOW_PAGES = {"docs/quickstart-keras.md", "docs/verdicts.md"}

# What pages call their sources, and what stands for it.
REPLACED = {
    r"http://(host|localhost|mlflow\.example):5000": "sqlite:///{folder}/mlflow.db",
    r"sqlite:///mlflow\.db": "sqlite:///{folder}/mlflow.db",
    r"wandb://entity/project": "{folder}/wandb",
    r"8c2b1e6f0d7a4f53a1c9": "{run}",
}
# Commands of which only the options are checked, and why.
PARSED = {r"--to wandb://": "there is no server of W&B here"}
# Names that look like commands: of a file's kind.
NO_COMMANDS = {"computemeter receipt"}
SLOW = {
    r"doctor.* --devices": "starts every framework",
    r"doctor.* --measure": "multiplies large matrices",
}


def of_language(*languages):
    """Parametrise a test by the blocks of these languages."""
    chosen = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: block.place)


def matches(table, command):
    return any(re.search(pattern, command.text) for pattern in table)


# Python


def python_of(page):
    return "".join(b.text for b in BLOCKS if b.page == page and b.language == "python")


PYTHON = {str(page.relative_to(ROOT)): python_of(page) for page in PAGES if python_of(page)}


def marked_slow(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW_PAGES else name


@pytest.mark.parametrize("name", [marked_slow(name) for name in PYTHON])
def test_python_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if re.search(ALONE, PYTHON[name]):
        in_a_process(name)
    else:
        run_named(name)


def in_a_process(name):
    code = "import sys, document_setups as d; d.run_named(sys.argv[1])"
    quiet = {"MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3", "WANDB_SILENT": "true"}
    own = {"PYTHONPATH": str(ROOT / "tests"), "KERAS_BACKEND": "jax", "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        env={**os.environ, **own, **quiet},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_every_exception_is_of_a_page_with_python():
    assert {*SETUPS, *VARYING, SENTENCES, *SLOW_PAGES} <= PYTHON.keys()


# Files


@of_language("json")
def test_json_is_json(block):
    assert json.loads(block.text)


@of_language("toml")
def test_toml_is_read_by_what_it_is_for(block, folder):
    content = tomllib.loads(block.text)
    if "device" in content:
        assert read_table(block.text)
    elif "run" in content:
        Path("model.toml").write_text(folder.replaced(block.text))
        run_ours(Command(block.place, ("computemeter", "report", "--model", "model.toml")))


def test_every_language_is_known():
    assert not [b.place for b in BLOCKS if b.language not in {*SHELL, "python", *NOT_RUN}]


# Commands


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder with real records, and the id of the run in its database."""

    path: Path
    run: str

    def replaced(self, text):
        """Return a text with what stands here for a page's sources."""
        for pattern, instead in REPLACED.items():
            text = re.sub(pattern, instead.format(folder=self.path, run=self.run), text)
        return text


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        return Folder(path, records())


@pytest.fixture
def folder(recorded, tmp_path, monkeypatch):
    """Go to a copy of the records."""
    copy = Folder(shutil.copytree(recorded.path, tmp_path / "copy", symlinks=True), recorded.run)
    monkeypatch.chdir(copy.path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("model.toml").write_text(copy.replaced(MODEL))
    return copy


def run_block(block, folder, *, slow):
    """Check every command of a block, and run ours."""
    for command in commands(block):
        check(command)
        if command.program != "computemeter" or matches(PARSED, command):
            continue
        if matches(SLOW, command) == slow:
            here = tuple(folder.replaced(word) for word in command.words)
            run_ours(Command(command.place, here, command.shown))


@of_language(*SHELL)
def test_commands_run(block, folder):
    run_block(block, folder, slow=False)


def all_commands():
    return [(b, c) for b in (*BLOCKS, *EXAMPLES) if b.language in SHELL for c in commands(b)]


@pytest.mark.slow
def test_slow_commands_run(folder):
    for block in {block for block, command in all_commands() if matches(SLOW, command)}:
        run_block(block, folder, slow=True)


@pytest.mark.parametrize("pattern", [*PARSED, *SLOW])
def test_every_exception_is_of_a_command(pattern):
    assert any(re.search(pattern, command.text) for _block, command in all_commands())


def example(name):
    """Return the example in a command's help, as a block of a page."""
    text = OURS.commands[name].epilog
    assert text.startswith("Example: ")
    return Part(Path(f"computemeter {name} --help"), 1, "block", text.removeprefix("Example: "))


EXAMPLES = [example(name) for name in OURS.commands]


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.place)
def test_the_example_in_the_help_runs(block, folder):
    run_block(block, folder, slow=False)


# In sentences


def test_commands_named_in_sentences_exist():
    spans = [part for part in PARTS if part.kind == "code" and part.text not in NO_COMMANDS]
    named = [command for part in spans if (command := command_of(part))]
    assert named
    for command in named:
        check(command, named=True)


def test_options_named_in_sentences_exist():
    known = set().union(*(options_of(command) for command in OURS.commands.values()))
    named = [part for part in PARTS if part.kind == "code" and part.text.startswith("--")]
    assert named
    assert not [part.place for part in named if re.split(r"[ =]", part.text)[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for part in PARTS:
        if part.page == page and part.kind == "link":
            check_link(part)
