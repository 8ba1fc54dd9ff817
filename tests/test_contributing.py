"""The table in CONTRIBUTING.md says where things live: all of them, and nothing that is gone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def named():
    """Find the files and patterns of the table; a bare name lies where the one before it does."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Where things live")[2].partition("\n## ")[0]
    folder = ""
    for row in re.findall(r"^\| (`.*?\.py`|`.*?/`) \|", section, flags=re.MULTILINE):
        for name in re.findall(r"`(.*?)`", row):
            folder = name.rpartition("/")[0] or folder
            last = name.rpartition("/")[2] or "*.py"
            yield f"{folder}/{last}"


def modules():
    """Find the modules; of a package that is a folder alone, what is in it."""
    for folder in ("computemeter", "integrations"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__init__.py":
                yield path


def test_every_module_has_a_place_in_the_table():
    placed = {path for pattern in named() for path in ROOT.glob(pattern)}
    assert sorted(str(path.relative_to(ROOT)) for path in {*modules()} - placed) == []


def test_what_the_table_names_exists():
    patterns = [*named()]
    assert "computemeter/meter.py" in patterns
    assert [pattern for pattern in patterns if not any(ROOT.glob(pattern))] == []
